"""A comparison's results: one JSON file, its tables, and one picture of accuracy against rollouts."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dps_pyro.storage import atomic_path, strict_json
from dps_pyro.trainers.bench.curves import Curve
from dps_pyro.trainers.bench.measures import Saving, mean_curve, ranks, saving, summary
from dps_pyro.trainers.bench.plan import Job, Plan

__all__ = ["draw", "table", "write"]

Curves = Mapping[str, Mapping[str, Mapping[int, Curve]]]  # testbed -> arm -> seed -> curve


def by_name(plan: Plan, jobs: Sequence[Job], curves: Sequence[Curve]) -> Curves:
    """The curves by testbed, arm and seed, in the plan's order; arms without any are left out."""
    found: dict[str, dict[str, dict[int, Curve]]] = {}
    pairs = list(zip(jobs, curves, strict=True))
    for testbed in plan.testbeds:
        for arm in plan.arms:
            runs = {job.seed: curve for job, curve in pairs if (job.testbed, job.arm) == (testbed, arm)}
            if runs:
                found.setdefault(testbed, {})[arm] = runs
    return found


def write(path: Path, plan: Plan, curves: Curves) -> dict[str, Any]:
    """Write everything that tables and pictures need: settings, curves, rows, savings, ranks, machine and date."""
    rows = {testbed: summary(arms) for testbed, arms in curves.items()}
    settings = {
        testbed: {job.arm: job.settings for job in plan.jobs if (job.testbed, job.seed) == (testbed, plan.seeds[0])}
        for testbed in plan.testbeds
    }
    whole: dict[str, Any] = {
        "what": "held-out accuracy against training rollouts, by the way that prompts are chosen",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}",
        "seeds": list(plan.seeds),
        "settings": settings,
        "rows": {bed: {arm: _plain(row._asdict()) for arm, row in arms.items()} for bed, arms in rows.items()},
        "savings": {bed: _savings(plan, arms) for bed, arms in curves.items()},
        "ranks": ranks(
            {
                bed: {arm: row for arm, row in arms.items() if arm not in unranked}
                for bed, arms in rows.items()
                for unranked in [_unranked(settings[bed])]
            }
        ),
        "curves": {
            bed: {
                arm: {str(seed): _plain(curve._asdict()) for seed, curve in runs.items()} for arm, runs in arms.items()
            }
            for bed, arms in curves.items()
        },
    }
    with atomic_path(path) as aside:
        aside.write_text(strict_json(whole) + "\n", encoding="utf-8")
    return dict(json.loads(strict_json(whole)))


def _savings(plan: Plan, arms: Mapping[str, Mapping[int, Curve]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for target in plan.against:
        for arm, runs in arms.items():
            if target in arms and arms[target].keys() & runs.keys():
                made: Saving = saving(runs, arms[target])
                found.setdefault(target, {})[arm] = made._asdict()
    return found


def _unranked(settings: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The arms without a rank: oracles, not all of whose rollouts are counted, and those that are another arm with more
    steps, which are the same over equal rollouts."""
    kinds: dict[str, list[tuple[int, str]]] = {}
    for arm, given in settings.items():
        rest = {name: value for name, value in given.items() if name != "steps"}
        kinds.setdefault(json.dumps(rest, sort_keys=True), []).append((given.get("steps", 0), arm))
    oracles = {arm for arm, given in settings.items() if given.get("oracle_rollouts", 0)}
    return oracles | {arm for alike in kinds.values() for steps, arm in alike if steps > min(alike)[0]}


def _plain(value: Any) -> Any:
    """Named tuples as mappings, and shares of steps with four digits."""
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return round(value, 4) if isinstance(value, float) and math.isfinite(value) else value


def table(whole: Mapping[str, Any]) -> str:
    """The results as Markdown: a table for each testbed, of a file's content as `write` returns it."""
    parts = []
    for testbed, rows in whole["rows"].items():
        targets = whole["savings"][testbed]
        heads = [f"share of the rollouts of {target} to its final accuracy" for target in targets]
        columns = ("arm", "seeds", "over the run", "final", "useful", "visited", "trained groups", "rollouts", *heads)
        lines = [f"**{testbed}**", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        for arm, row in rows.items():
            shares = [_share(targets[target].get(arm)) for target in targets]
            cells = [
                arm,
                str(row["seeds"]),
                *(_spread(row[name], 3) for name in ("average", "final", "useful", "visited")),
                *(f"{row[name]['mean']:,.0f}" for name in ("trained", "rollouts")),
                *shares,
            ]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    places = ", ".join(f"{arm} {place:.1f}" for arm, place in sorted(whole["ranks"].items(), key=lambda one: one[1]))
    return "\n\n".join([*parts, f"Average rank by accuracy over equal rollouts: {places}."])


def _spread(value: Mapping[str, Any], digits: int) -> str:
    sd = "" if value["sd"] is None else f" ± {value['sd']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{sd}"


def _share(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    if found["share"] is None:  # infinite
        return "not reached"
    low, high = ("∞" if found[name] is None else f"{found[name]:.0%}" for name in ("low", "high"))
    return f"{found['share']:.0%}" + ("" if found["low"] is None and found["high"] is None else f" ({low} to {high})")


def draw(path: Path, plan: Plan, curves: Curves) -> None:
    """Draw accuracy against rollouts, a panel for each testbed: means over seeds, and one standard error around them.
    Dashed lines are the final accuracies that arms are measured by."""
    from dps_pyro.report.canvas import ARMS, BLUE, MUTED, figure, label, rollouts_axis, share_axis, style, to_png

    colours = (BLUE, *ARMS)
    with style():
        drawn = figure(5.6, 3.5 * len(curves))
        for place, (testbed, arms) in enumerate(curves.items()):
            axes = drawn.add_subplot(len(curves), 1, place + 1)
            for number, (arm, runs) in enumerate(arms.items()):
                at, mean = mean_curve(list(runs.values()))
                colour, dashes = colours[number % len(colours)], ("-", "--", ":")[number // len(colours) % 3]
                axes.plot(at, mean, color=colour, linestyle=dashes, label=label(arm))
                if len(runs) > 1:
                    spread = _errors(list(runs.values()))
                    low, high = ([m + way * e for m, e in zip(mean, spread, strict=True)] for way in (-1, 1))
                    axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
                if arm in plan.against:
                    axes.axhline(float(mean[-1]), color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
            share_axis(axes, "held-out accuracy", None, None)
            rollouts_axis(axes)
            axes.set_title(label(testbed), loc="left")
            axes.legend(loc="lower right")
        with atomic_path(path) as aside:
            to_png(drawn, aside)


def _errors(runs: Sequence[Curve]) -> list[float]:
    columns = zip(*(run.accuracy for run in runs), strict=True)
    return [_sd(column) / math.sqrt(len(runs)) for column in columns]


def _sd(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
