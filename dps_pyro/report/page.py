"""The page around the figures: headline numbers, tables and configuration, through an autoescaping template."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from dps_pyro.report import measures
from dps_pyro.report.bills import CostRow, cost_rows
from dps_pyro.report.canvas import DARK, clean
from dps_pyro.report.figures import Picture, measured_uniform
from dps_pyro.report.run import Run, number
from dps_pyro.support.extras import needed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Tile(NamedTuple):
    """One headline number."""

    name: str
    value: str
    note: str


def name_arms(run: Run, others: Sequence[Run]) -> list[tuple[str, Run]]:
    """Name the other runs by their selectors, with the folder if two runs have the same selector."""
    selectors = [arm.selector for arm in (run, *others)]
    return [
        (arm.selector if selectors.count(arm.selector) == 1 else f"{arm.selector} ({arm.folder.name})", arm)
        for arm in others
    ]


def render(
    run: Run, others: Sequence[tuple[str, Run]], pictures: Sequence[Picture], drawings: Mapping[str, str]
) -> str:
    """Render the page as HTML. `drawings` maps a picture's slug to its `<svg>`; the template escapes all other text."""
    needed("jinja2")
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    jinja = Environment(
        loader=PackageLoader("dps_pyro", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters |= {"percent": percent, "clean": clean, "passage": passage}
    costs, target = cost_rows([(run.selector, run), *others])
    most, least = measures.most_and_least(run.history, 8) if run.history else ([], [])
    return jinja.get_template("report.html").render(
        name=run.folder.resolve().name,
        lead=_lead(run),
        finished=run.finished,
        notes=run.notes,
        tiles=tiles(run),
        facts=facts(run),
        estimate=estimate(run),
        arms=[(name, _arm(arm)) for name, arm in ((run.selector, run), *others)] if others else [],
        costs=[_cost(row) for row in costs],
        target=percent(target),
        # This is safe: Matplotlib drew them, and escapes the text in them.
        pictures=[(picture, Markup(drawings.get(picture.slug, ""))) for picture in pictures],  # noqa: S704
        most=most,
        least=least,
        samples=run.samples,
        config=run.config,
        palette=DARK,
    )


def tiles(run: Run) -> list[Tile]:
    """The four headline numbers."""
    before, after = _ends(run)
    gain = f"{(after - before) * 100:+.1f} points" if math.isfinite(after - before) else "not evaluated twice yet"
    error = number(run.evals[-1].get("stderr")) if run.evals else math.nan
    if math.isfinite(error):
        gain += f"; standard error {error * 100:.1f} at the end"
    uniform = measured_uniform(run)
    pool = measures.mean(run.column("useful_pool"))
    against = [f"{percent(pool)} predicted for the pool"] if math.isfinite(pool) else []
    against += [f"{percent(uniform)} measured with uniform"] if math.isfinite(uniform) else []
    spent, saved = run.number("rollouts"), run.number("saved")
    would = spent + saved
    return [
        Tile("Held-out accuracy", f"{percent(before)} → {percent(after)}", gain),
        Tile("Useful groups", percent(_useful(run)), "against " + " and ".join(against) if against else ""),
        Tile("Training rollouts", count(spent), f"in {count(_steps(run))} steps"),
        Tile(
            "Estimated saved" if not saved < 0 else "Estimated saved (a loss)",
            count(saved),
            f"of {count(would)} that dynamic sampling would need: {saved / would:.0%}" if would > 0 else "",
        ),
    ]


def estimate(run: Run) -> str:
    """Say how the saving is estimated; empty if there is no estimate."""
    if not math.isfinite(run.number("saved")):
        return ""
    return (
        "The saving is an estimate, not a measurement. Dynamic sampling rolls out random prompts and throws away the "
        "groups that are all right or all wrong, so it needs about (useful groups × group size) ÷ (useful share of the "
        "pool) rollouts to keep as many useful groups as this run had. The pool's share at each step is the model's "
        "own mean predicted chance over all prompts; the saving is the sum over the steps, less the rollouts spent "
        "here. It is as good as that prediction, and it counts groups: it does not say that they teach equally much."
    )


def facts(run: Run) -> list[tuple[str, str]]:
    """The facts about the run, as pairs of name and value."""
    phases = measures.phase_seconds(run)
    shares = measures.shares(phases)
    wall = number(run.summary.get("seconds"))
    stepped = sum(float(spent.sum()) for spent in phases.values())
    took = duration(wall) if math.isfinite(wall) else f"{duration(stepped)} in steps so far"
    found = [
        ("Model", str(run.value("model") or "named when the run ends")),
        ("Acquisition", run.selector),
        ("Steps", count(_steps(run))),
        ("Wall time", took),
    ]
    if shares:
        own = sum(shares.get(phase, 0.0) for phase in measures.SELECTOR_PHASES)
        found.append(("Selector's share of step time", f"{own:.2%}"))
    visited = run.number("visited")
    if math.isfinite(visited):
        found.append(("Prompts visited at least once", percent(visited)))
    source = run.summary.get("uniform")
    if isinstance(source, dict) and source.get("source"):
        found.append(("Uniform was measured by", str(source["source"])))
    return [(name, clean(value, 160)) for name, value in found]


def percent(value: float) -> str:
    """0.1234 as 12.3%; a dash if there is no number."""
    return f"{value:.1%}" if math.isfinite(value) else "–"


def passage(text: str, limit: int = 400) -> str:
    """Join the lines of untrusted text, with a sign for each line end, so that an answer of line ends is visible."""
    return clean(text.replace("\r\n", "\n").replace("\n", "↵"), limit)


def count(value: float) -> str:
    """12345.6 as 12,346; a dash if there is no number."""
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def duration(seconds: float) -> str:
    """Seconds in the two largest units that fit: 45 s, 12 min 30 s, 3 h 05 min."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _lead(run: Run) -> str:
    if not run.train:
        return "No training step has been recorded yet."
    who = f"{clean(run.value('model') or 'The model')} predicted which prompts were worth a rollout"
    return f"{who}; {clean(run.selector)} chose among them."


def _ends(run: Run) -> tuple[float, float]:
    """Accuracy before training and now."""
    values = [number(record.get("accuracy")) for record in run.evals]
    first = number(run.summary.get("accuracy_before"))
    last = number(run.summary.get("accuracy_after"))
    if not math.isfinite(first) and values:
        first = values[0]
    if not math.isfinite(last) and len(values) > 1:
        last = values[-1]
    return first, last


def _useful(run: Run) -> float:
    own = number(run.summary.get("useful_share"))
    return own if math.isfinite(own) else measures.mean(run.column("useful"))


def _steps(run: Run) -> float:
    own = number(run.summary.get("steps"))
    return own if math.isfinite(own) else float(len(run.train))


def _cost(row: CostRow) -> dict[str, str]:
    whole, reached = row.whole, row.reached
    return {
        "name": row.name,
        "rollouts": count(whole.rollouts),
        "generated": count(whole.generated),
        "trained": count(whole.trained) if whole.trained else "–",
        "drawing": duration(whole.rollout_seconds),
        "training": duration(whole.train_seconds),
        "to_target": "–" if reached is None else count(reached.rollouts),
        "tokens_to_target": "–" if reached is None else count(reached.generated),
    }


def _arm(run: Run) -> dict[str, Any]:
    before, after = _ends(run)
    return {
        "before": percent(before),
        "after": percent(after),
        "useful": percent(_useful(run)),
        "rollouts": count(run.number("rollouts")),
        "finished": run.finished,
    }
