r"""Prompts that were never rolled out are believed to be where their siblings are: pooling online, without a fit.

A run starts with thousands of prompts that nobody has rolled out, and visits most of them once or twice. Outcomes of
a prompt's own then say little, but the outcomes of prompts like it (its siblings: the same subject, or the same level
of difficulty) say much. A fitted hierarchical prior pools them, where there is a log of an earlier run to fit. This
model pools them while the run goes on. It filters every prompt that was rolled out exactly, with a dynamics model of
your choice, and replaces the belief of the others at every step:

    everyone   = (strength * start_t + sum of b_i over all visited prompts i)     / (strength + how many they are)
    stranger_g = (strength * everyone + sum of b_i over visited prompts i of g)   / (strength + how many they are)

where b_i is the filter's belief of prompt i, and `start_t` is where the dynamics model expects a prompt that was never
rolled out at step t. That is a Dirichlet prior over the population of each group, centred on the population of all
prompts, whose centre is the dynamics model's own; responsibilities are taken at their filtered values, as in online
EM (Cappé and Moulines, 2009). Because the beliefs are those of the coming step, strangers also follow what training
did to their siblings. Prompts of a group are taken to be exchangeable. In truth the visited prompts were trained on and
the strangers were not, so that strangers come out a little too easy.

A prompt's belief is its own from its first rollout on: it starts from its siblings' belief of that step. A group that
arrives late is filtered with what was believed of its siblings at its step, for up to 1,000 steps, and changes no other
prompt's belief of the steps that have passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.features import Groups
from dps_pyro.dynamics.forward import predict
from dps_pyro.dynamics.step import Step
from dps_pyro.models.logit_walk import LogitWalk
from dps_pyro.support import checks
from dps_pyro.support.devices import device_of, moved
from dps_pyro.tracking.places import placed, put
from dps_pyro.tracking.predictor import State
from dps_pyro.tracking.tracker import Tracker, is_fitted

__all__ = ["Siblings"]

REMEMBERED = 1000
"""Steps for which the populations are kept, for groups that arrive late."""


class Siblings:
    """A dynamics model whose unvisited prompts learn online from the visited prompts of their group.

    Args:
        groups: a label for each prompt, strings or numbers, at least as many as there are prompts to be tracked. The
            default takes all prompts as one group.
        dynamics: the model that filters the prompts that were rolled out; `LogitWalk()` if left out. Values of a fit,
            such as a prior of `dps-pyro fit`, are values of this model.
        strength: how many visited prompts weigh as much as the population of all prompts does in that of a group, and
            as the dynamics model's start does in that of all prompts. It is positive.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    def __init__(
        self,
        groups: Sequence[str] | Sequence[int] | None = None,
        *,
        dynamics: Dynamics[Any] | None = None,
        strength: float = 4.0,
    ) -> None:
        self.dynamics = LogitWalk() if dynamics is None else checks.instance("dynamics", dynamics, Dynamics)
        if not is_fitted(self.dynamics):
            name = type(self.dynamics).__name__
            raise ValueError(f"dynamics: expected a model without a filter of its own, got {name}")
        self.groups = None if groups is None else Groups(groups)
        self.strength = checks.positive("strength", strength)

    @property
    def states(self) -> tuple[str, ...]:
        """The states of the dynamics model."""
        return self.dynamics.states

    def tracker(
        self,
        num_prompts: int,
        *,
        values: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> Tracker:
        """The filter of `num_prompts` prompts; its cost per step follows their number. It computes on `device`.

        Raises:
            ValueError: `values` are not the dynamics model's, there are fewer labels than prompts, or this machine does
                not have the device.
        """
        return _SiblingsTracker(self, num_prompts, values, dtype, device)


class _Population(NamedTuple):
    """The visited prompts of each group before a step."""

    mass: Tensor  # [G, K], the sum of their beliefs
    number: Tensor  # [G, 1], how many they are


class _SiblingsTracker(Tracker):
    """The exact filter of the visited prompts, and the population's belief of the others.

    The state has, for each prompt, its belief, where the dynamics model alone expects a stranger ("start"), and whether
    the prompt was rolled out ("seen").
    """

    def __init__(
        self,
        model: Siblings,
        num_prompts: int,
        values: Mapping[str, Tensor] | None,
        dtype: torch.dtype | None,
        device: str | torch.device | None,
    ) -> None:
        self.model = moved(model, device_of(device))
        self._past: dict[int, _Population] = {}  # before which step
        self._rows: Tensor | None = None  # the prompts of a replay of some of them
        super().__init__(model.dynamics, num_prompts, values=values, dtype=dtype, device=device)

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
        self._past = {int(step): _Population(**population) for step, population in saved.items()}
        try:
            super().load_state_dict(state)
        except ValueError:
            self._past = before
            raise

    def _parameters(self, rows: Tensor | None) -> Any:
        theta, groups = super()._parameters(rows), self.model.groups
        if rows is None:  # whenever the number of prompts changes
            everyone = torch.arange(self.num_prompts)
            self._group = torch.zeros_like(everyone) if groups is None else groups.of(everyone, self.num_prompts)
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
        move = self.dynamics.transition(theta, step).probs.to(self.dtype)
        belief = predict(state["belief"].index_copy(0, at, posterior), move)
        start, seen = predict(state["start"], move), state["seen"].index_fill(0, at, True)
        coming, group = int(step.number) + 1, self._group
        if self._rows is None:
            population = self._past[coming] = self._population(belief[seen], group[seen])
            self._past.pop(coming - REMEMBERED, None)
        elif coming in self._past:  # some prompts alone: their siblings are where they were
            population, group = self._past[coming], group[self._rows]
        else:
            return {"belief": belief, "start": start, "seen": seen}
        strangers = (~seen).nonzero().squeeze(-1)
        own = self._shared(start[strangers], group[strangers], population)
        return {"belief": belief.index_copy(0, strangers, own), "start": start, "seen": seen}

    def _shared(self, start: Tensor, group: Tensor, population: _Population) -> Tensor:
        """[V, K], the belief of strangers of the groups `group` [V], whom the model expects at `start` [V, K]."""
        strength, (mass, number) = self.model.strength, population
        everyone = (strength * start + mass.sum(0)) / (strength + number.sum())
        return (strength * everyone + mass[group]) / (strength + number[group])

    def _population(self, belief: Tensor, group: Tensor) -> _Population:
        """The population of all groups that there can be, of visited prompts' beliefs [V, K] and groups [V]."""
        count = 1 if self.model.groups is None else len(self.model.groups.labels) + 1  # the last: of none of them
        mass = belief.new_zeros(count, belief.shape[-1]).index_add(0, group, belief)
        return _Population(mass, torch.bincount(group, minlength=count).to(belief).unsqueeze(-1))
