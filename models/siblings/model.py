r"""Prompts are believed to be where their siblings are, and to go where they go: pooling online, without a fit.

A run starts with thousands of prompts that nobody has rolled out, and visits most of them once or twice. Such a
prompt's own outcomes say little, but those of prompts like it (its siblings: the same subject, or the same level of
difficulty) say much. A fitted hierarchical prior pools them, where there is a log of an earlier run to fit. This
model pools them while the run goes on. It filters every prompt that was rolled out with a dynamics model of your
choice. Every step, it replaces the belief of the others, the strangers, by that of the population of their group:

    everyone = (4 start_t + sum of b_i over all visited prompts i)              / (4 + how many they are)
    kin_g    = (strength * everyone + sum of b_i over visited prompts i of g)   / (strength + how many they are)

where b_i is the filter's belief of prompt i, and `start_t` is where the dynamics model expects a prompt that was never
rolled out at step t. That is a Dirichlet prior over the population of each group, centred on the population of all
prompts, whose centre is the dynamics model's own; responsibilities are taken at their filtered values, as in online
EM (Cappé and Moulines, 2009). Because the beliefs are those of the coming step, strangers also follow what training
did to their siblings. Prompts of a group are taken to be exchangeable. In truth the visited prompts were trained on and
the strangers were not, so that strangers come out a little too easy.

**Visited prompts follow their siblings, too.** Their prior was a guess when they were first rolled out, and has been
learned since. After each step, the belief of a visited prompt is multiplied by what its group's population did beyond
what the dynamics model expected of it, and normalised:

    b_i  ∝  (b_i moved by the model) * (kin_g / kin_g of the step before, moved by the model) ^ (1 - 1 / n_g)

The population has the prompt's own rollouts in it. The exponent takes its share out, with n_g visited prompts. That is
empirical Bayes, one step of EM per training step: prompts with few rollouts of their own are drawn to what is typical
of their group, and prompts with many are not.

**How much the groups say is learned, too.** Every `strength` is a hypothesis: a small one believes a few siblings, and
a very large one holds that groups say nothing. Each predicts the first rollouts of strangers before they are seen, and
is weighed by the product of the chances that it gave them, as in Bayesian model averaging.

**With features** (a length, a difficulty, the policy's own reading of the prompt), strangers differ within their group.
A regression on the features of the visited prompts, made anew at every step, scores how easy each prompt should be for
its group. Prompts of a group that have similar scores are siblings in turn: each stands between two of eight knots,
which are quantiles of the scores, and the populations of the knots are drawn to that of the group. That they are worth
believing is once more a hypothesis, weighed by the same evidence, so that features that tell nothing do no harm.

A prompt's belief is its own from its first rollout on: it starts from its siblings' belief of that step. A group that
arrives late is filtered with what was believed of its siblings at its step, for up to 1,000 steps (fewer with thousands
of groups), and changes no other prompt's belief of the steps that have passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.features import Groups
from dps_pyro.history.log import Features
from dps_pyro.models.logit_walk import LogitWalk
from dps_pyro.models.siblings.filter import SiblingsTracker
from dps_pyro.models.siblings.pooled import PooledSiblings
from dps_pyro.models.siblings.population import Pooling
from dps_pyro.models.siblings.scores import Scores
from dps_pyro.support import checks
from dps_pyro.tracking.pools.kinds import kinds_of
from dps_pyro.tracking.pools.pooled import PooledTracker
from dps_pyro.tracking.tracker import Tracker, is_fitted

__all__ = ["Siblings"]


class Siblings:
    """A dynamics model whose prompts learn online from the visited prompts of their group.

    Args:
        groups: a label for each prompt, strings or numbers, at least as many as there are prompts to be tracked. The
            default takes all prompts as one group.
        features: what else is known of each prompt, as `design_matrix` takes it: name -> one number or one string per
            prompt, or an embedding [N, F]. Columns beyond 64 are reduced to 64 principal components. The default is
            nothing.
        dynamics: the model that filters the prompts that were rolled out; `LogitWalk()` if left out. Values of a fit,
            such as a prior of `dps-pyro fit`, are values of this model.
        strength: how many visited prompts of a group weigh as much as the population of all prompts does in its own. It
            is positive. Several values are averaged over, by how well each predicts.

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    def __init__(
        self,
        groups: Sequence[str] | Sequence[int] | None = None,
        features: Features | Tensor | None = None,
        *,
        dynamics: Dynamics[Any] | None = None,
        strength: float | Sequence[float] = (1.0, 4.0, 16.0, 1000.0),
    ) -> None:
        self.dynamics = LogitWalk() if dynamics is None else checks.instance("dynamics", dynamics, Dynamics)
        if not is_fitted(self.dynamics):
            name = type(self.dynamics).__name__
            raise ValueError(f"dynamics: expected a model without a filter of its own, got {name}")
        self.groups = None if groups is None else Groups(groups)
        several = list(strength) if isinstance(strength, Sequence) else [strength]
        if not several:
            raise ValueError("strength: expected a positive number or several, got none")
        self.strengths = torch.tensor([checks.positive("strength", one) for one in several], dtype=torch.float64)
        self.scores = None if features is None or len(features) == 0 else Scores(features)

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
            ValueError: `values` are not the dynamics model's, there are fewer labels or features than prompts, or this
                machine does not have the device.
        """
        return SiblingsTracker(self.dynamics, self._pooling(), num_prompts, values, dtype, device)

    def pooled_tracker(
        self, num_prompts: int, *, values: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
    ) -> PooledTracker | None:
        """The same filter at a cost that follows what was seen: the unvisited prompts of a group share one belief.
        None if there are features, if the dynamics model needs a belief for every prompt, or if there are too many
        groups.

        Raises:
            ValueError: as for `tracker`.
        """
        if self.scores is not None:
            return None
        pooling = self._pooling()
        kinds = kinds_of(self.dynamics, num_prompts, values)
        kinds = None if kinds is None else kinds.divided(pooling.of(num_prompts))
        return None if kinds is None else PooledSiblings(self.dynamics, pooling, num_prompts, kinds, values, dtype)

    def _pooling(self) -> Pooling:
        return Pooling(self.groups, self.strengths, self.scores)
