r"""The bandit's tracker, exactly: MoPPS, model predictive prompt selection (arXiv 2507.04632).

A prompt's rollouts are Bernoulli with a success rate of its own, and the rate has a Beta posterior that forgets:

    alpha <- decay * alpha + (1 - decay) * alpha_0 + s            s of the group's k rollouts solved the prompt
    beta  <- decay * beta  + (1 - decay) * beta_0  + k - s

for the prompts that were rolled out; the others keep theirs for as long as they are not (the authors' code,
github.com/thu-rllab/MoPPS, recipe/ours/mopps.py). Less the prior, alpha and beta are discounted counts of successes and
failures, `successes <- decay * successes + s`: that is what is kept here, and the prior is added where it is used.

The authors draw each prompt's rate from its posterior and take those nearest 0.5, `acquisition="target"`, among random
candidates, 16 batches in their scripts; here all prompts are candidates. Their code reads the group size from its
configuration, k here is each group's own.

No prompt learns from another, and an unvisited one stands at the prior however much the policy has learned: what the
hidden Markov models of this package are measured against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.step import Step
from dps_pyro.support import checks
from dps_pyro.tracking.groups import Groups, State
from dps_pyro.tracking.predictor import Filter
from dps_pyro.tracking.rates import BetaRates

__all__ = ["BetaBernoulli"]


class BetaBernoulli:
    """A discounted Beta posterior of each prompt's success rate.

    Args:
        prior: (alpha_0, beta_0), numbers above 0: the Beta distribution of a rate before anything is known. The authors
            use (1, 1), uniform. Numbers below 1 expect rates near 0 and 1, and few useful groups.
        decay: what a prompt's counts keep when its next group comes, in [0, 1]. The authors use 0.5 on Countdown and on
            Geometry3k, and 1 (nothing is forgotten) on MATH.
        trials: the group size that the beliefs speak of (any other, of `informative`): the chances that a group of as
            many rollouts comes back all wrong ("unsolved"), mixed ("partially solved"), and all right ("solved").

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    states: tuple[str, ...] = Dynamics.states
    """The classes of a group's outcome, from all wrong to all right."""

    def __init__(self, prior: Sequence[float] = (1.0, 1.0), decay: float = 0.5, trials: int = 8) -> None:
        counts = checks.numbers("prior", prior)
        if counts.shape != (2,) or not bool((counts > 0).all() and counts.isfinite().all()):
            raise ValueError(f"prior: expected two numbers above 0, got {prior!r}")
        self.prior = (float(counts[0]), float(counts[1]))
        self.decay = checks.positive("decay", decay, or_zero=True)
        if self.decay > 1:
            raise ValueError(f"decay: expected a number in [0, 1], got {decay}")
        self.trials = checks.count("trials", trials, 1)

    def tracker(
        self, num_prompts: int, *, values: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
    ) -> Filter:
        """The counts of `num_prompts` prompts.

        Raises:
            ValueError: there are `values`: nothing is fitted, the posterior is this filter's to follow.
        """
        if values:
            came = ", ".join(map(repr, values))
            raise ValueError(f"values: expected none, as BetaBernoulli counts online (see its prior), got {came}")
        return _BetaTracker(self, num_prompts, dtype or torch.get_default_dtype())


class _BetaTracker(Filter):
    """Discounted successes [N] and failures [N], without the prior."""

    def __init__(self, model: BetaBernoulli, num_prompts: int, dtype: torch.dtype) -> None:
        self.model = model
        self.states = model.states
        super().__init__(num_prompts, dtype)

    @property
    def belief(self) -> Tensor:
        """[N, 3], the predictive chances of the three classes of a group of the model's `trials` rollouts."""
        unsolved, mixed, solved = self._classes(self.model.trials)
        return torch.stack([unsolved, mixed, solved], -1).to(self.dtype)

    def informative(self, trials: int) -> Tensor:
        """[N], the predictive chance of a useful group, exact by the Beta-binomial distribution."""
        return self._classes(trials)[1].to(self.dtype)

    def rates(self) -> BetaRates:
        """The Beta posteriors."""
        return BetaRates(*self._posterior(self._state))

    def draw(self, generator: torch.Generator) -> Tensor:
        """[N], a draw of each prompt's success rate from its Beta posterior."""
        shapes = torch.stack(self._posterior(self._state))
        # Beta is a ratio of gammas. In logs, with Gamma(a) = Gamma(a + 1) * U^(1/a), no small count underflows.
        uniform = 1 - torch.rand(shapes.shape, generator=generator, dtype=shapes.dtype)
        gammas = torch._standard_gamma(shapes + 1, generator=generator)  # the public samplers take no generator
        logs = gammas.log() + uniform.log() / shapes
        return torch.sigmoid(logs[0] - logs[1]).to(self.dtype)

    def _start(self, num_rows: int, theta: None) -> State:
        return {name: torch.zeros(num_rows, dtype=self.dtype) for name in ("successes", "failures")}

    def _advance(self, state: State, groups: Groups, step: Step, theta: None) -> tuple[State, Tensor]:
        alpha, beta = (shape[groups.at] for shape in self._posterior(state))
        solved, trials = groups.solved.double(), groups.trials.double()
        failed = trials - solved
        ways = (trials + 1).lgamma() - (solved + 1).lgamma() - (failed + 1).lgamma()
        evidence = ways + _log_beta(alpha + solved, beta + failed) - _log_beta(alpha, beta)
        after = {}
        for name, count in (("successes", solved), ("failures", failed)):
            before = state[name][groups.at].double()
            now = torch.where(groups.trials > 0, self.model.decay * before + count, before)
            after[name] = state[name].index_copy(0, groups.at, now.to(self.dtype))
        return after, evidence.to(self.dtype)

    def _posterior(self, state: State) -> tuple[Tensor, Tensor]:
        """Alpha and beta [N], float64: their logarithms' differences are small beside the logarithms."""
        return self.model.prior[0] + state["successes"].double(), self.model.prior[1] + state["failures"].double()

    def _classes(self, trials: int) -> tuple[Tensor, Tensor, Tensor]:
        """[N] each, the chances that a group of `trials` rollouts is all wrong, mixed, and all right."""
        alpha, beta = self._posterior(self._state)
        whole = _log_beta(alpha, beta)
        unsolved = (_log_beta(alpha, beta + trials) - whole).exp()
        solved = (_log_beta(alpha + trials, beta) - whole).exp()
        mixed = (1 - unsolved - solved).clamp(0, 1) if trials > 1 else torch.zeros_like(whole)
        return unsolved, mixed, solved


def _log_beta(alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha.lgamma() + beta.lgamma() - (alpha + beta).lgamma()
