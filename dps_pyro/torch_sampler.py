"""A prompt sampler as a torch `Sampler`, for any `DataLoader`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import Sampler

from dps_pyro import checks

if TYPE_CHECKING:
    from dps_pyro.sampler import PromptSampler

__all__ = ["Ahead", "PromptBatches"]

KEPT = 128
"""Selections kept for a loader that resumes: more than a loader fetches ahead (num_workers * prefetch_factor)."""


class Ahead:
    """The latest batches that loaders have had selected, by number, counted from 0: part of the sampler's state,
    because a loader that fetches ahead has had batches selected that no one has seen when a checkpoint is written."""

    def __init__(self) -> None:
        self.count = 0
        self._rows: dict[int, Tensor] = {}

    def batch(self, number: int, sampler: PromptSampler, batch_size: int) -> Tensor:
        """The rows of batch `number`, long [batch_size]: as they were selected, or selected now.

        Raises:
            ValueError: the batch is neither among the latest nor the coming one, so that sampler and loader are of
                different times.
        """
        if number == self.count:
            self._rows[number] = sampler.select(batch_size)
            self._rows.pop(number - KEPT, None)
            self.count += 1
        if number not in self._rows:
            raise ValueError(
                f"loader: expected to go on with batch {self.count} at the latest, as the sampler does, got {number}: "
                "load the states of sampler and loader that were saved together, the sampler's first"
            )
        return self._rows[number]

    def state_dict(self) -> dict[str, Any]:
        """Tensors and a number."""
        return {"count": self.count, "rows": {str(number): rows.clone() for number, rows in self._rows.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.count = int(state["count"])
        self._rows = {int(number): rows.clone() for number, rows in state.get("rows", {}).items()}


class PromptBatches(Sampler[int]):
    """What `PromptSampler.as_torch_sampler` returns; its docstring says what it does."""

    def __init__(
        self,
        sampler: PromptSampler,
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
            rows = batches.sampler.ahead.batch(self.first + number, batches.sampler, batches.batch_size)
            layout = rows.repeat_interleave(batches.repeats)
            self._layout = layout[batches.rank * batches.share :][: batches.share].tolist()
        self.given += 1
        return self._layout[place]

    def state_dict(self) -> dict[str, int]:
        return {"first": self.first, "given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.first, self.given = state["first"], state["given"]
        self._layout = []
