r"""The simplest tracker: a moving average of the variance of each prompt's group rewards.

The variance of a group's 0/1 rewards, `m (1 - m)` with m its mean, is largest where half of the rollouts solve the
prompt and 0 where the group has no gradient; curriculum samplers select by it (VCRL, arXiv 2509.19803, for one). Here
its moving average is kept for each prompt, and the mean's:

    gain     = max(1 - decay, 1 / (seen + 2))
    mean     <- mean     + gain * (m - mean)
    variance <- variance + gain * (m (1 - m) - variance)

for the prompts that were rolled out; the others keep theirs. A prompt never seen stands at `start`, which counts as one
group: the first groups are averaged plainly with it, until `1 / (1 - decay)` of them are there.

To be scored beside models, the averages are read as a law of the prompt's success rate. Two rates p have
`p (1 - p) = variance`: `low` and `high = 1 - low`. The chance w of the higher one is the one with the average mean,
`(1 - w) low + w high = mean`; there is one, as an average of `m (1 - m)` is at most `mean (1 - mean)`. The chance that
a group of n is mixed is the same under both, `1 - low^n - high^n`: it depends on the variance alone. Rates are kept
within 0.001..0.999: a prompt that was never solved would otherwise count as one that cannot be.

What it cannot do: the variance within a group of n is on average `(n - 1) / n` of what it is for one rollout, so that
chances come out a little low, and a group of one has none at all; no prompt learns from another; nothing moves between
visits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.step import Step
from dps_pyro.support import checks
from dps_pyro.tracking.groups import Groups, State
from dps_pyro.tracking.predictor import Filter
from dps_pyro.tracking.rates import Mixture

__all__ = ["RewardEMA"]

LEAST_RATE = 0.001
"""Success rates are kept this far from 0 and 1."""


class RewardEMA:
    """Moving averages of each prompt's group reward and its variance.

    Args:
        decay: what the averages keep when the next group comes, in [0, 1]; at 1 they are the averages of all groups.
        start: (mean, variance) of a prompt never seen, both above 0, the variance at most `mean (1 - mean)`. The
            default is what a rate has on average that may be anything in 0..1, and optimistic: prompts never seen are
            held useful. A higher variance has them tried sooner; a lower one predicts better where most are not useful.
        trials: the group size that the beliefs speak of (any other, of `informative`): the chances that a group of as
            many rollouts comes back all wrong ("unsolved"), mixed ("partially solved"), and all right ("solved").

    Raises:
        ValueError: an argument is of another kind or out of range.
    """

    states: tuple[str, ...] = Dynamics.states
    """The classes of a group's outcome, from all wrong to all right."""

    def __init__(self, decay: float = 0.7, start: Sequence[float] = (1 / 2, 1 / 6), trials: int = 8) -> None:
        self.decay = checks.positive("decay", decay, or_zero=True)
        if self.decay > 1:
            raise ValueError(f"decay: expected a number in [0, 1], got {decay}")
        moments = checks.numbers("start", start)
        mean, variance = moments.tolist() if moments.shape == (2,) else (-1.0, -1.0)
        if not 0 < variance <= mean * (1 - mean):
            expected = "a mean, and a variance above 0 of at most mean (1 - mean)"
            raise ValueError(f"start: expected {expected}, got {start!r}")
        self.start = (mean, variance)
        self.trials = checks.count("trials", trials, 1)

    def tracker(
        self, num_prompts: int, *, values: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
    ) -> Filter:
        """The averages of `num_prompts` prompts.

        Raises:
            ValueError: there are `values`: nothing is fitted.
        """
        if values:
            came = ", ".join(map(repr, values))
            raise ValueError(f"values: expected none, as RewardEMA averages online (see its start), got {came}")
        return _EMATracker(self, num_prompts, dtype or torch.get_default_dtype())


class _Law(NamedTuple):
    """A success rate that is `low` or `high`, float64 [N] each."""

    low: Tensor
    high: Tensor
    weight: Tensor  # the chance that it is high


class _EMATracker(Filter):
    """Mean [N] and variance [N], and how many groups they are of, long [N]."""

    def __init__(self, model: RewardEMA, num_prompts: int, dtype: torch.dtype) -> None:
        self.model = model
        self.states = model.states
        super().__init__(num_prompts, dtype)

    @property
    def belief(self) -> Tensor:
        """[N, 3], the predictive chances of the three classes of a group of the model's `trials` rollouts."""
        low, high, weight = _law(self._state)
        trials = self.model.trials
        least, most = low**trials, high**trials
        unsolved = (1 - weight) * most + weight * least
        solved = (1 - weight) * least + weight * most
        return torch.stack([unsolved, _mixed(low, high, trials), solved], -1).to(self.dtype)

    def informative(self, trials: int) -> Tensor:
        """[N], the chance of a useful group if the rate's variance is the average one."""
        low, high, _ = _law(self._state)
        return _mixed(low, high, trials).to(self.dtype)

    def rates(self) -> Mixture:
        """The lower and the higher rate, with their chances."""
        low, high, weight = _law(self._state)
        return Mixture.of_states(torch.stack([low, high], -1), torch.stack([1 - weight, weight], -1))

    def draw(self, generator: torch.Generator) -> Tensor:
        """[N], the lower or the higher rate, drawn. Both are as far from 0.5: `target(0.5)` ranks by variance."""
        low, high, weight = _law(self._state)
        noise = torch.rand(weight.shape, generator=generator, dtype=weight.dtype)
        return torch.where(noise < weight, high, low).to(self.dtype)

    def _start(self, num_rows: int, theta: None) -> State:
        mean, variance = self.model.start
        return {
            "mean": torch.full([num_rows], mean, dtype=self.dtype),
            "variance": torch.full([num_rows], variance, dtype=self.dtype),
            "seen": torch.zeros(num_rows, dtype=torch.long),
        }

    def _advance(self, state: State, groups: Groups, step: Step, theta: None) -> tuple[State, Tensor]:
        here = {name: value[groups.at] for name, value in state.items()}
        solved, trials = groups.solved.double(), groups.trials.double()
        came = groups.trials > 0
        reward = solved / trials.clamp_min(1)
        gain = (1 / (here["seen"].double() + 2)).clamp_min(1 - self.model.decay) * came
        now = {
            "mean": torch.lerp(here["mean"].double(), reward, gain),
            "variance": torch.lerp(here["variance"].double(), reward * (1 - reward), gain),
            "seen": here["seen"] + came,
        }
        after = {name: value.index_copy(0, groups.at, now[name].to(value.dtype)) for name, value in state.items()}
        return after, _log_evidence(_law(here), solved, trials).to(self.dtype)


def _law(state: State) -> _Law:
    """The success rates that have the average mean and variance."""
    mean, variance = state["mean"].double(), state["variance"].double()
    variance = variance.clamp(LEAST_RATE * (1 - LEAST_RATE), 0.25)
    apart = (1 - 4 * variance).sqrt()
    low = (1 - apart) / 2
    # Where the two are one, so are their weights.
    return _Law(low, 1 - low, ((mean - low) / apart.clamp_min(1e-12)).clamp(0, 1))


def _mixed(low: Tensor, high: Tensor, trials: int) -> Tensor:
    """The chance that a group of `trials` rollouts is neither all wrong nor all right."""
    return (1 - low**trials - high**trials).clamp(0, 1) if trials > 1 else torch.zeros_like(low)


def _log_evidence(law: _Law, solved: Tensor, trials: Tensor) -> Tensor:
    """[V], the log-probability of the groups: a mixture of two Binomials."""
    failed = trials - solved
    ways = (trials + 1).lgamma() - (solved + 1).lgamma() - (failed + 1).lgamma()
    lower = solved * law.low.log() + failed * law.high.log()
    higher = solved * law.high.log() + failed * law.low.log()
    return ways + torch.logaddexp((1 - law.weight).log() + lower, law.weight.log() + higher)
