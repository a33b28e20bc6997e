r"""The one contract a model fulfils, and the exact filter that follows from it.

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

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution, constraints
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.ops.indexing import Vindex
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from dps_pyro.forward import (
    Conditioned,
    Filtered,
    condition,
    filter_all,
    log_likelihood,
    predict,
)
from dps_pyro.history import Outcomes, RolloutHistory
from dps_pyro.layout import layout
from dps_pyro.outcome_laws import narrow, unchecked
from dps_pyro.visits import log_likelihood_of_rounds

__all__ = ["Conditioned", "Dynamics", "Progress", "Step", "condition", "predict"]

Theta = TypeVar("Theta")
Size = torch.Size | list[int] | tuple[int, ...]


class Step(NamedTuple):
    """What is known of a training step besides its outcomes; fields broadcast against a model's [..., N] batch."""

    trials: Tensor
    """Rollouts a prompt, [..., N or 1]; 0 where the prompt was not rolled out."""
    trained: Tensor | None = None
    """Whether the policy was updated on the prompt in this step, bool [..., N or 1]; None: wherever `trials > 0`."""
    progress: Tensor | None = None
    """The policy's overall progress before the step, for instance its held-out accuracy, [..., 1]; None: 0."""


class Dynamics(ABC, Generic[Theta]):
    """A model of solving progress. Say four things, and nothing twice; the rest follows.

    A model's methods must broadcast: `theta` may carry leading sample dimensions, `step` leading time dimensions.
    Batch dimensions that all prompts share may be 1 or left out. Every site is sampled in `prior`; the other three
    methods only compute.
    """

    states: tuple[str, ...] = ("unsolved", "partially solved", "solved")
    """The states' names in order, from unsolved to solved; K of them."""
    tolerance: float = 0.0
    """A group is useful where its largest and smallest reward differ by more than this, in [0, 1). Whoever counts
    useful groups (sampler, trainer, replay, report) counts by it, and `informative` is the chance of it."""

    @abstractmethod
    def prior(self, prompts: pyro.plate) -> Theta:
        """Draw the parameters with `pyro.sample`; per-prompt ones inside `with prompts as rows:` (`rows` are the
        prompts' indices, for covariates), global ones outside. Returns whatever the other methods want."""

    @abstractmethod
    def initial(self, theta: Theta) -> dist.Categorical:
        """`p(z_1)`, batch [..., N or 1] over K states."""

    @abstractmethod
    def transition(self, theta: Theta, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., N or 1, K] (the state now) over K states (the state next)."""

    @abstractmethod
    def emission(self, theta: Theta, step: Step) -> TorchDistribution:
        """`p(y_t | z_t)`, batch [..., N or 1, K], over a group's number of solved rollouts. Outcomes are not held
        against its support: where rewards are partial a Binomial, say, is asked for fractions of a count."""

    def informative(self, theta: Theta, step: Step) -> Tensor:
        """[..., N or 1, K], the chance in each state that a group of `step.trials` rollouts is useful, in [0, 1]: with
        rewards of 0 and 1, that it is neither all wrong nor all right. Override it where rewards are others, together
        with `tolerance`."""
        trials = step.trials.unsqueeze(-1)
        emission = self.emission(theta, step)
        useless = emission.log_prob(torch.zeros_like(trials)).exp() + emission.log_prob(trials).exp()
        return torch.where(trials > 1, (1 - useless).clamp(0, 1), 0.0)

    def carried(self) -> dict[str, Any]:
        """Arguments of the constructor that a posterior's values mean nothing without, as plain values for JSON: which
        labels groups have, what an average feature is. `fit` keeps them as `posterior.about["columns"]`, and a model
        of other prompts is made with them: `Hierarchical(groups, **posterior.about["columns"])`."""
        return {}

    def parameters(
        self, num_prompts: int, values: Mapping[str, Tensor] | None = None, rows: Tensor | None = None
    ) -> Theta:
        """The parameters at given site values; a site that is not given stands at its prior mean (where that is not
        finite, at its median; where neither has a formula, at its base distribution's, transformed).

        Args:
            num_prompts: N, the size of the prompts plate.
            values: site name -> value, such as `Posterior.point`; per-prompt sites for all N prompts.
            rows: long [V], the prompts wanted; None for all.

        Raises:
            ValueError: a value is of another shape than its site (a per-prompt one not of N prompts, for instance), or
                of none of the prior's sites; or a site that is not given has no such centre.
        """
        plate = pyro.plate("prompts", num_prompts, subsample=rows, dim=-1)
        with torch.no_grad(), poutine.block(), InitMessenger(_centre), _At(values or {}, rows) as given:
            theta = self.prior(plate)
        strange = [name for name in given.values if name not in given.sites]
        if strange:
            expected = f"sites of {type(self).__name__} ({', '.join(given.sites) or 'none'})"
            raise ValueError(f"values: expected {expected}, got {', '.join(map(repr, strange))}")
        return theta

    def model(self, history: RolloutHistory, batch_size: int | None = None) -> Tensor:
        """The Pyro model: the prior, and one observed site "outcomes" a prompt whose states are summed out exactly.

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
            step = Step(outcomes.trials, outcomes.trained, outcomes.progress)
            progress = Progress(self, theta, step, rounds)
            drawn: Tensor = pyro.sample("outcomes", progress, obs=outcomes.solved)
        return drawn

    def enumerated_model(self, history: RolloutHistory) -> None:
        """The same model with its states written out: sites `z_t` (enumerated in parallel) and `y_t`.

        For `TraceEnum_ELBO`, `infer_discrete` and `pyro.render_model`. Slower than `model`, and equal to it in
        distribution. Only observations are masked: `TraceEnum_ELBO` does not honour a mask on an enumerated state.
        """
        solved, trials, trained, progress = history.dense()
        prompts = pyro.plate("prompts", history.num_prompts, dim=-1)
        theta = self.prior(prompts)
        with prompts:
            law = self.initial(theta)
            for t in pyro.markov(range(history.num_steps)):
                step = Step(trials[:, t], trained[:, t], progress[:, t])
                z = pyro.sample(f"z_{t}", law, infer={"enumerate": "parallel"})
                with poutine.mask(mask=cast("torch.BoolTensor", step.trials > 0)):
                    shown = _Shown(self.emission(theta, step), z)
                    pyro.sample(f"y_{t}", shown, obs=None if solved is None else solved[:, t])
                law = dist.Categorical(Vindex(self.transition(theta, step).probs)[..., z, :])


class Progress(TorchDistribution):
    """The law of prompts' outcomes over T steps, their states summed out by the forward algorithm.

    Batch [..., N], event [T]: `log_prob` is `log p(y_1:T)` for each prompt, exact; `sample` draws a path and what it
    shows.

    Args:
        dynamics: the model.
        theta: its parameters, as `dynamics.prior` returned them.
        steps: what is known of the T steps, the fields [N or 1, T]: time last, as in the event.
        rounds: long [N, R], the steps in which `steps.trials > 0`, a prompt's first, second, ..., and T where it has no
            more. With them the cost of `log_prob` grows with R rather than with T, where the model allows it: that of
            the emissions always, that of the moves where they are the same for all prompts and steps. Without them,
            with T. The value is the same.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, dynamics: Dynamics[Theta], theta: Theta, steps: Step, rounds: Tensor | None = None) -> None:
        first = _each(steps, lambda field: field[..., 0])
        self._initial = dynamics.initial(theta)
        shown, moves = dynamics.emission(theta, first).batch_shape, dynamics.transition(theta, first).batch_shape
        # How many sample dimensions theta carries, left of the prompts: time goes further left than those.
        self._lead = max(0, len(self._initial.batch_shape) - 1, len(moves) - 2, len(shown) - 2)
        self._steps, self._rounds = steps, rounds
        self._emit = partial(dynamics.emission, theta)
        moving = dynamics.transition(theta, _time_first(steps, self._lead)).probs
        # [T, ..., N or 1, K, K]; or [1, ..., N or 1, K, K] where it does not depend on the step
        self._transition = moving.reshape(*[1] * (self._lead + 4 - moving.ndim), *moving.shape)
        batch = torch.broadcast_shapes(self._initial.batch_shape, steps.trials.shape[:-1], shown[:-1], moves[:-1])
        super().__init__(batch, torch.Size([steps.trials.shape[-1]]), validate_args=False)

    def expand(self, batch_shape: Size, _instance: Progress | None = None) -> Progress:
        """The same law over a larger batch."""
        new: Progress = self._get_checked_instance(Progress, _instance)  # type: ignore[no-untyped-call]
        new.__dict__.update(self.__dict__)
        super(Progress, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new

    def log_evidence(self, value: Tensor) -> Tensor:
        """[T, ..., N], the terms of the prequential score: `log p(y_t | y_<t)`, 0 where missing."""
        belief = self._initial.probs
        shown = self._shown(value, self._steps)
        terms = []
        for seen, transition in zip(shown, self._moves(), strict=True):
            conditioned = condition(belief, seen)
            terms.append(conditioned.log_evidence)
            belief = predict(conditioned.belief, transition)
        return torch.stack(terms)

    def filter(self, value: Tensor) -> Filtered:
        """`p(z_t | y_<=t)` [T, ..., N, K] and `log p(y_t | y_<t)` [T, ..., N] for outcomes [..., N, T], without
        gradients."""
        with torch.no_grad():
            return filter_all(self._initial.probs, self._transition, self._shown(value, self._steps))

    def log_prob(self, value: Tensor) -> Tensor:
        """[..., N], `log p(y_1:T)` for outcomes [..., N, T]: the sum of `log_evidence`, with a gradient of its own."""
        (num_steps,), at = self.event_shape, self._rounds
        if at is None or 3 * at.shape[-1] > 2 * num_steps:  # to rearrange so many costs more than it saves
            return log_likelihood(self._initial.probs, self._transition, self._shown(value, self._steps))
        seen, steps = at < num_steps, at.clamp_max(num_steps - 1)
        picked = _each(self._steps, lambda field: field.expand(len(at), -1).gather(-1, steps))
        picked = picked._replace(trials=torch.where(seen, picked.trials, 0))
        emitted = self._shown(value.gather(-1, steps.expand(*value.shape[:-1], -1)), picked)
        return log_likelihood_of_rounds(self._initial.probs, self._transition, emitted, at, num_steps)

    def _moves(self) -> Tensor:
        """[T, ..., N or 1, K, K], `p(z_{t+1} | z_t)`."""
        return self._transition.expand(*self.event_shape, *self._transition.shape[1:])

    def _shown(self, value: Tensor, steps: Step) -> Tensor:
        """[T, ..., N, K], `log p(y_t | z_t)` for outcomes [..., N, T] of some steps; 0 where missing."""
        timed = _time_first(steps, self._lead)
        batch = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        seen = (timed.trials > 0).unsqueeze(-1)
        # [sample dimensions of the value alone, T, ..., N, 1]: time lines up with the law's own
        outcome = value.expand(*batch, -1).movedim(-1, -self._lead - 2).unsqueeze(-1)
        likelihood = narrow(unchecked(self._emit(timed))).log_prob(torch.where(seen, outcome, 0.0))
        return torch.where(seen, likelihood, 0.0).movedim(-self._lead - 3, 0)

    def sample(self, sample_shape: Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        """[..., N, T] outcomes drawn from the law; 0 where missing."""
        batch = torch.Size(sample_shape) + self.batch_shape
        own = self._lead + 1  # batch dimensions between time and the states
        extra, inner = batch[:-own], batch[-own:]
        num_states = self._initial.probs.shape[-1]
        timed = _time_first(self._steps, self._lead)
        with torch.no_grad():
            z = self._initial.expand(inner).sample(extra)
            emission = unchecked(self._emit(timed)).expand([len(timed.trials), *inner, num_states])
            shown = emission.sample(extra).movedim(len(extra), 0)
            outcomes = []
            for t, transition in enumerate(self._moves()):
                outcome = shown[t].gather(-1, z.unsqueeze(-1)).squeeze(-1)
                outcomes.append(torch.where(timed.trials[t] > 0, outcome, 0.0))
                law = transition.expand(*batch, num_states, num_states)
                z = dist.Categorical(Vindex(law)[..., z, :]).sample()
        return torch.stack(outcomes, -1)


class _Shown(TorchDistribution):
    """The emission of a known state: batch [..., N, K] gathered at z."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real
    has_rsample = False

    def __init__(self, emission: TorchDistribution, z: Tensor) -> None:
        self._emission, self._z = unchecked(emission), z
        batch = torch.broadcast_shapes(emission.batch_shape[:-1], z.shape)
        super().__init__(batch, validate_args=False)

    def expand(self, batch_shape: Size, _instance: _Shown | None = None) -> _Shown:
        new: _Shown = self._get_checked_instance(_Shown, _instance)  # type: ignore[no-untyped-call]
        new._emission, new._z = self._emission, self._z
        super(_Shown, new).__init__(torch.Size(batch_shape), validate_args=False)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        picked: Tensor = Vindex(self._emission.log_prob(value.unsqueeze(-1)))[..., self._z]
        return picked

    def sample(self, sample_shape: Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        drawn = self._emission.expand([*self.batch_shape, self._emission.batch_shape[-1]]).sample(sample_shape)
        picked: Tensor = Vindex(drawn)[..., self._z]
        return picked


class _At(Messenger):
    """Substitute site values, each cut down to the wanted rows where the site is a prompt's own."""

    def __init__(self, values: Mapping[str, Tensor], rows: Tensor | None) -> None:
        super().__init__()
        self.values, self.rows = values, rows
        self.sites: list[str] = []

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):  # which rows a plate has is no parameter
            self.sites.append(msg["name"])
        if msg["name"] not in self.values:
            return
        value = torch.as_tensor(self.values[msg["name"]])
        expected, whose = list(msg["fn"].shape()), ""
        own = [frame for frame in msg["cond_indep_stack"] if frame.name == "prompts"]
        if own:
            dim = own[0].dim - len(msg["fn"].event_shape)
            expected[dim] = own[0].full_size
            whose = f" for {own[0].full_size} prompts"
        if list(value.shape) != expected:
            wanted = f"{msg['name']!r}{whose} of shape {tuple(expected)}"
            raise ValueError(f"values: expected {wanted}, got shape {tuple(value.shape)}")
        if own and self.rows is not None:
            value = value.index_select(dim, self.rows)
        msg["value"], msg["is_observed"] = value, True


def _centre(site: Any) -> Tensor:
    """A site's prior mean, or the next best thing: never drawn, so that it is the same each time it is asked for."""
    centre = _middle(site["fn"])
    if centre is None:
        raise ValueError(f"values: expected a value for {site['name']!r}, whose prior has no mean to stand at")
    return centre


def _middle(law: Any) -> Tensor | None:
    if isinstance(law, torch.distributions.Independent):
        return _middle(law.base_dist)
    for formula in (lambda: law.mean, lambda: law.icdf(torch.full(law.batch_shape, 0.5))):
        try:
            value: Tensor = formula()  # type: ignore[no-untyped-call]
        except NotImplementedError:
            continue
        if value.shape == law.batch_shape + law.event_shape and bool(value.isfinite().all()):
            return value
    if not isinstance(law, torch.distributions.TransformedDistribution):
        return None
    base = _middle(law.base_dist)
    for transform in law.transforms if base is not None else []:
        base = transform(base)
    return base


def _each(step: Step, change: Callable[[Tensor], Tensor]) -> Step:
    trials, *others = step
    trained, progress = (None if field is None else change(field) for field in others)
    return Step(change(trials), trained, progress)


def _time_first(steps: Step, lead: int) -> Step:
    """Fields [N or 1, T] -> [T, 1, ..., N or 1] with `lead` ones for theta's sample dimensions."""
    return _each(steps, lambda field: field.movedim(-1, 0).reshape(field.shape[-1], *[1] * lead, *field.shape[:-1]))


def _laid_out(history: RolloutHistory, rows: Tensor) -> tuple[Outcomes, Tensor | None]:
    """The prompts' outcomes, and the rounds in which there were any; None where they are to be drawn."""
    every = len(rows) == history.num_prompts
    if not history.observed:
        solved, trials, trained, progress = history.dense()
        return Outcomes(solved, trials[rows], trained[rows], progress), None
    made = layout(history)
    return (history.dense(), made.rounds()) if every else (made.dense(rows), made.rounds(rows))
