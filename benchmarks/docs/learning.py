"""The tables of what a policy learns, by selector, from the results of `benchmarks.learning.planning`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import table
from dps_pyro.trainers.bench.curves import Curve
from dps_pyro.trainers.bench.measures import average

__all__ = ["admission", "ahead", "ideas", "long_runs", "rates", "scales", "shapes"]

ROOM = 0.03
"""A testbed is admitted if dynamic sampling is ahead of uniform selection by at least this, at equal steps."""


def admission(results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: how far dynamic sampling is ahead of uniform selection at equal steps, and whether choosing
    prompts can therefore pay there."""
    lines = ["| testbed | seeds | uniform | dynamic sampling | difference | room |", "|---|---|---|---|---|---|"]
    for testbed, arms in _testbeds(results):
        seeds = sorted(arms["uniform"].keys() & arms["dynamic sampling"].keys(), key=int)
        over = {
            arm: np.array([np.mean(arms[arm][seed]["accuracy"][1:]) for seed in seeds])
            for arm in ("uniform", "dynamic sampling")
        }
        ahead = over["dynamic sampling"] - over["uniform"]
        lines.append(
            f"| {testbed} | {', '.join(seeds)} | {over['uniform'].mean():.3f} | {over['dynamic sampling'].mean():.3f} "
            f"| {_spread(ahead)} | {'yes' if ahead.mean() >= ROOM else 'no'} |"
        )
    return "\n".join(
        [*lines, "", "Mean held-out accuracy of all evaluations after the first; difference ± standard error."]
    )


def rates(result: dict[str, Any]) -> str:
    """A Markdown table: each arm's mean accuracy at several learning rates, each of which is a testbed of the result,
    over the rollouts of the run that spent least, and its final accuracy. The best rate of each arm is in bold."""
    testbeds = _testbeds([result])
    runs = {
        rate: {arm: [Curve(**run) for run in of.values()] for arm, of in arms.items() if of} for rate, arms in testbeds
    }
    until = min(run.rollouts[-1] for arms in runs.values() for of in arms.values() for run in of)
    rows = [[arm, *_ways([arms[arm] for arms in runs.values()], until)] for arm in testbeds[0][1]]
    seeds = sorted({seed for _, arms in testbeds for of in arms.values() for seed in of}, key=int)
    return table(["arm", *runs], rows, f"{_ABOUT.format(until)}; seed {', '.join(seeds)}.")


_ABOUT = "Mean held-out accuracy over equal rollouts ({:,.0f}), and in brackets the final one"


def _ways(ways: Sequence[Sequence[Curve]], until: float) -> list[str]:
    """The cells of an arm that ran in several ways: its mean accuracy over the first `until` rollouts of each, and the
    final one in brackets. The best mean is in bold."""
    means = [float(np.mean([average(run, until) for run in runs])) for runs in ways]
    ends = [float(np.mean([run.accuracy[-1] for run in runs])) for runs in ways]
    return [
        f"**{mean:.3f}** ({end:.3f})" if mean == max(means) else f"{mean:.3f} ({end:.3f})"
        for mean, end in zip(means, ends, strict=True)
    ]


HALF = ", half"
"""The arms with half as many rollouts per step end in this."""


def shapes(result: dict[str, Any]) -> str:
    """A Markdown table: each arm's mean accuracy with 32 and with 16 rollouts per step over equal rollouts, its final
    accuracy, and the rollouts that it drew. The better one of each arm is in bold."""
    ((_, arms),) = _testbeds([result])
    runs = {arm: [Curve(**run) for run in of.values()] for arm, of in arms.items()}
    until = min(run.rollouts[-1] for of in runs.values() for run in of)
    rows = []
    for arm in arms:
        if arm.endswith(HALF):
            continue
        pair = runs[arm], runs[arm + HALF]
        spent = [f"{np.mean([run.rollouts[-1] for run in one]):,.0f}" for one in pair]
        rows.append([arm, *_ways(pair, until), " and ".join(dict.fromkeys(spent))])
    heads = ["arm", "32 rollouts per step", "16 rollouts per step", "rollouts"]
    return table(heads, rows, f"{_ABOUT.format(until)}; seed {', '.join(map(str, result['seeds']))}.")


def ideas(result: dict[str, Any]) -> str:
    """A Markdown table: arms that each differ from the first one in one thing, and how far each is ahead of it over
    equal rollouts and at the end, seed by seed."""
    columns = ("arm", "seeds", "over the run", "final", "useful", "ahead, over the run", "ahead, final")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for _, arms in _testbeds([result]):
        runs = {arm: {seed: Curve(**run) for seed, run in of.items()} for arm, of in arms.items()}
        until = min(run.rollouts[-1] for of in runs.values() for run in of.values())
        first = next(iter(runs.values()))
        for arm, of in runs.items():
            over = {seed: average(run, until) for seed, run in of.items()}
            ends = {seed: run.accuracy[-1] for seed, run in of.items()}
            useful = np.mean([np.mean(run.useful) for run in of.values()])
            shared = [seed for seed in of if seed in first]
            ahead_over = np.array([over[seed] - average(first[seed], until) for seed in shared])
            ahead_ends = np.array([ends[seed] - first[seed].accuracy[-1] for seed in shared])
            told = "– | –" if of is first else f"{_spread(ahead_over)} | {_spread(ahead_ends)}"
            means = f"{np.mean(list(over.values())):.3f} | {np.mean(list(ends.values())):.3f}"
            lines.append(f"| {arm} | {len(of)} | {means} | {useful:.2f} | {told} |")
    seeds = ", ".join(map(str, result["seeds"]))
    note = f"Mean held-out accuracy over equal rollouts ({until:,.0f}); of seeds {seeds}; difference ± standard error."
    return "\n".join([*lines, "", note])


LONG = ", 1600 steps"
"""The arms that go on for longer end in this."""
ROW = 5
"""So many evaluations in a row are averaged to find where a run is best."""


def long_runs(result: dict[str, Any]) -> str:
    """A Markdown table: the arms that go on to 1,600 steps, over the whole run and over its last quarter, how far each
    is ahead of uniform selection there, seed by seed, and the best that they come to on the way."""
    ends = ("less uniform", "less uniform, last quarter", "best", "after rollouts")
    columns = ("arm", "seeds", "rollouts", "over the run", "last quarter", *ends)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for testbed, arms in _testbeds([result]):
        runs = {
            arm.removesuffix(LONG): {seed: Curve(**run) for seed, run in of.items()}
            for arm, of in arms.items()
            if arm.endswith(LONG)
        }
        if not runs:
            continue
        until = min(run.rollouts[-1] for of in runs.values() for run in of.values())
        whole = {arm: {seed: average(run, until) for seed, run in of.items()} for arm, of in runs.items()}
        late = {
            arm: {seed: 4 * average(run, until) - 3 * average(run, 0.75 * until) for seed, run in of.items()}
            for arm, of in runs.items()
        }
        for arm, of in runs.items():
            cells = [f"{np.mean(list(part[arm].values())):.3f}" for part in (whole, late)]
            for part in (whole, late):
                less = [own - part["uniform"][seed] for seed, own in part[arm].items()]
                cells.append("–" if arm == "uniform" else f"{_spread(np.array(less))}")
            heights, places = np.mean([_best(run) for run in of.values()], axis=0)
            cells += [f"{heights:.3f}", f"{places:,.0f}"]
            lines.append(f"| {arm} ({testbed}) | {len(of)} | {until:,.0f} | {' | '.join(cells)} |")
    note = (
        "Mean held-out accuracy over equal rollouts; difference ± standard error. *Best*: the best mean of "
        f"{ROW} evaluations in a row, and the rollouts until the middle one of them; both are means over seeds."
    )
    return "\n".join([*lines, "", note])


def _best(run: Curve) -> tuple[float, float]:
    """The best mean accuracy of `ROW` evaluations in a row, or of all if there are fewer, and the rollouts until the
    middle one of them."""
    row = min(ROW, len(run.accuracy))
    means = np.convolve(run.accuracy, np.full(row, 1 / row), "valid")
    at = int(means.argmax())
    return float(means[at]), float(run.rollouts[at + row // 2])


OURS = "Siblings, groups of 1"
SCALED = "Siblings, groups of 1, scaled"
"""The same, whose advantages are divided by the standard deviation of those of the step."""
ORACLE = "oracle"
"""It knows how many rollouts of each prompt would be solved, by rollouts that are not counted, and has no rank."""


def ahead(results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: how far `OURS` is ahead of the other arms with as many rollouts, seed by seed, on each testbed,
    and each arm's rank on each."""
    less: dict[str, dict[str, NDArray[np.float64]]] = {}
    places: dict[str, dict[str, int]] = {}
    for testbed, arms in _testbeds(results):
        runs = {arm: {seed: Curve(**run) for seed, run in of.items()} for arm, of in arms.items()}
        until = min(run.rollouts[-1] for run in runs[OURS].values())
        alike = {
            arm: {seed: average(run, until) for seed, run in of.items()}
            for arm, of in runs.items()
            if of.keys() == runs[OURS].keys() and next(iter(of.values())).rollouts[-1] == until
        }
        means = {arm: float(np.mean(list(over.values()))) for arm, over in alike.items()}
        ranked = sorted(means.keys() - {ORACLE}, key=lambda arm, means=means: -means[arm])  # type: ignore[misc]
        for arm, over in alike.items():
            less.setdefault(arm, {})[testbed] = np.array([alike[OURS][seed] - over[seed] for seed in over])
            if arm in ranked:
                places.setdefault(arm, {})[testbed] = 1 + ranked.index(arm)
    testbeds = list(less[OURS])
    lines = [
        f"| {OURS}, less | {' | '.join(f'{bed} | seeds' for bed in testbeds)} | ranks |",
        "|---" * (2 * len(testbeds) + 2) + "|",
    ]
    for arm in sorted(less, key=lambda arm: float(np.mean(list(places[arm].values()))) if arm in places else math.inf):
        cells = []
        for bed in testbeds:
            found = less[arm].get(bed)
            cells.append(
                "– | –" if found is None or arm == OURS else f"{_spread(found)} | {(found > 0).sum()} of {len(found)}"
            )
        ranks = ", ".join(str(places.get(arm, {}).get(bed, "–")) for bed in testbeds)
        lines.append(f"| {'itself' if arm == OURS else arm} | {' | '.join(cells)} | {ranks} |")
    note = (
        "Mean held-out accuracy over equal rollouts; difference ± standard error, and in how many seeds it is above 0. "
        "Ranks by the mean, on each testbed, among the arms that spent as many rollouts."
    )
    return "\n".join([*lines, "", note])


def scales(results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: groups of one whose advantages are divided by nothing, and by the standard deviation of those
    of the step, over equal rollouts and at the end; each pair on the same seeds."""
    rows = []
    for testbed, arms in _testbeds(results):
        pair = [{seed: Curve(**run) for seed, run in arms[arm].items()} for arm in (OURS, SCALED) if arm in arms]
        if len(pair) < 2:
            continue
        seeds = sorted(pair[0].keys() & pair[1].keys(), key=int)
        until = min(of[seed].rollouts[-1] for of in pair for seed in seeds)
        own, scaled = (np.array([[average(of[seed], until), of[seed].accuracy[-1]] for seed in seeds]) for of in pair)
        cells = [f"{mean:.3f} ({end:.3f})" for mean, end in (own.mean(0), scaled.mean(0))]
        rows.append([testbed, str(len(seeds)), *cells, *(_spread(column) for column in (own - scaled).T)])
    heads = ["testbed", "seeds", "centred", "scaled", "difference over the run", "difference at the end"]
    about = "Mean held-out accuracy over equal rollouts, and in brackets the final one; difference ± standard error."
    return table(heads, rows, about)


def _testbeds(results: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [pair for result in results for pair in result["curves"].items()]


def _spread(values: NDArray[np.float64]) -> str:
    """A mean and its standard error, with signs."""
    if len(values) == 1:
        return f"{values.mean():+.3f}"
    return f"{values.mean():+.3f} ± {values.std(ddof=1) / len(values) ** 0.5:.3f}"
