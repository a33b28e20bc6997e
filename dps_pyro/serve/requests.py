"""The requests that the service takes, with their bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "MOST",
    "AddRequest",
    "InformativeRequest",
    "ObserveRequest",
    "RetireRequest",
    "RoundRequest",
    "SelectRequest",
]

MOST = 65_536
"""The largest number of prompts in one request."""

Id = Annotated[str, Field(min_length=1, max_length=1024)]
Row = Annotated[int, Field(ge=0, lt=2**31)]
Prompts = Annotated[list[Row], Field(max_length=MOST)] | Annotated[list[Id], Field(max_length=MOST)]
Count = Annotated[int, Field(ge=0, lt=2**31)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RoundRequest(_Strict):
    """A request that changes something, identified by the worker and by the worker's own number of the round."""

    worker: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    round: Annotated[int, Field(ge=0, lt=2**53)]


class SelectRequest(RoundRequest):
    """Choose prompts."""

    batch_size: Annotated[int, Field(ge=1, le=MOST)]


class ObserveRequest(RoundRequest):
    """Observe groups; see `PromptSampler.observe`."""

    prompts: Prompts
    solved: Annotated[list[float], Field(max_length=MOST)]
    trials: Count | Annotated[list[Count], Field(max_length=MOST)]
    step: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    trained: Annotated[list[bool], Field(max_length=MOST)] | None = None
    progress: Annotated[float, Field(allow_inf_nan=False)] | None = None
    useful: Annotated[list[bool], Field(max_length=MOST)] | None = None


class AddRequest(RoundRequest):
    """Track more prompts: their number, or their ids."""

    prompts: Annotated[int, Field(ge=1, lt=2**31)] | Annotated[list[Id], Field(min_length=1, max_length=MOST)]


class RetireRequest(RoundRequest):
    """Never select these prompts again."""

    prompts: Prompts


class InformativeRequest(_Strict):
    """Return the chances that groups of some prompts are useful."""

    trials: Annotated[int, Field(ge=1, le=4096)]
    prompts: Prompts
