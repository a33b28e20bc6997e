"""The filter of `Siblings` that keeps a belief for every prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.forward import condition, predict, prompt_by_prompt
from dps_pyro.dynamics.step import Step
from dps_pyro.models.siblings.population import Pooling, Population, tilt, tilted
from dps_pyro.models.siblings.scores import ENOUGH, KNOTS
from dps_pyro.support import checks
from dps_pyro.support.devices import device_of, moved
from dps_pyro.support.places import placed, put
from dps_pyro.tracking.groups import Groups, State
from dps_pyro.tracking.tracker import Tracker

__all__ = ["SiblingsTracker"]


class SiblingsTracker(Tracker):
    """The filter of the visited prompts, which follow their siblings, and the population's belief of the others.

    The state has, for each prompt, its belief, where the dynamics model alone expects a stranger ("start"), what is
    believed of strangers in its place ("kin"), and whether the prompt was rolled out ("seen"); with features also what
    the dynamics model alone believes of it ("alone").

    Args:
        dynamics: the model that filters the prompts that were rolled out.
        pooling: how prompts learn from each other.
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
        state = {"belief": belief, "start": belief.clone(), "kin": belief.clone()}
        if self.pooling.scores is not None:
            state["alone"] = belief.clone()
        return {**state, "seen": torch.zeros(num_rows, dtype=torch.bool)}

    def _replay(self, rows: Tensor, *arguments: Any, **named: Any) -> Any:
        self._rows = None if len(rows) == self.num_prompts else rows
        try:
            return super()._replay(rows, *arguments, **named)
        finally:
            self._rows = None

    def _advance(self, state: State, groups: Groups, step: Step, theta: Any) -> tuple[State, Tensor]:
        shown = self._log_likelihood(groups, step)
        found = condition(state["belief"][groups.at], shown)
        visited = groups.trials > 0
        at = groups.at[visited]
        move = self.laws(theta).moves(step)

        def ahead(belief: Tensor, after: Tensor | None = None) -> Tensor:
            known = prompt_by_prompt(belief)
            return predict(known if after is None else known.clone().index_copy_(0, at, after), move)

        seen = state["seen"].index_fill(0, at, True)
        after = {"belief": ahead(state["belief"], found.belief[visited]), "start": ahead(state["start"]), "seen": seen}
        if "alone" in state:
            alone = condition(state["alone"][groups.at], shown).belief
            after["alone"] = ahead(state["alone"], alone[visited])
        coming, group, rows = int(step.number) + 1, self._group, self._rows
        if rows is None:
            first = visited & ~state["seen"][groups.at]
            told = self._told(state, groups.at[first], shown[first], int(step.number))
            self._past[coming] = self._population(after, told, theta, step)
            self._past.pop(coming - self._past[coming].remembered, None)
        elif coming not in self._past:  # too long ago: each prompt for itself
            return {**after, "kin": ahead(state["kin"])}, found.log_evidence
        else:  # some prompts alone: their siblings are where they were
            group = group[rows]
        population = self._past[coming]
        kin, number = self.pooling.kin(after["start"], self.pooling.places(group, rows, population), population)
        own = tilted(after["belief"], tilt(kin, ahead(state["kin"]), number))
        after["belief"] = torch.lerp(kin, own, seen.to(own).unsqueeze(-1))  # as exact as `where`, and thrice as fast
        return {**after, "kin": kin}, found.log_evidence

    def _told(self, state: State, at: Tensor, shown: Tensor, number: int) -> Tensor:
        """float64 [H], the evidence for each way of pooling after the first groups of the prompts `at` [V]."""
        population = self._past.get(number)
        if population is None or len(at) == 0:
            nobody = torch.zeros(self.pooling.ways, dtype=torch.float64)
            return nobody if population is None else population.evidence
        places = self.pooling.places(self._group[at], at, population)
        return self.pooling.told(state["start"][at], places, population, shown)

    def _population(self, after: State, evidence: Tensor, theta: Any, step: Step) -> Population:
        """The population of all prompts before the coming step."""
        rows = after["seen"].nonzero().squeeze(-1)
        found, scores = self.pooling.nobody(after["belief"])._replace(evidence=evidence), self.pooling.scores
        if scores is not None and len(rows) >= ENOUGH:
            means = self.laws(theta).means(self.coming)
            logit = means.double().clamp(1e-3, 1 - 1e-3).logit()
            mine = logit if len(logit) == 1 else logit[rows]
            weights = scores.learn(after["alone"][rows], after["start"][rows], mine, rows, self._group[rows])
            levels = torch.linspace(0, 1, KNOTS, dtype=torch.float64)
            found = found._replace(weights=weights, knots=scores.of(weights, None)[: self.num_prompts].quantile(levels))
        places = self.pooling.places(self._group[rows], rows, found)
        return self.pooling.filled(found, after["belief"][rows], torch.ones(len(rows)), places)
