r"""The contract that every model fulfils, and the exact filter that follows from it.

A dynamics model says how a prompt's solving progress `z_t`, one of K ordered states, starts, moves and shows:

    theta ~ prior                                  global and per-prompt parameters
    z_1 ~ initial(theta)
    y_t | z_t ~ emission(theta, step_t)            how many of the step's rollouts solved the prompt
    z_{t+1} | z_t ~ transition(theta, step_t)

Orientation: transition matrices are row-stochastic, `transition[..., i, j] = p(next = j | now = i)`; the state axis is
last, the prompt axis before it. A *belief* is `p(z_t | y_<t)`: what is known before step t's rollouts. Steps with no
rollouts condition on nothing, and the state still moves on.

`condition` (Bayes' rule) and `predict` (Chapman-Kolmogorov) are the two halves of the filter. The likelihood
(`Progress`) and the online `Tracker` are both made of them, so that they cannot drift apart.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.ops.indexing import Vindex
from torch import Tensor

from dps_pyro.dynamics.primed import Primed
from dps_pyro.dynamics.progress import Progress, Shown
from dps_pyro.dynamics.sites import At, centre
from dps_pyro.dynamics.step import Step, steps_of
from dps_pyro.history.layouts import layout
from dps_pyro.history.log import Outcomes, RolloutHistory
from dps_pyro.support import checks
from dps_pyro.support.devices import off_device

__all__ = ["Dynamics"]

Theta = TypeVar("Theta")


class HasDraws(Protocol):
    """Whatever has draws of a prior's sites; every `Posterior` does."""

    @property
    def draws(self) -> Mapping[str, Tensor]:
        """Site name -> [S, ...]."""
        ...


class Dynamics(ABC, Generic[Theta]):
    """A model of solving progress. A subclass defines four methods, and the rest follows from them.

    A model's methods must broadcast: `theta` may carry leading sample dimensions, `step` leading time dimensions.
    Batch dimensions that all prompts share may be 1 or left out. Every site is sampled in `prior`; the other three
    methods only compute.
    """

    states: tuple[str, ...] = ("unsolved", "partially solved", "solved")
    """The states' names in order, from unsolved to solved; K of them."""
    tolerance: float = 0.0
    """A group is useful if its largest and smallest reward differ by more than this, in [0, 1). The sampler, the
    trainer, replay and reports count useful groups by it, and `informative` is the chance of a useful group."""

    run_sites: tuple[str, ...] = ()
    """The names of sites that belong to a single run, such as how able its policy was at the start. `primed`, and a
    sampler that is given a posterior, leave them to the model's prior."""

    @abstractmethod
    def prior(self, prompts: pyro.plate) -> Theta:
        """Draw the parameters with `pyro.sample`: those of each prompt inside `with prompts as rows:` (`rows` are the
        prompts' indices, for covariates), and global ones outside. Return whatever the other methods need."""

    @abstractmethod
    def initial(self, theta: Theta) -> dist.Categorical:
        """`p(z_1)`, batch [..., N or 1] over K states."""

    @abstractmethod
    def transition(self, theta: Theta, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., N or 1, K] (the state now) over K states (the state next)."""

    @abstractmethod
    def emission(self, theta: Theta, step: Step) -> TorchDistribution:
        """`p(y_t | z_t)`, batch [..., N or 1, K], over a group's number of solved rollouts. Outcomes are not
        checked against its support: with partial rewards, a Binomial for instance is asked for fractions of a count."""

    def reward(self, theta: Theta, step: Step) -> TorchDistribution | None:
        """The law of one rollout's reward in each state, batch [..., N or 1, K]; the rewards of a group are independent
        draws of it. None, unless a model says it: a group's sum then tells everything, as it does of rewards of 0 and
        1. `simulate` draws the rewards of a group one by one where it is known, and calls a group useful by them."""
        return None

    def informative(self, theta: Theta, step: Step) -> Tensor:
        """[..., N or 1, K], the chance in each state that a group of `step.trials` rollouts is useful, in [0, 1]: with
        rewards of 0 and 1, that it is neither all wrong nor all right. Override it
        together with `tolerance` for other rewards."""
        trials = step.trials.unsqueeze(-1)
        emission = self.emission(theta, step)
        useless = emission.log_prob(torch.zeros_like(trials)).exp() + emission.log_prob(trials).exp()
        return torch.where(trials > 1, (1 - useless).clamp(0, 1), 0.0)

    def kinds(self, num_prompts: int) -> Tensor | None:
        """Long [N], which prompts are alike: those with the same number have the same initial law, and at the same step
        the same moves, outcomes and chances. One belief then stands for all prompts of a kind that were never rolled
        out. With None the model does not say, and prompts are alike only if no law has an entry for each prompt."""
        return None

    def carried(self) -> dict[str, Any]:
        """Arguments of the constructor without which the values of a posterior have no meaning, as plain values for
        JSON: the labels of groups, or the average of a feature. `fit` keeps them as `posterior.about["columns"]`, and a
        model of other prompts is made with them: `Hierarchical(groups, **posterior.about["columns"])`."""
        return {}

    def primed(self, posterior: HasDraws, widen: float = 1.5) -> Self:
        """The same model with a fitted posterior as its prior. The next fit starts from what earlier runs taught.

        Each number of a site that all prompts share is independently normal in unconstrained space, with the mean of
        the posterior's draws and `widen` times their standard deviation. The prompts' own sites keep their law given
        those, and so do sites that are a run's own (`run_sites`). A posterior of mini-batches, or of a guide that is
        too narrow, is trusted less with a larger factor.

        Args:
            posterior: a posterior of this model. It may have been fitted to other prompts.
            widen: the factor, positive. 1 keeps the posterior's standard deviations.

        Raises:
            ValueError: the posterior has fewer than two draws (that of a "delta" guide), or a factor out of range.
            When the prior is first drawn from: a site's draws are of another shape.
        """
        draws = {name: value for name, value in posterior.draws.items() if name not in self.run_sites}
        fewest = min((len(value) for value in draws.values()), default=0)
        if fewest < 2:
            raise ValueError(f"posterior: expected at least two draws, whose spread is the prior's, got {fewest}")
        twin = copy.copy(self)
        prior = self.prior.prior if isinstance(self.prior, Primed) else self.prior
        twin.prior = Primed(prior, draws, checks.positive("widen", widen))  # type: ignore[method-assign]
        return twin

    def parameters(
        self, num_prompts: int, values: Mapping[str, Tensor] | None = None, rows: Tensor | None = None
    ) -> Theta:
        """The parameters at given site values. A site that is not given is at its prior mean. If the mean is not finite
        it is at the median, and if neither has a formula, at that of its base distribution, transformed.

        Args:
            num_prompts: N, the size of the prompts plate.
            values: site name -> value, such as `Posterior.point`; per-prompt sites for all N prompts.
            rows: long [V], the wanted prompts; None for all.

        Raises:
            ValueError: a value is of another shape than its site (a per-prompt one not of N prompts, for instance), or
                of none of the prior's sites; or a site that is not given has no such centre.
        """
        plate = pyro.plate("prompts", num_prompts, subsample=rows, dim=-1)
        with torch.no_grad(), poutine.block(), InitMessenger(centre), At(values or {}, rows) as given:
            theta = self.prior(plate)
        strange = [name for name in given.values if name not in given.sites]
        if strange:
            expected = f"sites of {type(self).__name__} ({', '.join(given.sites) or 'none'})"
            raise ValueError(f"values: expected {expected}, got {', '.join(map(repr, strange))}")
        return theta

    def model(self, history: RolloutHistory, batch_size: int | None = None) -> Tensor:
        """The Pyro model: the prior, and one observed site "outcomes" per prompt, with its states summed out exactly.

        Args:
            history: the log; `history.schedule()` leaves the outcomes to be drawn.
            batch_size: prompts in a mini-batch, for stochastic variational inference over many; None for all.

        Returns:
            [B, T] the outcomes, observed or drawn.
        """
        prompts = pyro.plate("prompts", history.num_prompts, subsample_size=batch_size, dim=-1)
        theta = self.prior(prompts)
        with prompts as rows:
            outcomes, rounds = _laid_out(history, cast("Tensor", rows))
            progress = Progress(self, theta, steps_of(history, outcomes, cast("Tensor", rows)), rounds)
            drawn: Tensor = pyro.sample("outcomes", progress, obs=outcomes.solved)
        return drawn

    def enumerated_model(self, history: RolloutHistory) -> None:
        """The same model with its states written out: sites `z_t` (enumerated in parallel) and `y_t`.

        For `TraceEnum_ELBO`, `infer_discrete` and `pyro.render_model`. Slower than `model`, and equal to it in
        distribution. Only observations are masked: `TraceEnum_ELBO` does not honour a mask on an enumerated state.
        """
        outcomes = history.dense()
        solved, steps = outcomes.solved, steps_of(history, outcomes)
        prompts = pyro.plate("prompts", history.num_prompts, dim=-1)
        theta = self.prior(prompts)
        with prompts:
            law = self.initial(theta)
            for t in pyro.markov(range(history.num_steps)):
                step = steps.at(t)
                z = pyro.sample(f"z_{t}", law, infer={"enumerate": "parallel"})
                with poutine.mask(mask=cast("torch.BoolTensor", step.trials > 0)):
                    shown = Shown(self.emission(theta, step), z)
                    pyro.sample(f"y_{t}", shown, obs=None if solved is None else solved[:, t])
                law = dist.Categorical(Vindex(self.transition(theta, step).probs)[..., z, :])


def _laid_out(history: RolloutHistory, rows: Tensor) -> tuple[Outcomes, Tensor | None]:
    """The prompts' outcomes, and the rounds that have any; None if they are to be drawn."""
    every = len(rows) == history.num_prompts
    if rows.device.type != "cpu":
        return _laid_out_on(rows.device, history, rows, every)
    if not history.observed:
        solved, trials, trained, progress = history.dense()
        return Outcomes(solved, trials[rows], trained[rows], progress), None
    made = layout(history)
    return (history.dense(), made.rounds()) if every else (made.dense(rows), made.rounds(rows))


def _laid_out_on(
    device: torch.device, history: RolloutHistory, rows: Tensor, every: bool
) -> tuple[Outcomes, Tensor | None]:
    """The same on another device than the log's. The outcomes of all prompts are kept there until the log changes."""
    with off_device(device):
        kept = layout(history).elsewhere if every and history.observed else {}
        found = _laid_out(history, rows.cpu()) if device not in kept else None
    if found is not None:
        outcomes, rounds = found
        there = outcomes._replace(
            **{name: part.to(device) for name, part in outcomes._asdict().items() if part is not None}
        )
        kept[device] = there, None if rounds is None else rounds.to(device)
    return kept[device]
