"""The batches that data loaders have had selected, kept for the sake of loaders that resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dps_pyro.support.locks import Lock, one_at_a_time

__all__ = ["KEPT", "Ahead"]

KEPT = 128
"""Selections kept for a loader that resumes: more than a loader fetches ahead (num_workers * prefetch_factor)."""


class Ahead:
    """The latest batches that loaders have had selected, by number, counted from 0: part of the sampler's state,
    because a loader that fetches ahead has had batches selected that no one has seen when a checkpoint is written."""

    def __init__(self, lock: Lock | None = None) -> None:
        self.lock = Lock() if lock is None else lock  # the sampler's own, as both select
        self.count = 0
        self._rows: dict[int, Tensor] = {}

    @one_at_a_time
    def batch(self, number: int, select: Callable[[], Tensor]) -> Tensor:
        """The rows of batch `number`, long [batch_size]: as they were selected before, or as `select` chooses them now.

        Raises:
            ValueError: the batch is neither among the latest nor the coming one, so that sampler and loader are of
                different times.
        """
        if number == self.count:
            self._rows[number] = select()
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
