"""The filter of `Siblings` that keeps a belief for every prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.forward import predict, prompt_by_prompt
from dps_pyro.dynamics.step import Step
from dps_pyro.models.siblings.population import REMEMBERED, Pooling, Population
from dps_pyro.support import checks
from dps_pyro.support.devices import device_of, moved
from dps_pyro.support.places import placed, put
from dps_pyro.tracking.groups import State
from dps_pyro.tracking.tracker import Tracker

__all__ = ["SiblingsTracker"]


class SiblingsTracker(Tracker):
    """The exact filter of the visited prompts, and the population's belief of the others.

    The state has, for each prompt, its belief, where the dynamics model alone expects a stranger ("start"), and whether
    the prompt was rolled out ("seen").

    Args:
        dynamics: the model that filters the prompts that were rolled out.
        pooling: how the others learn from them.
        num_prompts: N.
        values: site name -> value of the dynamics model. Sites that are left out have their prior means.
        dtype: the dtype of the beliefs. The default is torch's.
        device: where beliefs lie and are computed; see `Tracker`.
    """

    def __init__(
        self,
        dynamics: Dynamics[Any],
        pooling: Pooling,
        num_prompts: int,
        values: Mapping[str, Tensor] | None,
        dtype: torch.dtype | None,
        device: str | torch.device | None = None,
    ) -> None:
        self.pooling = moved(pooling, device_of(device))
        self._past: dict[int, Population] = {}  # before which step
        self._rows: Tensor | None = None  # the prompts of a replay of some of them
        super().__init__(dynamics, num_prompts, values=values, dtype=dtype, device=device)

    def state_dict(self) -> dict[str, Any]:
        """See `Tracker.state_dict`."""
        past = {str(step): put(population._asdict(), torch.device("cpu")) for step, population in self._past.items()}
        return {**super().state_dict(), "population": past}

    @placed
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Tracker.load_state_dict`."""
        saved = checks.instance("state", state, Mapping).get("population", {})
        before = self._past
        # First, because prompts that the saved filter did not have are filtered with these.
        self._past = {int(step): Population(**population) for step, population in saved.items()}
        try:
            super().load_state_dict(state)
        except ValueError:
            self._past = before
            raise

    def _parameters(self, rows: Tensor | None) -> Any:
        theta = super()._parameters(rows)
        if rows is None:  # whenever the number of prompts changes
            self._group = self.pooling.of(self.num_prompts)
        return theta

    def _start(self, num_rows: int, theta: Any) -> State:
        belief = super()._start(num_rows, theta)["belief"]
        return {"belief": belief, "start": belief.clone(), "seen": torch.zeros(num_rows, dtype=torch.bool)}

    def _replay(self, rows: Tensor, *arguments: Any, **named: Any) -> Any:
        self._rows = None if len(rows) == self.num_prompts else rows
        try:
            return super()._replay(rows, *arguments, **named)
        finally:
            self._rows = None

    def _move(self, state: State, at: Tensor, posterior: Tensor, step: Step, theta: Any) -> State:
        move = self.laws(theta).moves(step)
        belief = predict(prompt_by_prompt(state["belief"]).clone().index_copy_(0, at, posterior), move)
        start, seen = predict(prompt_by_prompt(state["start"]), move), state["seen"].index_fill(0, at, True)
        coming, group = int(step.number) + 1, self._group
        if self._rows is None:
            population = self._past[coming] = self.pooling.visited(belief, group, seen)
            self._past.pop(coming - REMEMBERED, None)
        elif coming in self._past:  # some prompts alone: their siblings are where they were
            population, group = self._past[coming], group[self._rows]
        else:
            return {"belief": belief, "start": start, "seen": seen}
        own = self.pooling.shared(start, group, population)
        belief = torch.lerp(own, belief, seen.to(belief).unsqueeze(-1))  # as exact as `where`, and thrice as fast
        return {"belief": belief, "start": start, "seen": seen}
