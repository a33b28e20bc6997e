"""Earlier states of a filter, so that a late group is filtered from shortly before its step, not from the first."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dps_pyro.support import checks

__all__ = ["Snapshots"]

EVERY = 16
"""The number of steps from one snapshot to the next."""
BYTES = 64 << 20
"""The largest size of all snapshots together, in bytes."""


class Snapshots:
    """States before some of the past steps, the latest close together and earlier ones further apart.

    If they would take more than `limit` bytes, one is dropped: the one whose neighbours are closest in proportion to
    their age. The number of steps from a snapshot to a late group is therefore at most proportional to its lateness.

    Args:
        every: steps from one to the next, at least 1.
        limit: the largest size in bytes. A state that is larger than a third of it is not kept.
    """

    def __init__(self, every: int = EVERY, limit: int = BYTES) -> None:
        self.every, self.limit = every, limit
        self._states: dict[int, dict[str, Tensor]] = {}

    def keep(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Keep the state before step `step`, if a snapshot is due."""
        size = sum(value.nbytes for value in state.values())
        if step % self.every or 3 * size > self.limit or not state:
            return
        self._states[step] = {name: value.clone() for name, value in state.items()}
        while len(self._states) * size > self.limit:
            steps = sorted(self._states)
            spread = [(after - before) / (step - before + 1) for before, after in zip(steps, steps[2:], strict=False)]
            del self._states[steps[1 + spread.index(min(spread))]]

    def before(self, step: int) -> tuple[int, dict[str, Tensor]] | None:
        """Return the step and the state of the latest snapshot at or before `step`; None if there is none."""
        steps = [known for known in self._states if known <= step]
        return (max(steps), self._states[max(steps)]) if steps else None

    def mend(self, step: int, rows: Tensor, state: Mapping[str, Tensor]) -> None:
        """Replace the state before step `step` of the prompts `rows` [V], after a late group of them."""
        for name, value in self._states.get(step, {}).items():
            value[rows] = state[name].to(value.dtype)

    def clear(self) -> None:
        """Drop all snapshots."""
        self._states = {}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return a copy of the snapshots, by the step that they are before, on the CPU."""
        return {
            str(step): {name: value.to("cpu", copy=True) for name, value in state.items()}
            for step, state in self._states.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]], like: Mapping[str, Tensor]) -> None:
        """Replace the snapshots by saved ones. The tensors of a filter's state, `like`, say where and how they lie.

        Raises:
            ValueError: a snapshot is of another kind or size than `like`.
        """
        shapes = {name: tuple(value.shape) for name, value in like.items()}
        for step, saved in checks.instance("state", state, Mapping).items():
            kept = checks.instance("state", saved, Mapping)
            came = {name: tuple(checks.instance("state", value, Tensor).shape) for name, value in kept.items()}
            if shapes != came:
                raise ValueError(f"state: expected the snapshot before step {step} of shapes {shapes}, got {came}")
        self._states = {
            int(step): {name: torch.empty_like(like[name]).copy_(value) for name, value in saved.items()}
            for step, saved in state.items()
        }

    def __len__(self) -> int:
        return len(self._states)
