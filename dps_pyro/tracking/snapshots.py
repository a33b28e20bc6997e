"""Earlier states of a filter, so that a late group costs what it is late by, and not the whole clock."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["Snapshots"]

EVERY = 16
"""Steps from one snapshot to the next."""
BYTES = 64 << 20
"""The most that all snapshots take together."""


class Snapshots:
    """States before some of the past steps, the latest close together and earlier ones further apart.

    If they would take more than `limit` bytes, the one is dropped whose neighbours are closest for how long ago they
    are, so that the way from a snapshot to a late group's step is at most in proportion to how late it is.

    Args:
        every: steps from one to the next, at least 1.
        limit: bytes; a state that is larger than a third of it is not kept.
    """

    def __init__(self, every: int = EVERY, limit: int = BYTES) -> None:
        self.every, self.limit = every, limit
        self._states: dict[int, dict[str, Tensor]] = {}

    def keep(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Remember the state before step `step`, if it is one that is kept."""
        size = sum(value.nbytes for value in state.values())
        if step % self.every or 3 * size > self.limit or not state:
            return
        self._states[step] = {name: value.clone() for name, value in state.items()}
        while len(self._states) * size > self.limit:
            steps = sorted(self._states)
            spread = [(after - before) / (step - before + 1) for before, after in zip(steps, steps[2:], strict=False)]
            del self._states[steps[1 + spread.index(min(spread))]]

    def before(self, step: int) -> tuple[int, dict[str, Tensor]] | None:
        """The latest snapshot at or before `step`, and its step; None if there is none."""
        steps = [known for known in self._states if known <= step]
        return (max(steps), self._states[max(steps)]) if steps else None

    def mend(self, step: int, rows: Tensor, state: Mapping[str, Tensor]) -> None:
        """The state before step `step` of the prompts `rows` [V] is another one after all."""
        for name, value in self._states.get(step, {}).items():
            value[rows] = state[name].to(value.dtype)

    def clear(self) -> None:
        """Forget all."""
        self._states = {}

    def __len__(self) -> int:
        return len(self._states)
