"""What a sampler counts for its metrics: the chances that it predicted, and what was observed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
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
        # The prompts that were selected and are not observed yet, ascending, and what was predicted for them.
        self._rows: Any = np.zeros(0, dtype=np.int64)
        self._chance: Any = np.zeros(0)

    def selected(self, rows: Tensor, chance: Tensor, mean: float) -> None:
        """Remember the chances of a useful group, [V], that were predicted for the selected prompts `rows` [V], and the
        mean chance over all prompts."""
        new, first = rows.numpy(), chance.double().numpy()
        if len(self._rows):
            others = ~self._among(new)
            new, first = np.concatenate([self._rows[others], new]), np.concatenate([self._chance[others], first])
        order = new.argsort()
        self._rows, self._chance = new[order], first[order]
        self.last["informative/selected"] = float(chance.mean())
        self.last["informative/pool"] = mean

    def predicted(self, rows: Tensor) -> Tensor:
        """[V], the chances that were predicted for the prompts `rows` [V]; NaN for prompts that were not selected."""
        if len(self._rows) == 0:
            return torch.full([len(rows)], math.nan)
        wanted = rows.numpy()
        place = self._rows.searchsorted(wanted).clip(max=len(self._rows) - 1)
        known = self._rows[place] == wanted
        return torch.from_numpy(np.where(known, self._chance[place], math.nan).astype(np.float32))

    def _among(self, rows: Any) -> Any:
        """Which of the prompts that were selected are among some rows, bool."""
        wanted = np.sort(rows)
        if len(wanted) == 0:
            return np.zeros(len(self._rows), dtype=bool)
        return wanted[wanted.searchsorted(self._rows).clip(max=len(wanted) - 1)] == self._rows

    def observed(self, groups: Groups, evidence: Tensor) -> None:
        """Count groups that were observed, and their log evidence [V]."""
        if len(self._rows):
            left = ~self._among(groups.rows.numpy())
            self._rows, self._chance = self._rows[left], self._chance[left]
        count = int((groups.trials > 0).sum())
        useful = float(groups.useful.sum())
        likelihood, possible = float(evidence.sum()), count
        if not math.isfinite(likelihood):
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
            "predicted": dict(zip(map(str, self._rows.tolist()), self._chance.tolist(), strict=True)),
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
        predicted = sorted((int(row), float(chance)) for row, chance in state["predicted"].items())
        made._rows = np.array([row for row, _ in predicted], dtype=np.int64)
        made._chance = np.array([chance for _, chance in predicted], dtype=np.float64)
        made.totals, made.last = ({name: float(x) for name, x in state[part].items()} for part in ("totals", "last"))
        return made
