"""From beliefs to a batch: which prompts to roll out next.

An acquisition gives every prompt a score; the highest scores are taken. Any function of that signature will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from dps_pyro.support.plugins import load

if TYPE_CHECKING:
    from dps_pyro.tracking.predictor import Filter

__all__ = [
    "ACQUISITIONS",
    "Acquisition",
    "Forecast",
    "acquisition_named",
    "by_variance",
    "changes_nothing",
    "covering",
    "entropy",
    "priority",
    "soft",
    "target",
    "thompson",
    "top",
    "tracker_of",
    "uniform",
    "worth_named",
]


class Forecast(NamedTuple):
    """What is known about the prompts before the coming step: the input of an acquisition."""

    belief: Tensor  # [N, K], p(z_t | y_<t)
    informative: Tensor  # [N], the predictive chance of a useful group, in [0, 1]
    visits: Tensor  # long [N], how often each prompt has been rolled out
    draw: Callable[[torch.Generator], Tensor]  # a draw of each prompt's success rate from its belief, [N]
    trials: int = 8  # the group size planned
    tracker: Filter | None = None  # what all of this is from, with more to ask: `rates()`, for instance; read it only


def tracker_of(forecast: Forecast) -> Filter:
    """The tracker that a forecast is from.

    Raises:
        ValueError: the forecast does not say.
    """
    if forecast.tracker is None:
        raise ValueError("forecast: expected the tracker that it is from, got none")
    return forecast.tracker


Acquisition = Callable[[Forecast, torch.Generator], Tensor]
"""`(forecast, generator) -> scores [N]`: the B highest are selected."""


def changes_nothing(acquire: Acquisition) -> bool:
    """Whether an acquisition is one of this module, none of which changes the tensors that it is given."""
    if isinstance(acquire, partial):
        inner = acquire.keywords.get("acquire")
        return changes_nothing(acquire.func) and (inner is None or changes_nothing(inner))
    return getattr(acquire, "__module__", None) == __name__


def top(forecast: Forecast, generator: torch.Generator) -> Tensor:
    """The highest chances of a useful group (DPS, arXiv 2603.10887), ties broken at random.

    Greedy: it returns to the same prompts for as long as they stay useful, and leaves most of the set unseen.
    """
    return _shuffled(forecast.informative, generator)


def thompson(forecast: Forecast, generator: torch.Generator) -> Tensor:
    """Draw each prompt's group outcome from its predictive distribution; choose uniformly among those drawn useful.

    The batch distribution of dynamic sampling (DAPO, arXiv 2503.14476) without its rollouts: where fewer than a batch
    are drawn useful, the others are drawn again, and so on. In one go: a prompt with chance p is first drawn useful in
    round 1 + floor(log U / log(1 - p)); the earliest rounds are taken, at random within a round.
    """
    noise = torch.rand(2, len(forecast.informative), generator=generator, dtype=torch.float64)
    chance = forecast.informative.double().clamp(0, 1)
    rounds = torch.floor(noise[0].log() / torch.log1p(-chance))  # p = 1: 0 rounds waited; p = 0: for ever
    # 2^30 rounds are for ever, and leave enough digits to choose at random among many hopeless prompts.
    return noise[1] - rounds.nan_to_num(nan=0.0).clamp(max=2.0**30)


def soft(sharpness: float) -> Acquisition:
    """A soft top B: draw the batch without replacement with weights `p ** sharpness`, p the chance of a useful group.

    Between `uniform` (0) and `top` (infinity), and close to `thompson` at 1: the larger, the more useful groups and the
    fewer different prompts. Drawn by the Gumbel-top-k trick (arXiv 1903.06059).
    """
    return partial(soft_scores, sharpness=sharpness)


def soft_scores(forecast: Forecast, generator: torch.Generator, *, sharpness: float) -> Tensor:
    """What `soft` is of one sharpness."""
    noise = torch.rand(len(forecast.informative), generator=generator, dtype=torch.float64)
    gumbel = -(-noise.clamp_min(1e-300).log()).log()
    return gumbel + sharpness * forecast.informative.double().clamp_min(1e-12).log()


def by_variance(acquire: Acquisition) -> Acquisition:
    """Rank prompts by the expected variance of one rollout's reward, in place of the chance of a useful group.

    With rewards of 0 and 1 that is E[p (1 - p)], half of the chance that two rollouts of the prompt differ. It is
    multiplied by 4, so that it lies in 0..1. It is proportional to the expected squared advantage without division by
    the group's standard deviation (`Signal("dr_grpo")`), whatever the group size. In large groups the chance of a
    useful group is nearly 1 for every prompt that is neither hard nor easy; the variance still prefers even odds.
    """
    return partial(variance_scores, acquire=acquire)


def variance_scores(forecast: Forecast, generator: torch.Generator, *, acquire: Acquisition) -> Tensor:
    """What `by_variance` is of one acquisition.

    Raises:
        ValueError: the forecast does not say which tracker it is from.
    """
    worth = 2 * tracker_of(forecast).informative(2)
    return acquire(forecast._replace(informative=worth.clamp(0, 1)), generator)


def covering(share: float) -> Acquisition:
    """`soft` with the sharpness at which the draw still spreads over a `share` of the prompts, in (0, 1].

    The weights w = p ** sharpness, normalised, have the effective number exp(entropy): as many prompts with equal
    weights would have the same entropy. It falls from N at sharpness 0 as the sharpness grows. In each step, bisection
    finds the largest sharpness, up to 64, that keeps it at `share * N` or above. If most prompts are hopeless, the
    choice is softer than that of a fixed sharpness, and in a long run it cannot narrow to a few favourites.

    Raises:
        ValueError: the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"covering: expected a share in (0, 1], got {share}")

    def acquire(forecast: Forecast, generator: torch.Generator) -> Tensor:
        logs = forecast.informative.double().clamp_min(1e-12).log()
        return soft(_sharpest(logs, share))(forecast, generator)

    return acquire


def _sharpest(logs: Tensor, share: float, most: float = 64.0) -> float:
    """The largest sharpness up to `most` whose weights exp(sharpness * logs) spread over `share` of the prompts."""
    wanted = math.log(share * len(logs)) - 1e-9  # rounding: equal weights have exactly the entropy log N

    def spreads(sharpness: float) -> bool:
        return float(torch.special.entr((sharpness * logs).softmax(0)).sum()) >= wanted

    if spreads(most):
        return most
    low, high = 0.0, most
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if spreads(middle) else (low, middle)
    return low


def target(rate: float) -> Acquisition:
    """Thompson draws of the success rates; the prompts whose draws are nearest `rate` are taken (MoPPS, arXiv
    2507.04632, where it is 0.5)."""
    return partial(target_scores, rate=rate)


def target_scores(forecast: Forecast, generator: torch.Generator, *, rate: float) -> Tensor:
    """What `target` is of one rate."""
    return _shuffled(-(forecast.draw(generator) - rate).abs(), generator)


def priority(forecast: Forecast, generator: torch.Generator) -> Tensor:
    """Single-stream policy optimization's (SPO, arXiv 2509.13232): draw without replacement with weights
    `sqrt(v (1 - v)) + 0.05`, v the expected success rate. (Its authors draw from the batches that their data loader
    hands out, github.com/verl-project/verl-recipe, spo/spo_ray_trainer.py; here all prompts are candidates.)

    Raises:
        ValueError: the forecast does not say which tracker it is from.
        NotImplementedError: that does not say how success rates are distributed.
    """
    value = tracker_of(forecast).rates().sequence(1, 0).clamp(0, 1)
    return soft(1.0)(forecast._replace(informative=(value * (1 - value)).sqrt() + 0.05), generator)


def entropy(forecast: Forecast, generator: torch.Generator) -> Tensor:
    """The most uncertain states, `-sum_k b_k log b_k`: exploration for its own sake."""
    return _shuffled(torch.special.entr(forecast.belief).sum(-1), generator)


def uniform(forecast: Forecast, generator: torch.Generator) -> Tensor:
    """Every prompt alike: the baseline."""
    return torch.rand(len(forecast.informative), generator=generator)


ACQUISITIONS: dict[str, Acquisition] = {
    "top": top,
    "variance": by_variance(soft(2.0)),
    "soft": soft(4.0),
    "covering": covering(0.5),
    "thompson": thompson,
    "target": target(0.5),
    "priority": priority,
    "entropy": entropy,
    "uniform": uniform,
}
"""The names that configurations and command lines use."""


def worth_named(worth: str | None, acquisition: str) -> str:
    """What an acquisition, given by its name, ranks prompts by: `worth`, or if that is None "variance" for "soft" and
    "useful" for all others."""
    return worth or ("variance" if acquisition == "soft" else "useful")


def _shuffled(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Scores with ties broken at random. Equal beliefs differ by rounding, so what is closer than 1e-7 is a tie."""
    return scores.double() + 1e-7 * torch.rand(len(scores), generator=generator, dtype=torch.float64)


def acquisition_named(name: str, sharpness: float, coverage: float = 0.5) -> Acquisition:
    """An acquisition by its name, with the sharpness of "soft" or the coverage of "covering"; or of a user's file:
    path/to/file.py:function.

    Raises:
        ValueError: it is of a file that is not there, or is no function.
    """
    if name == "soft":
        return soft(sharpness)
    if name == "covering":
        return covering(coverage)
    if name in ACQUISITIONS:
        return ACQUISITIONS[name]
    found: Acquisition | None = load("acquisition", name)
    if not callable(found):
        raise ValueError(f"acquisition: expected a function, path/to/file.py:function, got {name!r}")
    return found
