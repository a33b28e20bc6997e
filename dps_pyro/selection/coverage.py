"""Which prompts have been rolled out, how often, and which are never to be selected again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dps_pyro.tracking.pools.pooled import PooledTracker
from dps_pyro.tracking.predictor import Filter

__all__ = ["Coverage"]


class Coverage:
    """The visits to each prompt, and the retired prompts.

    Args:
        tracker: the tracker of the prompts. A `PooledTracker` counts the visits itself.
    """

    def __init__(self, tracker: Filter) -> None:
        self.tracker = tracker
        self.retired: Tensor | None = None
        """bool [N], the prompts that are never selected; None if there are none."""
        self._visits = torch.zeros(0 if isinstance(tracker, PooledTracker) else tracker.num_prompts, dtype=torch.long)

    @property
    def visits(self) -> Tensor:
        """Long [N], how often each prompt has been rolled out. It may be the sampler's own tensor: read it only."""
        if isinstance(self.tracker, PooledTracker):
            slots, nobody = self.tracker.slots, torch.zeros(self.tracker.num_prompts, dtype=torch.long)
            return nobody.index_copy(0, slots.row.long(), slots.visits.long())
        return self._visits

    @property
    def num_visited(self) -> int:
        """The number of prompts that have been rolled out."""
        counts = self.tracker.slots.visits if isinstance(self.tracker, PooledTracker) else self._visits
        return int((counts > 0).sum())

    @property
    def num_retired(self) -> int:
        """The number of retired prompts."""
        return 0 if self.retired is None else int(self.retired.sum())

    def observed(self, rows: Tensor, trials: Tensor) -> None:
        """Count a visit to each of the prompts `rows` [V] that has rollouts, where `trials` [V] says how many."""
        if not isinstance(self.tracker, PooledTracker):
            self._visits.index_add_(0, rows, (trials > 0).long())

    def grow(self) -> None:
        """Make room for the prompts that the tracker has had added."""
        if not isinstance(self.tracker, PooledTracker):
            self._visits = _longer(self._visits, self.tracker.num_prompts)
        if self.retired is not None:
            self.retired = _longer(self.retired, self.tracker.num_prompts)

    def retire(self, rows: Tensor) -> None:
        """Never select the prompts `rows` [V] again.

        Raises:
            ValueError: no prompt would be left.
        """
        gone = torch.zeros(self.tracker.num_prompts, dtype=torch.bool) if self.retired is None else self.retired.clone()
        gone[rows] = True
        if bool(gone.all()):
            raise ValueError("prompts: expected some to be left, got all of them")
        self.retired = gone if bool(gone.any()) else None

    def without_retired(self, scores: Tensor) -> Tensor:
        """[N], the scores [N], with those of retired prompts at -inf."""
        return scores if self.retired is None else scores.masked_fill(self.retired, float("-inf"))

    def state_dict(self) -> dict[str, Any]:
        """The visits as a tensor, and the rows of retired prompts."""
        retired = [] if self.retired is None else self.retired.nonzero().squeeze(-1).tolist()
        return {"visits": self._visits.clone(), "retired": retired}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state of as many prompts."""
        if not isinstance(self.tracker, PooledTracker):
            self._visits = state["visits"].clone()
        self.retired = None
        if state.get("retired"):
            self.retire(torch.as_tensor(state["retired"]))


def _longer(values: Tensor, length: int) -> Tensor:
    """The values, with zeros after them."""
    return torch.cat([values, values.new_zeros(length - len(values))])
