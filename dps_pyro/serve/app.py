"""The service: a sampler's methods over HTTP, for clients that have the key."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from dps_pyro.serve.durable import Durable, ForgottenError
from dps_pyro.serve.requests import AddRequest, InformativeRequest, ObserveRequest, RetireRequest, SelectRequest

__all__ = ["make_app"]

LARGEST = 4 << 20
"""The size of the largest request in bytes."""


def make_app(durable: Durable, key: str, *, largest: int = LARGEST) -> FastAPI:
    """Make the application. It answers requests one after the other, so that each sees the changes of those before it.

    Args:
        durable: the sampler.
        key: the key that every request has to send as `Authorization: Bearer KEY`; at least 16 characters.
        largest: the size of the largest request in bytes.

    Raises:
        ValueError: the key is too short.
    """
    if len(key) < 16:
        raise ValueError(f"key: expected at least 16 characters, got {len(key)}")

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        durable.close()

    app = FastAPI(title="dps-pyro", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    app.add_middleware(_Door, key=key, largest=largest)
    _refusals(app)
    _changes(app, durable)
    _looks(app, durable)
    return app


def _refusals(app: FastAPI) -> None:
    """Define the answers to requests that are refused."""

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = [f"{'.'.join(map(str, one['loc'][1:])) or 'request'}: {one['msg']}" for one in error.errors()[:3]]
        return JSONResponse({"error": "; ".join(found)[:1000]}, 422)

    @app.exception_handler(ValueError)
    async def refused(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)[:1000]}, 422)

    @app.exception_handler(ForgottenError)
    async def forgotten(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 409)


def _changes(app: FastAPI, durable: Durable) -> None:
    """Define the requests that change something. Each change is made once."""

    @app.post("/select")
    async def select(request: SelectRequest) -> JSONResponse:
        return JSONResponse(durable.change("select", request.model_dump()))

    @app.post("/observe")
    async def observe(request: ObserveRequest) -> JSONResponse:
        return JSONResponse(durable.change("observe", request.model_dump()))

    @app.post("/add")
    async def add(request: AddRequest) -> JSONResponse:
        return JSONResponse(durable.change("add", request.model_dump()))

    @app.post("/retire")
    async def retire(request: RetireRequest) -> JSONResponse:
        return JSONResponse(durable.change("retire", request.model_dump()))

    @app.post("/save")
    async def save() -> JSONResponse:
        durable.save()
        return JSONResponse({"changes": durable.number})


def _looks(app: FastAPI, durable: Durable) -> None:
    """Define the requests that change nothing."""
    sampler = durable.sampler

    @app.post("/informative")
    async def informative(request: InformativeRequest) -> JSONResponse:
        rows = sampler.history.locate(request.prompts)
        return JSONResponse({"chances": sampler.informative(request.trials)[rows].tolist()})

    @app.get("/metrics")
    async def metrics() -> JSONResponse:
        return JSONResponse(sampler.metrics())

    @app.get("/about")
    async def about() -> JSONResponse:
        rounds = {
            worker: max(int(name.partition(":")[0]) for name in known) for worker, known in durable.answers.items()
        }
        number = {"num_prompts": sampler.num_prompts, "step": sampler.tracker.step, "changes": durable.number}
        return JSONResponse({**number, "trials": sampler.trials, "rounds": rounds})


Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]


class _Door:
    """Admits requests that have the key and are not too large. The bodies of other requests are not read."""

    def __init__(self, app: Any, key: str, largest: int) -> None:
        self.app, self.expected, self.largest = app, f"Bearer {key}".encode(), largest

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not hmac.compare_digest(headers.get(b"authorization", b""), self.expected):
            await JSONResponse({"error": "key: expected Authorization: Bearer KEY, got none or another"}, 401)(
                scope, receive, send
            )
            return
        body = b""
        too_large = (
            headers.get(b"content-length", b"0").isdigit() and int(headers.get(b"content-length", b"0")) > self.largest
        )
        more = scope["method"] == "POST"
        while more and not too_large:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more, too_large = message.get("more_body", False), len(body) > self.largest
        if too_large:
            said = f"request: expected at most {self.largest} bytes, got more"
            await JSONResponse({"error": said}, 413, headers={"connection": "close"})(scope, receive, send)
            return
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Any:
            return given.pop() if given else await receive()

        await self.app(scope, again, send)
