"""A prompt sampler as a torch `Sampler`, for any `DataLoader`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor
from torch.utils.data import Sampler

from dps_pyro.selection.state.handed_out import Ahead
from dps_pyro.support import checks

__all__ = ["PromptBatches"]


class Selects(Protocol):
    """What a prompt sampler is to a data loader."""

    ahead: Ahead
    """The batches that loaders have had selected."""

    @property
    def num_prompts(self) -> int:
        """The number of prompts to choose from."""

    def select(self, batch_size: int) -> Tensor:
        """Long [batch_size], the rows of the prompts to roll out next."""


class PromptBatches(Sampler[int]):
    """What `PromptSampler.as_torch_sampler` returns; its docstring says what it does."""

    def __init__(
        self,
        sampler: Selects,
        batch_size: int,
        repeats: int = 1,
        num_batches: int | None = None,
        *,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        self.sampler = sampler
        self.batch_size = checks.count("batch_size", batch_size, 1, sampler.num_prompts)
        self.repeats = checks.count("repeats", repeats, 1)
        batches = sampler.num_prompts // batch_size if num_batches is None else num_batches
        self.num_batches = checks.count("num_batches", batches, 1)
        self.num_replicas = checks.count("num_replicas", num_replicas, 1)
        self.rank = checks.count("rank", rank, 0, self.num_replicas - 1)
        self.share, rest = divmod(self.batch_size * self.repeats, self.num_replicas)
        if rest:
            whole = f"a number that divides batch_size * repeats = {self.batch_size * self.repeats}"
            raise ValueError(f"num_replicas: expected {whole}, got {num_replicas}")

    def __len__(self) -> int:
        return self.num_batches * self.share

    def __iter__(self) -> Iterator[int]:
        return _Rows(self)


class _Rows(Iterator[int]):
    """One pass. Batches are selected when their first row is asked for; torchdata saves and restores the place."""

    def __init__(self, batches: PromptBatches) -> None:
        self.batches = batches
        self.first = batches.sampler.ahead.count
        self.given = 0
        self._layout: list[int] = []

    def __next__(self) -> int:
        batches = self.batches
        number, place = divmod(self.given, batches.share)
        if number == batches.num_batches:
            raise StopIteration
        if place == 0 or not self._layout:
            rows = batches.sampler.ahead.batch(self.first + number, lambda: batches.sampler.select(batches.batch_size))
            layout = rows.repeat_interleave(batches.repeats)
            self._layout = layout[batches.rank * batches.share :][: batches.share].tolist()
        self.given += 1
        return self._layout[place]

    def state_dict(self) -> dict[str, int]:
        return {"first": self.first, "given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.first, self.given = state["first"], state["given"]
        self._layout = []
