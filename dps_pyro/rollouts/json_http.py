"""JSON over HTTP: every answer has a deadline and a largest size, and what fails for the moment is tried again.

The server is another program, and what it sends is checked like any other input. A redirect is reported and never
followed, so that the key goes to the address that the user gave and to no other.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_before_delay, wait_exponential

from dps_pyro.rollouts.base import EngineError
from dps_pyro.support.text import clean

__all__ = ["RefusedError", "Server"]

_BUSY = (429, 502, 503, 504)
_LOCAL = ("localhost", "127.0.0.1", "::1")
_AT_ONCE = 256  # requests in flight; the server has its own limit, and a queue

T = TypeVar("T")


class RefusedError(EngineError):
    """The server answered, but did not do what it was asked for.

    Attributes:
        status: The HTTP status of the answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _BusyError(RefusedError):
    """The server says that it is busy."""


class _UnreachableError(EngineError):
    """No connection, or one that broke off."""


class Server:
    """A server that takes and gives JSON. Several threads may use one object at a time.

    Args:
        address: http://host:port, or https.
        timeout: seconds that one whole answer may take, from the connection to its last byte, > 0.
        patience: seconds for which a request is repeated, at growing intervals, while the server cannot be reached,
            breaks off or says that it is busy. The requests must therefore be harmless to repeat.
        key: the server's key, where it wants one.
        most: bytes that one answer may have.

    Raises:
        ValueError: `address` is not such an address.
    """

    def __init__(
        self, address: str, *, timeout: float, patience: float = 30.0, key: str | None = None, most: int = 1 << 30
    ) -> None:
        try:
            url = httpx.URL(address)
        except httpx.InvalidURL:
            url = httpx.URL("")
        if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
            raise ValueError(f"engine: expected the address of a vLLM server, http://host:port, got {address!r}")
        self.address = address.rstrip("/").removesuffix("/v1")
        self.timeout, self.patience, self.most = timeout, patience, most
        # An answer that is sent compressed may grow without end.
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        self._headers |= {"Authorization": f"Bearer {key}"} if key else {}
        self._local = url.host in _LOCAL

    def get(self, path: str) -> Any:
        """Fetch what lies at `path`.

        Raises:
            RefusedError: the server does not give it.
            EngineError: there is no answer in time, it is too long, or it is not JSON.
        """
        return _run(self._all("GET", path, [None], self.patience))[0]

    def post(self, path: str, body: Any, *, retry: bool = True) -> Any:
        """Send `body`; returns the server's answer, None where the answer is empty.

        Raises:
            RefusedError: the server does not take it.
            EngineError: there is no answer in time, it is too long, or it is not JSON.
        """
        return _run(self._all("POST", path, [body], self.patience if retry else 0))[0]

    def post_all(self, path: str, bodies: Sequence[Any]) -> list[Any]:
        """Send every body at once, for the server to batch as it likes; returns the answers in the order of the bodies.
        The first failure ends the other requests.

        Raises:
            RefusedError: the server does not take one of them.
            EngineError: there is no answer in time, it is too long, or it is not JSON.
        """
        return _run(self._all("POST", path, bodies, self.patience))

    async def _all(self, method: str, path: str, bodies: Sequence[Any], patience: float) -> list[Any]:
        gate = asyncio.Semaphore(_AT_ONCE)
        # A proxy for the outside world does not know the ports of this machine.
        options: dict[str, Any] = {"trust_env": not self._local, "headers": self._headers, "timeout": None}
        limits = httpx.Limits(max_connections=_AT_ONCE)
        async with httpx.AsyncClient(verify=_certificates(), limits=limits, **options) as client:

            async def one(body: Any) -> Any:
                async with gate:
                    content = None if method == "GET" else json.dumps(body).encode()
                    return await self._patiently(client, method, self.address + path, content, patience)

            tasks = [asyncio.ensure_future(one(body)) for body in bodies]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _patiently(
        self, client: httpx.AsyncClient, method: str, url: str, content: bytes | None, patience: float
    ) -> Any:
        again = AsyncRetrying(
            retry=retry_if_exception_type((_BusyError, _UnreachableError)),
            wait=wait_exponential(multiplier=0.25, max=5.0),
            stop=stop_before_delay(patience),
            reraise=True,
        )
        return await again(self._once, client, method, url, content)

    async def _once(self, client: httpx.AsyncClient, method: str, url: str, content: bytes | None) -> Any:
        try:
            async with asyncio.timeout(self.timeout), client.stream(method, url, content=content) as answer:
                text = await self._body(answer, url)
        except TimeoutError as error:
            raise EngineError(f"{url} did not answer within {self.timeout:g} seconds") from error
        except (httpx.TransportError, OSError) as error:  # refused, reset, broken off
            raise _UnreachableError(f"{url} cannot be reached: {_cause(error)}") from error
        if answer.is_redirect:
            there = clean(str(answer.headers.get("location", "elsewhere")), 200)
            raise RefusedError(
                f"{url} answered {answer.status_code}: it moved to {there}; give the address that it moved to",
                answer.status_code,
            )
        if not answer.is_success:
            kind = _BusyError if answer.status_code in _BUSY else RefusedError
            said = _detail(text) or answer.reason_phrase
            raise kind(f"{url} answered {answer.status_code}: {said}", answer.status_code)
        return _parsed(text, url)

    async def _body(self, answer: httpx.Response, url: str) -> bytes:
        """The answer's bytes.

        Raises:
            EngineError: there are more than `most`, or they are compressed although that was not asked for.
        """
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise EngineError(f"{url}: expected an answer as it is, got one in {answer.headers['content-encoding']!r}")
        parts, size = [], 0
        async for part in answer.aiter_raw():
            size += len(part)
            if size > self.most:
                raise EngineError(f"{url}: expected an answer of at most {self.most:,} bytes, got more")
            parts.append(part)
        return b"".join(parts)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where the caller is within an event loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1, thread_name_prefix="http") as threads:
        return threads.submit(asyncio.run, work).result()


@cache
def _certificates() -> ssl.SSLContext:
    """The certificates that this machine trusts."""
    return ssl.create_default_context()


def _cause(error: BaseException) -> str:
    """What the system says, which the libraries wrap in errors of their own."""
    told = str(error) or type(error).__name__
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.errno is not None:
            told = os.strerror(inner.errno)
        inner = inner.__cause__ or inner.__context__
    return told


def _parsed(text: bytes, url: str) -> Any:
    try:
        return json.loads(text) if text.strip() else None
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{url}: expected JSON, got {text[:80]!r}") from error


def _detail(text: bytes) -> str:
    """The reason that the server gives, in one line."""
    said = text[:10_000].decode(errors="replace")
    try:
        found = json.loads(text)
        inner = found.get("error", found)
        said = str(inner.get("message", inner.get("detail", said)) if isinstance(inner, dict) else inner)
    except (ValueError, AttributeError, RecursionError):
        pass
    return clean(said, 500)
