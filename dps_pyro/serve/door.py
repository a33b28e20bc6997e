"""Who is let in, and the requests that change something: they are read, made and answered without a detour.

Selecting and observing are asked for far more often than anything else. They are answered here rather than by the
framework, which would take longer than the sampler does. All other requests go on to the application.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import ValidationError

from dps_pyro.serve.durable import Durable, ForgottenError
from dps_pyro.serve.requests import AddRequest, ObserveRequest, RetireRequest, RoundRequest, SelectRequest

__all__ = ["Door", "what_is_wrong"]

CHANGES: dict[str, type[RoundRequest]] = {
    "select": SelectRequest,
    "observe": ObserveRequest,
    "add": AddRequest,
    "retire": RetireRequest,
}
Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]


def what_is_wrong(errors: list[Any], first: int = 0) -> str:
    """What is wrong with a request, in a line; `first` leaves out the beginning of each place."""
    found = [f"{'.'.join(map(str, one['loc'][first:])) or 'request'}: {one['msg']}" for one in errors[:3]]
    return "; ".join(found)[:1000]


class Door:
    """Lets in requests that bring the key and are not too large, and reads no more of the others.

    Args:
        app: the application that answers what changes nothing.
        durable: the sampler.
        key: what every request has to bring.
        largest: bytes of the largest request.
        sync: whether a change is answered only when it is on the disk, so that it outlives the machine's crash, too.
            Requests that wait at the same time share one flush.
    """

    def __init__(self, app: Any, durable: Durable, key: str, largest: int, sync: bool) -> None:
        self.app, self.durable, self.largest, self.sync = app, durable, largest, sync
        self.expected = f"Bearer {key}".encode()
        self._flushed = 0  # the changes that are known to be on the disk
        self._flushing = asyncio.Lock()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not hmac.compare_digest(headers.get(b"authorization", b""), self.expected):
            await _answer(send, 401, {"error": "key: expected Authorization: Bearer KEY, got none or another"})
            return
        body = await self._body(scope, headers, receive)
        if body is None:
            said = f"request: expected at most {self.largest} bytes, got more"
            await _answer(send, 413, {"error": said}, ((b"connection", b"close"),))
            return
        kind = scope["path"][1:]
        if scope["method"] == "POST" and kind in CHANGES:
            await _answer(send, *await self._changed(kind, body))
            return
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Any:
            return given.pop() if given else await receive()

        await self.app(scope, again, send)

    async def _body(self, scope: Any, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """The request's body; None if it is too large."""
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.largest:
            return None
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return body
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.largest:
                return None
        return body

    async def _changed(self, kind: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Make a change, and wait until it may be answered: the status and the answer."""
        try:
            answer = self.durable.change(kind, CHANGES[kind].model_validate_json(body).model_dump())
            if self.sync:
                await self._on_disk()
        except ValidationError as error:
            return 422, {"error": what_is_wrong(error.errors(include_url=False, include_input=False))}
        except ValueError as error:
            return 422, {"error": str(error)[:1000]}
        except ForgottenError as error:
            return 409, {"error": str(error)}
        except OSError as error:
            return 503, {"error": f"the service cannot keep changes any more: {error}"}
        return 200, answer

    async def _on_disk(self) -> None:
        """Wait until all changes so far are on the disk. Who comes first flushes for all that wait."""
        number = self.durable.number
        async with self._flushing:
            if self._flushed < number:
                upto = self.durable.number
                await asyncio.to_thread(self.durable.flush)
                self._flushed = upto


async def _answer(send: Send, status: int, content: Any, more: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    body = json.dumps(content, separators=(",", ":")).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
