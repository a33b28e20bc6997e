"""What share of a bill predicted selection saves, from the committed results: the tables of docs/evidence/costs.md.

Rollouts are a part of a bill. Let g be the share of a step's time that goes into generation. To the same held-out
accuracy,

    saved = 1 - (g * tokens / tokens' + (1 - g) * trained / trained')

where tokens and trained are the generated tokens and the completions that the updates learned from, of predicted
selection, and those with a prime are of the selection that it is compared with. Accuracies are read off the mean curve
over seeds, as `dps_pyro.trainers.bench.measures` does it, and intervals are percentiles of the bootstrap over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from dps_pyro.report.measures import crossing
from dps_pyro.trainers.bench.curves import Curve
from dps_pyro.trainers.bench.measures import mean_curve

__all__ = ["LABS", "SHARES", "Arm", "Lab", "Ratio", "Spending", "arm_of", "bill", "nothing", "ratios", "shares"]

SHARES = (0.5, 0.8)
"""Shares of generation in a step's time that the tables show."""
TESTBED = "planning"
"""The testbed by which laboratories are told what they save."""
OURS = "Siblings, groups of 1"
GROUPED = "Siblings, soft"
THINNED = "Siblings, groups of 1, thinned"
LONGER = "Siblings, groups of 1, 600 steps"
PAIRS = {"uniform": (OURS, THINNED, GROUPED), "dynamic sampling": (OURS, LONGER)}
"""Arm that sets the accuracy -> arms that are to reach it. A testbed may lack one of them."""
SIZES = {OURS: "1", THINNED: "1, thinned", GROUPED: "4", LONGER: "1, for twice the steps"}
"""What the tables call these arms: the size of their groups."""
DRAWS, SEED = 2000, 0


class Lab(NamedTuple):
    """What a laboratory is assumed to pay for a run with uniform selection."""

    name: str
    gpus: int
    gpu_hour: float  # dollars
    rollouts: float
    tokens: float  # of a completion
    speed: float  # generated tokens per second and GPU

    @property
    def drawing(self) -> float:
        """GPU-hours of generation."""
        return self.rollouts * self.tokens / self.speed / 3600


LABS = (
    Lab("small", gpus=1, gpu_hour=2.0, rollouts=50_000, tokens=1_000, speed=2_000.0),
    Lab("large", gpus=64, gpu_hour=2.0, rollouts=2_000_000, tokens=8_000, speed=1_500.0),
)
"""Assumptions, none of them measured here."""


class Spending(NamedTuple):
    """What a way of selecting prompts spends until an accuracy. Infinite if it is not reached."""

    rollouts: float
    tokens: float  # generated
    trained: float  # completions that the updates learned from


class Ratio(NamedTuple):
    """A share of the spending of another selection, with its 95 % bootstrap interval over seeds."""

    mean: float
    low: float
    high: float

    @property
    def saved(self) -> str:
        """What is saved, for a table. The interval is left open where the accuracy is not reached in some resamples."""
        if math.isinf(self.mean):
            return "not reached"
        least = "not certain" if math.isinf(self.high) else f"{1 - self.high:.0%}"
        return f"{1 - self.mean:.0%} ({least} to {1 - self.low:.0%})"


class Arm(NamedTuple):
    """One way of selecting prompts, on one testbed."""

    runs: dict[str, Curve]  # by seed
    group_size: int
    full: bool  # every step learns from a whole batch of useful groups, as with dynamic sampling

    def spent(self, seeds: Sequence[str], accuracy: float) -> Spending:
        """What the runs of these seeds spent in the mean until they first had a held-out accuracy."""
        runs = [self.runs[seed] for seed in seeds]
        rollouts, heights = mean_curve(runs)
        at = crossing(rollouts, heights, accuracy)
        if math.isinf(at):
            return Spending(math.inf, math.inf, math.inf)
        tokens = np.mean([run.generated for run in runs], axis=0)
        trained = np.mean([self._trained(run) for run in runs], axis=0)
        return Spending(at, float(np.interp(at, rollouts, tokens)), float(np.interp(at, rollouts, trained)))

    def _trained(self, run: Curve) -> list[float]:
        """The completions that the updates learned from, until each evaluation."""
        alike = self.full or self.group_size == 1  # every step learns from as many completions
        groups = np.cumsum([0.0, *([1.0] * len(run.useful) if alike else run.useful)])
        return [float(self.group_size * run.trained * groups[step] / groups[-1]) for step in run.steps]


def arm_of(result: Mapping[str, Any], testbed: str, name: str) -> Arm:
    """An arm of a result file of `dps-pyro bench`."""
    settings = result["settings"][testbed][name]
    runs = {seed: Curve(**run) for seed, run in result["curves"][testbed][name].items()}
    return Arm(runs, settings["group_size"], settings.get("dynamic_sampling", 1) != 1)


def ratios(own: Arm, other: Arm, shares: Sequence[float], draws: int = DRAWS, seed: int = SEED) -> list[Ratio]:
    """The share of another selection's bill to its final accuracy, for each share of generation in its bill.

    Args:
        own: The selection whose bill is asked for.
        other: The selection that sets the accuracy and the bill.
        shares: Shares of generation in the time of the other selection, 0..1.
        draws: The number of resamples of the seeds.
        seed: The random seed of the resampling.
    """
    seeds = sorted(own.runs.keys() & other.runs.keys(), key=int)
    picks = _picks(len(seeds), draws, seed)
    parts = {pick: _parts(own, other, [seeds[place] for place in pick]) for pick in set(picks)}
    drawn = [parts[pick] for pick in picks]
    tokens, trained = _parts(own, other, seeds)
    return [
        _with_interval(_weighed(share, tokens, trained), [_weighed(share, *parts) for parts in drawn])
        for share in shares
    ]


def _weighed(share: float, tokens: float, trained: float) -> float:
    return math.inf if math.isinf(tokens) else share * tokens + (1 - share) * trained


def _picks(seeds: int, draws: int, seed: int) -> list[tuple[int, ...]]:
    """Places of seeds: resamples of them, each in order, as many are then the same: of five seeds there are 126."""
    return [tuple(sorted(pick)) for pick in np.random.default_rng(seed).integers(seeds, size=(draws, seeds)).tolist()]


def _with_interval(mean: float, drawn: Sequence[float]) -> Ratio:
    # Not interpolated: between a number and infinity there is nothing.
    low, high = (sorted(drawn)[round(place * (len(drawn) - 1))] for place in (0.025, 0.975))
    return Ratio(mean, low, high)


def _parts(own: Arm, other: Arm, seeds: Sequence[str]) -> tuple[float, float]:
    """(tokens, trained) of one selection as shares of another's, to the other's final accuracy."""
    accuracy = float(mean_curve([other.runs[seed] for seed in seeds])[1][-1])
    mine, theirs = own.spent(seeds, accuracy), other.spent(seeds, accuracy)
    return _share(mine.tokens, theirs.tokens), _share(mine.trained, theirs.trained)


def shares(results: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: the share of a bill that is saved to the same accuracy, on each testbed of some result files of
    `dps-pyro bench`, by the share of generation in the bill."""
    heads = [f"saved, if generation is {share:.0%} of the time" for share in SHARES]
    columns = ("testbed", "instead of", "group size", "rollouts", "generated tokens", "completions trained on", *heads)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for result in results:
        for testbed, arms in result["curves"].items():
            for other, own in [(other, own) for other, all_own in PAIRS.items() for own in all_own if own in arms]:
                mine, theirs = (arm_of(result, testbed, arm) for arm in (own, other))
                cells = [testbed, other, SIZES[own], *_taken(mine, theirs)]
                cells += [found.saved for found in ratios(mine, theirs, SHARES)]
                lines.append(f"| {' | '.join(cells)} |")
    machines = sorted({f"{result['machine']}; {result['date']}" for result in results})
    note = (
        "*Rollouts*, *generated tokens* and *completions trained on*: what `Siblings` takes to the final accuracy of "
        "the other selection, as a share of what that selection takes. *Saved*: of the bill, with a 95 % bootstrap "
        "interval over five seeds; a negative number is paid on top; *not certain*: in some resamples the accuracy is "
        f"not reached. {'. '.join(machines)}."
    )
    return "\n".join([*lines, "", note])


def _taken(own: Arm, other: Arm) -> list[str]:
    """Rollouts, tokens and completions trained on, as shares of another selection's."""
    seeds = sorted(own.runs.keys() & other.runs.keys(), key=int)
    accuracy = float(mean_curve([other.runs[seed] for seed in seeds])[1][-1])
    parts = zip(own.spent(seeds, accuracy), other.spent(seeds, accuracy), strict=True)
    return ["not reached" if math.isinf(one) else f"{_share(one, two):.0%}" for one, two in parts]


def _share(own: float, other: float) -> float:
    """A share, where nothing is all of nothing."""
    if other == 0:
        return 1.0 if own == 0 else math.inf
    return own / other


def bill(result: Mapping[str, Any], labs: Sequence[Lab] = LABS) -> str:
    """A Markdown table: GPU-hours and money that laboratories pay for a run, and what is saved against uniform
    selection if their prompts are like those of the testbed."""
    columns = ("laboratory", "generation", "GPU-hours", "with uniform selection", "predicted", "saved")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    found = ratios(arm_of(result, TESTBED, THINNED), arm_of(result, TESTBED, "uniform"), SHARES)
    for lab in labs:
        for share, ratio in zip(SHARES, found, strict=True):
            hours = lab.drawing / share
            money = lab.gpu_hour * hours
            least = "not certain" if math.isinf(ratio.high) else f"${money * (1 - ratio.high):,.0f}"
            cells = (
                lab.name, f"{share:.0%}", f"{hours:,.0f}", f"${money:,.0f}", f"${money * ratio.mean:,.0f}",
                f"${money * (1 - ratio.mean):,.0f} ({least} to ${money * (1 - ratio.low):,.0f})",
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    told = [
        f"The {lab.name} laboratory has {lab.gpus} GPU{'s' if lab.gpus > 1 else ''} at ${lab.gpu_hour:g} per hour. "
        f"Its run takes {lab.rollouts:,.0f} rollouts of {lab.tokens:,.0f} tokens with uniform selection, and a GPU "
        f"generates {lab.speed:,.0f} tokens per second: {_days(lab)}."
        for lab in labs
    ]
    return "\n".join([*lines, "", " ".join(["Assumed, not measured.", *told])])


def _days(lab: Lab) -> str:
    hours = lab.drawing / lab.gpus
    time = f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
    return f"{time} of generation"


def nothing(result: Mapping[str, Any]) -> str:
    """A Markdown table: what selections take to the final accuracy of uniform selection where little can be gained,
    from a result file of `benchmarks.learning.selectors`."""
    arms = {
        name: (np.array(arm["rollouts_by_step"], dtype=np.float64), np.array(arm["accuracy"], dtype=np.float64))
        for name, arm in result["arms"].items()
    }
    whole, picks = tuple(range(len(result["seeds"]))), _picks(len(result["seeds"]), DRAWS, SEED)

    @cache
    def share(name: str, pick: tuple[int, ...]) -> float:
        (own, height), (rollouts, accuracy) = (
            tuple(part[list(pick)].mean(0) for part in arms[arm]) for arm in (name, "uniform")
        )
        target = float(accuracy[-1])
        return crossing(own, height, target) / crossing(rollouts, accuracy, target)

    found = {name: _with_interval(share(name, whole), [share(name, pick) for pick in picks]) for name in arms}
    lines = ["| selector | share of the rollouts of uniform selection to its final accuracy |", "|---|---|"]
    for name, ratio in sorted(found.items(), key=lambda one: one[1].mean):
        low, high = ("∞" if math.isinf(end) else f"{end:.0%}" for end in (ratio.low, ratio.high))
        mean = "not reached" if math.isinf(ratio.mean) else f"{ratio.mean:.0%}"
        lines.append(f"| {name} | {mean}" + (" |" if name == "uniform" else f" ({low} to {high}) |"))
    settings = result["configuration"]
    note = (
        f"Countdown, {settings['batch_size']} prompts with {settings['group_size']} rollouts each per step; 95 % "
        f"bootstrap interval over {len(whole)} seeds. {result['machine']}; {result['date']}."
    )
    return "\n".join([*lines, "", note])
