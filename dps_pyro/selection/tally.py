"""What a sampler counts for its metrics: the chances that it predicted, and what was observed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dps_pyro.selection.arguments import Groups

__all__ = ["Tally"]


class Tally:
    """Counts of the groups that were selected and observed."""

    def __init__(self) -> None:
        self.totals = dict.fromkeys(("rollouts", "groups", "useful", "log_evidence", "impossible"), 0.0)
        """Sums over everything observed so far."""
        self.last: dict[str, float] = {}
        """The metrics of the last selection and of the last observed step."""
        self._predicted: dict[int, float] = {}  # by row, for prompts that were selected and are not observed yet

    def selected(self, rows: Tensor, chance: Tensor, mean: float) -> None:
        """Remember the chances of a useful group, [V], that were predicted for the selected prompts `rows` [V], and the
        mean chance over all prompts."""
        self._predicted |= dict(zip(rows.tolist(), chance.tolist(), strict=True))
        self.last["informative/selected"] = float(chance.mean())
        self.last["informative/pool"] = mean

    def predicted(self, rows: Tensor) -> Tensor:
        """[V], the chances that were predicted for the prompts `rows` [V]; NaN for prompts that were not selected."""
        return torch.tensor([self._predicted.get(row, math.nan) for row in rows.tolist()])

    def observed(self, groups: Groups, evidence: Tensor) -> None:
        """Count groups that were observed, and their log evidence [V]."""
        for row in groups.rows.tolist():
            self._predicted.pop(row, None)
        count = int((groups.trials > 0).sum())
        useful = float(groups.useful.sum())
        impossible = evidence.isneginf()
        likelihood = float(evidence[~impossible].sum())
        possible = count - int(impossible.sum())
        self.totals["rollouts"] += float(groups.trials.sum())
        self.totals["groups"] += count
        self.totals["useful"] += useful
        self.totals["log_evidence"] += likelihood
        self.totals["impossible"] += count - possible
        self.last["useful"] = useful / max(count, 1)
        self.last["log_evidence"] = likelihood / max(possible, 1)

    def so_far(self) -> dict[str, float]:
        """The metrics over everything observed so far."""
        groups, impossible = self.totals["groups"], self.totals["impossible"]
        return {
            "useful/so_far": self.totals["useful"] / max(groups, 1),
            "log_evidence/so_far": self.totals["log_evidence"] / max(groups - impossible, 1),
            "impossible": impossible,
        }

    def state_dict(self) -> dict[str, Any]:
        """The counts as plain numbers."""
        return {
            "predicted": {str(row): chance for row, chance in self._predicted.items()},
            "totals": dict(self.totals),
            "last": dict(self.last),
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Tally:
        """The counts of a saved state.

        Raises:
            AttributeError, TypeError, ValueError: the state holds something other than numbers by name.
        """
        made = cls()
        made._predicted = {int(row): float(chance) for row, chance in state["predicted"].items()}
        made.totals, made.last = ({name: float(x) for name, x in state[part].items()} for part in ("totals", "last"))
        return made
