"""JSON over HTTP, with time limits and second tries."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from dps_pyro.rollouts.base import EngineError

__all__ = ["RefusedError", "Server"]

_BUSY = (429, 502, 503, 504)
_LOCAL = ("localhost", "127.0.0.1", "::1")
_MOST = 1 << 30  # bytes of one answer


class RefusedError(EngineError):
    """The server answered, and not with what was asked for.

    Attributes:
        status: HTTP's.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Server:
    """A server that takes and gives JSON. Several threads may use it at a time.

    Args:
        address: http://host:port, or https.
        timeout: seconds that an answer may take, > 0.
        patience: seconds in which a server that cannot be reached, breaks off or says that it is busy is asked again,
            at growing intervals. What is asked of it must be harmless to ask twice.
        key: of the server's, where it wants one.

    Raises:
        ValueError: that is no such address.
    """

    def __init__(self, address: str, *, timeout: float, patience: float = 30.0, key: str | None = None) -> None:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"engine: expected the address of a vLLM server, http://host:port, got {address!r}")
        self.address = address.rstrip("/").removesuffix("/v1")
        self.timeout, self.patience = timeout, patience
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        # A proxy for the world outside does not know this machine's own ports.
        proxies = [urllib.request.ProxyHandler({})] if parts.hostname in _LOCAL else []
        self._opener = urllib.request.build_opener(*proxies)

    def get(self, path: str) -> Any:
        """What lies at `path`.

        Raises:
            RefusedError: the server does not give it.
            EngineError: there is no answer in time, or it is no JSON.
        """
        return self._ask("GET", path, None, self.patience)

    def post(self, path: str, body: Any, *, retry: bool = True) -> Any:
        """What the server makes of `body`; None where it answers with nothing.

        Raises:
            RefusedError: the server does not take it.
            EngineError: there is no answer in time, or it is no JSON.
        """
        return self._ask("POST", path, json.dumps(body).encode(), self.patience if retry else 0)

    def _ask(self, method: str, path: str, body: bytes | None, patience: float) -> Any:
        url = self.address + path
        end, pause = time.monotonic() + patience, 0.25
        while True:
            # The scheme was checked to be of the web.
            request = urllib.request.Request(url, body, self._headers, method=method)  # noqa: S310
            try:
                with self._opener.open(request, timeout=self.timeout) as answer:
                    return _parsed(answer.read(_MOST), url)
            except urllib.error.HTTPError as error:
                refused = RefusedError(f"{url} answered {error.code}: {_detail(error)}", error.code)
                if error.code not in _BUSY or time.monotonic() + pause > end:
                    raise refused from error
            except (OSError, http.client.HTTPException) as error:  # refused, reset, broken off, timed out
                reason = getattr(error, "reason", error)
                if isinstance(reason, TimeoutError):
                    raise EngineError(f"{url} did not answer within {self.timeout:g} seconds") from error
                if time.monotonic() + pause > end:
                    raise EngineError(f"{url} cannot be reached: {reason or type(error).__name__}") from error
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


def _parsed(text: bytes, url: str) -> Any:
    try:
        return json.loads(text) if text.strip() else None
    except ValueError as error:
        raise EngineError(f"{url}: expected JSON, got {text[:80]!r}") from error


def _detail(error: urllib.error.HTTPError) -> str:
    """What the server says of it, in a line."""
    try:
        text = error.read(10_000).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        text = ""
    try:
        found = json.loads(text)
        inner = found.get("error", found)
        text = str(inner.get("message", inner.get("detail", text)) if isinstance(inner, dict) else inner)
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:500] or str(error.reason)
