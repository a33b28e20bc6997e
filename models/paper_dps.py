r"""The published tracker, exactly: Dynamics-Predictive Sampling (arXiv 2603.10887).

The state is taken as observed: all wrong, mixed, or all right. Each prompt has a transition matrix of its own under a
Dirichlet prior, followed online by counts that forget:

    xi_t    = normalised  outer(p_{t-1}, p_t) * E[T_{t-1}]              (a visited prompt; 0 for an unvisited one)
    alpha_t = decay * alpha_{t-1} + (1 - decay) * alpha_0 + xi_t
    E[T_t]  = alpha_t / sum over next states
    belief  = p_t E[T_t]

where `p_t` is the observed state of a visited prompt, the belief itself of an unvisited one, and `p_0` the initial
distribution. Counts are updated with the matrix before the step, the prediction uses the updated matrix. (The paper
writes the transposed, column-stochastic matrices.)

As a Pyro model it is the same HMM with a fixed matrix a prompt, `matrix_i ~ Dirichlet(alpha_0)`: what the counts would
follow without forgetting. The tracker is what the paper runs, and what `PromptSampler(PaperDPS(...))` uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.progress import Size
from dps_pyro.dynamics.step import Step
from dps_pyro.support import checks
from dps_pyro.tracking.groups import State
from dps_pyro.tracking.tracker import Tracker

__all__ = ["PaperDPS"]


class Parameters(NamedTuple):
    """The model's parameters."""

    matrix: Tensor  # [..., N, 3, 3], p(next | now) of each prompt


class PaperDPS(Dynamics[Parameters]):
    """The paper's three observed states, per-prompt Dirichlet counts and forgetting.

    Args:
        prior_alpha: the Dirichlet counts `alpha_0`: a positive number, or a [3, 3] tensor of numbers of at least 0,
            rows the state now, columns the next, no row all zero. The paper uses 1.
        decay: what is kept of the counts at each step, in [0, 1]. The paper uses 0.7 on MATH and 0.5 elsewhere.
        initial: [3], the distribution before the first step. The default is uniform.
    """

    def __init__(
        self,
        prior_alpha: float | Tensor | Sequence[Sequence[float]] = 1.0,
        decay: float = 0.7,
        initial: Sequence[float] | Tensor | None = None,
    ) -> None:
        counts = _real("prior_alpha", prior_alpha)
        if counts.shape not in ((), (3, 3)):
            raise ValueError(f"prior_alpha: expected a number or shape (3, 3), got shape {tuple(counts.shape)}")
        self.prior_alpha = counts.expand(3, 3).clone()
        start = torch.ones(3) if initial is None else _real("initial", initial)
        if initial is not None:
            self.prior_alpha = self.prior_alpha.to(torch.promote_types(self.prior_alpha.dtype, start.dtype))
        totals = self.prior_alpha.sum(-1)
        if not bool((self.prior_alpha >= 0).all() and (totals > 0).all() and totals.isfinite().all()):
            raise ValueError(f"prior_alpha: expected counts >= 0 with a positive sum in each row, got {prior_alpha}")
        self.decay = checks.positive("decay", decay, or_zero=True)
        if self.decay > 1:
            raise ValueError(f"decay: expected a number in [0, 1], got {decay}")
        if start.shape != (3,) or not bool((start >= 0).all() and 0 < start.sum() < float("inf")):
            raise ValueError(f"initial: expected three chances, got {initial}")
        self.start = start.to(self.prior_alpha.dtype) / start.sum()

    def prior(self, prompts: pyro.plate) -> Parameters:
        """Site "transition" [N, 3, 3]: each prompt's own rows, independent Dirichlets."""
        with prompts:
            # A count of zero forbids a move: the tracker keeps it at zero, the density needs it positive.
            rows = dist.Dirichlet(self.prior_alpha.clamp_min(1e-6).to(torch.get_default_dtype())).to_event(1)
            return Parameters(pyro.sample("transition", rows))

    def initial(self, theta: Parameters) -> dist.Categorical:
        """`p(z_1)`, batch []: the given start, the same for all prompts."""
        return dist.Categorical(self.start.to(torch.get_default_dtype()))

    def transition(self, theta: Parameters, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., N, 3]."""
        return dist.Categorical(theta.matrix)

    def emission(self, theta: Parameters, step: Step) -> TorchDistribution:
        """All wrong in state 0, mixed in state 1, all right in state 2: batch [..., N, 3]."""
        return _ObservedState(step.trials.unsqueeze(-1))

    def tracker(
        self, num_prompts: int, *, values: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
    ) -> Tracker:
        """The paper's online update in place of a fixed matrix.

        Raises:
            ValueError: there are `values`; the counts are this filter's prior.
        """
        if values:
            came = ", ".join(map(repr, values))
            raise ValueError(f"values: expected none, as PaperDPS counts online (see its prior_alpha), got {came}")
        return _CountingTracker(self, num_prompts, dtype=dtype or self.prior_alpha.dtype)


class _CountingTracker(Tracker):
    """Beliefs [N, 3], the distribution before them [N, 3], and counts [N, 3, 3]."""

    dynamics: PaperDPS

    def _start(self, num_rows: int, theta: Parameters) -> State:
        start = self.dynamics.start.to(self.dtype).expand(num_rows, 3)
        prior = self.dynamics.prior_alpha.to(self.dtype).expand(num_rows, 3, 3)
        return {"belief": start.clone(), "previous": start.clone(), "counts": prior.clone()}

    def _move(self, state: State, at: Tensor, posterior: Tensor, step: Step, theta: Parameters) -> State:
        counts, dynamics = state["counts"], self.dynamics
        before = counts[at]
        joint = _expected(before) * state["previous"][at].unsqueeze(-1) * posterior.unsqueeze(-2)
        total = joint.sum((-2, -1), keepdim=True)
        # A move that the prior forbids (a count of 0) has no share to give: it counts nothing.
        transitions = torch.where(total > 0, joint / total, torch.zeros_like(joint))
        counts = counts * dynamics.decay + dynamics.prior_alpha.to(counts.dtype) * (1 - dynamics.decay)
        counts[at] += transitions
        now = state["belief"].index_copy(0, at, posterior)
        ahead = (now.unsqueeze(-2) @ _expected(counts)).squeeze(-2)
        return {"belief": ahead / ahead.sum(-1, keepdim=True), "previous": now, "counts": counts}


class _ObservedState(TorchDistribution):
    """A group's count given its class: 0, uniform over 1..n-1, or n."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.nonnegative_integer
    has_rsample = False

    def __init__(self, trials: Tensor, batch_shape: torch.Size | None = None) -> None:
        self.trials = trials  # [..., N, 1]
        batch = batch_shape if batch_shape is not None else torch.Size([*trials.shape[:-1], 3])
        super().__init__(batch, validate_args=False)

    def expand(self, batch_shape: Size, _instance: Any = None) -> _ObservedState:
        return _ObservedState(self.trials, torch.Size(batch_shape))

    @property
    def mean(self) -> Tensor:
        """[..., N, 3]: 0, n / 2 and n."""
        trials = self.trials.to(torch.get_default_dtype())
        return torch.cat([torch.zeros_like(trials), trials / 2, trials], -1).expand(self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """[..., N, 3] for values [..., N, 1]."""
        wrong, right = value <= 0, value >= self.trials
        mixed = ~wrong & ~right
        uniform = -(self.trials - 1).clamp_min(1).to(torch.get_default_dtype()).log()
        possible = torch.cat(torch.broadcast_tensors(wrong, mixed, right & ~wrong), -1)
        weight = torch.cat(torch.broadcast_tensors(torch.zeros_like(uniform), uniform, torch.zeros_like(uniform)), -1)
        return torch.where(possible, weight, float("-inf"))

    def sample(self, sample_shape: Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        shape = torch.Size(sample_shape) + self.batch_shape
        trials = self.trials.to(torch.get_default_dtype()).expand(*shape[:-1], 1).squeeze(-1)
        mixed = 1 + (torch.rand(trials.shape) * (trials - 1)).floor().clamp_min(0)
        return torch.stack([torch.zeros_like(trials), torch.minimum(mixed, trials), trials], -1)


def _expected(counts: Tensor) -> Tensor:
    """E[matrix] under Dirichlet(counts) rows."""
    return counts / counts.sum(-1, keepdim=True)


def _real(name: str, value: float | Tensor | Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: expected numbers, got {value!r}") from error
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())
