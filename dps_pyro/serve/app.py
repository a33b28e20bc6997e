"""The service: a sampler's methods over HTTP, for clients that have the key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from dps_pyro.serve.door import Door, what_is_wrong
from dps_pyro.serve.durable import Durable
from dps_pyro.serve.requests import InformativeRequest

__all__ = ["make_app"]

LARGEST = 4 << 20
"""The size of the largest request in bytes."""


def make_app(durable: Durable, key: str, *, largest: int = LARGEST, sync: bool = False) -> FastAPI:
    """Make the application. It answers requests one after the other, so that each sees the changes of those before it.

    Args:
        durable: the sampler.
        key: the key that every request has to send as `Authorization: Bearer KEY`; at least 16 characters.
        largest: the size of the largest request in bytes.
        sync: whether each change is flushed to the disk before it is answered, so that it survives a crash of the
            machine, and not only one of the process. Requests that come at the same time share a flush.

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
    app.add_middleware(Door, durable=durable, key=key, largest=largest, sync=sync)
    _refusals(app)
    _looks(app, durable)
    return app


def _refusals(app: FastAPI) -> None:
    """Define the answers to requests that are refused."""

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return JSONResponse({"error": what_is_wrong(list(error.errors()), 1)}, 422)

    @app.exception_handler(ValueError)
    async def refused(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)[:1000]}, 422)


def _looks(app: FastAPI, durable: Durable) -> None:
    """Define the requests that change no belief. (`Door` answers those that do.)"""
    sampler = durable.sampler

    @app.post("/save")
    async def save() -> JSONResponse:
        durable.save()
        return JSONResponse({"changes": durable.number})

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
