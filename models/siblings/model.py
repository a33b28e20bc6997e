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
from typing import Any

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.features import Groups
from dps_pyro.models.logit_walk import LogitWalk
from dps_pyro.models.siblings.filter import SiblingsTracker
from dps_pyro.models.siblings.pooled import PooledSiblings
from dps_pyro.models.siblings.population import Pooling
from dps_pyro.support import checks
from dps_pyro.tracking.pools.kinds import kinds_of
from dps_pyro.tracking.pools.pooled import PooledTracker
from dps_pyro.tracking.tracker import Tracker, is_fitted

__all__ = ["Siblings"]


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
        """The filter that keeps a belief for each of `num_prompts` prompts; its cost per step follows their number. It
        computes on `device`.

        Raises:
            ValueError: `values` are not the dynamics model's, there are fewer labels than prompts, or this machine does
                not have the device.
        """
        return SiblingsTracker(self.dynamics, Pooling(self.groups, self.strength), num_prompts, values, dtype, device)

    def pooled_tracker(
        self, num_prompts: int, *, values: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
    ) -> PooledTracker | None:
        """The same filter at a cost that follows what was seen: the unvisited prompts of a group share one belief.
        None if the dynamics model needs a belief for every prompt, or if there are too many groups.

        Raises:
            ValueError: as for `tracker`.
        """
        pooling = Pooling(self.groups, self.strength)
        kinds = kinds_of(self.dynamics, num_prompts, values)
        kinds = None if kinds is None else kinds.divided(pooling.of(num_prompts))
        return None if kinds is None else PooledSiblings(self.dynamics, pooling, num_prompts, kinds, values, dtype)
