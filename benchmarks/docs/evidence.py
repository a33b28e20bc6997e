"""Write the tables and pictures of the documentation from the result files.

    python -m benchmarks.docs.evidence

The numbers in the docs come from nowhere else; a test compares the two.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import gpu, pairs, results
from benchmarks.cost import trainer
from benchmarks.docs import bills, learning, pictures, prediction
from benchmarks.inference import em
from benchmarks.learning import geometry, smollm2, tasks
from dps_pyro.trainers.bench.results import table as bench_table

RESULTS = Path(__file__).parents[1] / "results"
DOCS = Path(__file__).parents[2] / "docs"
IMAGES = DOCS / "images"
TESTBEDS = ("planning", "visits", "easy", "formulas")
"""The results on the testbeds, by file name."""
NOT_RUN = "This benchmark has not been run on a GPU yet, so that there are no numbers."
"""What the page says in place of a table whose result file needs a device that was not there."""


def main() -> None:
    """Rewrite the pages' tables, and draw the pictures."""
    pages = pages_with_tables()
    for page in pages:
        page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")
    drawn = {
        "selectors": pictures.selectors,
        "planning": pictures.planning,
        "demo": pictures.demo,
        "replay": pictures.replay,
        "smollm2": smollm2.draw,
    }
    for name, draw in drawn.items():
        draw(_read(name), IMAGES / f"{name}.png")
    print("\n".join(map(str, [*pages, *(IMAGES / f"{name}.png" for name in drawn)])))


def pages_with_tables() -> list[Path]:
    """The pages of the documentation that hold a table, wherever they lie."""
    return [page for page in sorted(DOCS.rglob("*.md")) if "<!-- table: " in page.read_text(encoding="utf-8")]


def render(page: str) -> str:
    """The page with every `<!-- table: name -->` ... `<!-- end -->` filled from its result file."""
    tables = {
        "selectors": lambda: selectors(_read("selectors")),
        "ahead": lambda: learning.ahead([_read(name) for name in TESTBEDS]),
        "admission": lambda: learning.admission([_read(name) for name in TESTBEDS]),
        "candidates": lambda: learning.admission([_read("candidates")]),
        "scales": lambda: learning.scales([_read(name) for name in TESTBEDS]),
        "long-runs": lambda: learning.long_runs(_read("visits")),
        "best": lambda: bench_table(_read("best")),
        "shapes": lambda: learning.shapes(_read("shapes")),
        "rates": lambda: learning.rates(_read("rates")),
        "ideas": lambda: learning.ideas(_read("ideas")),
        "ideas-one": lambda: learning.ideas(_read("ideas_one")),
        "smollm2-arithmetic": lambda: bench_table(_read("smollm2_arithmetic")),
        **{name: lambda name=name: bench_table(_read(name)) for name in TESTBEDS},
        "sampler": lambda: sampler(_read("sampler")),
        "serve": lambda: served(_read("serve")),
        "replay": lambda: prediction.replay(_read("replay"), "uniform"),
        "refits": lambda: prediction.refits(_read("refits")),
        "reading": lambda: prediction.reading(_read("reading")),
        "told": lambda: prediction.told(_read("told")),
        "strangers": lambda: prediction.strangers(_read("refits")),
        "replay-own": lambda: prediction.replay(_read("replay"), "own"),
        "recovery": lambda: recovery(_read("recovery")),
        "sbc": lambda: calibration(_read("sbc")),
        "predictive": lambda: predictive(_read("predictive")),
        "labels": lambda: labels(_read("labels")),
        "em": lambda: em.table(_read("em")),
        "fitting": lambda: fitting(_read("fit"), _read("filter")),
        "geometry": lambda: geometry.table(_read("geometry")),
        "tasks": lambda: tasks.table(_read("tasks")),
        "smollm2": lambda: smollm2.table(_read("smollm2")),
        "pairs": lambda: pairs.table(_read("pairs")),
        "trainer": lambda: trainer.table(_read("trainer")),
        "bill-shares": lambda: bills.shares([_read(name) for name in TESTBEDS]),
        "bill": lambda: bills.bill(_read("planning")),
        "bill-nothing": lambda: bills.nothing(_read("selectors")),
        "gpu": lambda: gpu.table(_read("gpu")) if (RESULTS / "gpu.json").exists() else NOT_RUN,
    }
    for name, table in tables.items():
        if f"<!-- table: {name} -->" in page:
            block = f"<!-- table: {name} -->\n{table()}\n<!-- end -->"
            pattern = rf"<!-- table: {name} -->.*?<!-- end -->"
            page = re.sub(pattern, lambda _, block=block: block, page, flags=re.DOTALL)
    return page


def selectors(result: dict[str, Any]) -> str:
    """Accuracy at the end and over the run, useful share, coverage and rollouts; mean ± standard deviation."""
    arms, seeds = result["arms"], ", ".join(map(str, result["seeds"]))
    columns = ("selector", "final accuracy", "over the run", "over uniform", "useful groups", "visited", "rollouts")
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, arm in sorted(arms.items(), key=lambda item: -item[1]["average"]["mean"]):
        spreads = results.spread(arm["final"], 3), results.spread(arm["average"], 3), _over(arm, arms.get("uniform"))
        rest = (
            results.spread(arm["useful"], 2),
            f"{arm['visited']['mean']:.2f}",
            f"{arm['rollouts']['mean'] / 1000:.0f}k",
        )
        rows.append(f"| {' | '.join((name, *spreads, *rest))} |")
    start = np.mean([curve[0] for arm in arms.values() for curve in arm["accuracy"]])
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result["configuration"].items())
    note = [
        f"Mean ± standard deviation over seeds {seeds}. *Over the run*: the mean accuracy of all evaluations.",
        "*Over uniform*: the difference of those, seed by seed, ± its standard error." if "uniform" in arms else "",
        f"Accuracy before training {start:.3f}; {settings}. {result['machine']}; {result['date']}.",
    ]
    return "\n".join([*rows, "", " ".join(part for part in note if part)])


def sampler(result: dict[str, Any]) -> str:
    """Milliseconds of processor time a sampler step, beside copying the beliefs, and memory."""
    columns = (
        "prompts",
        "model",
        "acquisition",
        "after steps",
        "visited",
        "median",
        "mean",
        "longest",
        "copy",
        "memory",
    )
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in result["rows"]:
        times = " | ".join(f"{row[part]:.1f} ms" for part in ("median_ms", "mean_ms", "max_ms", "copy_ms"))
        what = f"{row['prompts']:,} | {row['model']} | {row['acquisition']} | {row['steps']:,} | {row['visited']:,}"
        rows.append(f"| {what} | {times} | {row['mebibytes']:.0f} MiB |")
    published = result["published"]
    note = [
        f"Processor time on one thread, of the last 100 steps. {result['machine']}; {result['date']}.",
        "*Copy*: the beliefs of all prompts, read and written once. *Memory*: what the process holds more than before",
        f"the sampler was made, the model's labels included. Published: {published['seconds']} s per step and",
        f"{published['gibibytes']} GiB at {published['prompts']:,} prompts ({published['source']}). A Python loop",
        f"over prompts took {published['loop_us_a_prompt']:.0f} µs per prompt here.",
    ]
    return "\n".join([*rows, "", " ".join(note)])


def served(result: dict[str, Any]) -> str:
    """What the service bears."""
    settings = result["configuration"]
    columns = ("rounds per second", "median", "99th percentile", "processor time per round: the service", "the workers")
    times = [f"{result['median_ms']:.0f} ms", f"{result['p99_ms']:.0f} ms"]
    times += [f"{result[f'{who}_processor_ms_a_round']:.1f} ms" for who in ("service", "workers")]
    rows = [columns, ("---",) * len(columns), (f"{result['rounds_per_second']:.0f}", *times)]
    note = (
        f"{settings['prompts']:,} prompts, {settings['model']}, {settings['workers']} workers, "
        f"{settings['batch_size']} prompts per round, {settings['seconds']:.0f} seconds. {result['machine']}; "
        f"{result['date']}."
    )
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", note])


def fitting(fit: dict[str, Any], filtering: dict[str, Any]) -> str:
    """What fits, SVI steps and filters take, beside other ways to do the same."""
    size = "{prompts:,} prompts, {steps} steps".format_map(fit["configuration"])
    names = {"default": "`Hierarchical()`", "own": "`Hierarchical(levels=3, nodes=None)`"}
    rows = ["| what | here | beside | ratio |", "|---|---|---|---|"]
    for shape, name in names.items():
        row = fit["fit"][shape]
        rows.append(f"| `fit({name[1:-1]}, ...)`, {size}, {row['groups']:,} groups | {row['seconds']:.0f} s | | |")
    for shape, name in names.items():
        for row in fit["step"][shape]:
            ours, theirs = (f"{row['milliseconds'][way]:.0f} ms" for way in ("closed form", "unrolled"))
            rows.append(
                f"| an SVI step of {name}, {row['prompts']:,} prompts | {ours} | {theirs}: Pyro's `TraceEnum_ELBO` on "
                f"the unrolled model | {row['ratio']:.0f} |"
            )
    ours = filtering["rows"]["dps_pyro"]["milliseconds"]
    for name, row in filtering["rows"].items():
        if name != "dps_pyro":
            beside = f"{row['milliseconds']:.0f} ms: {row['version'].split(',')[0]}"
            rows.append(f"| filtering {size}, three states | {ours:.0f} ms | {beside} | {row['ratio']:.2f} |")
    pooled = fit["pooled"]
    ours, theirs = pooled["fit"]["seconds"], pooled["em"]["seconds"]
    rows.append(
        f"| the pooled model, {pooled['groups']:,} groups: SVI, with its uncertainty | {ours:.1f} s | {theirs:.1f} s: "
        f"dynamax's EM, a point | {theirs / ours:.2f} |"
    )
    apart = max(map(abs, pooled["em"]["log_likelihoods_apart"].values()))
    note = [
        f"Ratio: theirs to ours, in one run. Fits and steps with {fit['configuration']['threads']} threads, filters",
        f"with one. The pooled model's log-likelihood is dynamax's to {apart:.0e} of its size.",
        f"{fit['machine']}; {fit['date']}.",
    ]
    return "\n".join([*rows, "", " ".join(note)])


def recovery(result: dict[str, Any]) -> str:
    """Coverage of the intervals ± its standard error, the points' errors beside those of the prior, and what the
    default method costs beside SVI."""
    rows = {(row["model"], row["guide"]): row for row in result["rows"]}
    columns = (
        "model",
        "parameters",
        "`normal`",
        "`low_rank`",
        "its worst site",
        "error / prior's",
        "`Laplace()`",
        "cost",
    )
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in (model for model, guide in rows if guide == "normal"):
        normal, low_rank = rows[name, "normal"], rows[name, "low_rank"]
        cells = [_named(normal), str(normal["global"]["scalars"])]
        cells += [f"{row['global']['coverage']:.2f} ± {row['global']['coverage_se']:.2f}" for row in (normal, low_rank)]
        worst = min(low_rank["sites"], key=lambda site, sites=low_rank["sites"]: sites[site]["coverage"])
        cells.append(f"{worst} {low_rank['sites'][worst]['coverage']:.2f}")
        errors = [f"{row['global']['error'] / row['global']['prior_error']:.2f}" for row in (normal, low_rank)]
        cells += [", ".join(errors), *_default(rows.get((name, "laplace")))]
        lines.append(f"| {' | '.join(cells)} |")
    settings = result["configuration"]
    note = (
        f"{settings['histories']} histories of {settings['prompts']} prompts and {settings['steps']} steps, "
        f"{settings['observed']:.0%} of the groups rolled out; {settings['svi_steps']} SVI steps; seed "
        f"{result['seed']}. Coverage ± its standard error over histories; errors of `normal`, `low_rank`; *cost*: "
        f"processor seconds of `Laplace()`, the default, over those of SVI with `low_rank`; –: not measured. "
        f"{result['machine']}; {result['date']}."
    )
    return "\n".join([*lines, "", note])


def predictive(result: dict[str, Any]) -> str:
    """The chi-square p-values of each check's tail probabilities, by acquisition, and how many logs failed a check."""
    parts = result["parts"]
    names = [name for name in parts if name != "wrong"]
    lines = [f"| check | {' | '.join(f'`{name}`' for name in names)} |", "|---" * (len(names) + 1) + "|"]
    for check in parts[names[0]]["p"]:
        cells = (f"{parts[name]['p'][check]:.3f}" if check in parts[name]["p"] else "–" for name in names)
        lines.append(f"| {check} | {' | '.join(cells)} |")
    lines.append(f"| logs that fail a check | {' | '.join(str(parts[name]['flagged']) for name in names)} |")
    settings, wrong = result["configuration"], parts["wrong"]
    note = (
        f"{settings['logs']} logs per acquisition, each of {settings['prompts']} prompts and {settings['steps']} steps "
        f"with {settings['batch']} prompts rolled out in each; {settings['replications']} replications. A log fails a "
        f"check if its tail probability is at most 0.01. Of {wrong['logs']} logs of a walk over 25 success logits, "
        f"fitted by `SolvingProgress`, {wrong['caught']} fail a check. {result['machine']}; {result['date']}."
    )
    return "\n".join([*lines, "", note])


def _default(row: dict[str, Any] | None) -> tuple[str, str]:
    if row is None:
        return "–", "–"
    return f"{row['global']['coverage']:.2f} ± {row['global']['coverage_se']:.2f}", f"{row['cost']:.2f}"


def labels(result: dict[str, Any]) -> str:
    """How far 20 seeds' fits lie apart, from the prior's mean and from draws of the prior; of those the best ones'."""
    rows = {(row["model"], row["start"]): row for row in result["rows"]}
    columns = (
        "model", "in order", "chances", "useful", "states moved", "draws: in order", "as good as the best",
        "their chances", "and useful",
    )  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in dict.fromkeys(model for model, _ in rows):
        mean, draws = rows[name, "mean"], rows[name, "draws"]
        cells = [_named(mean), *(f"{row['ordered']} of {row['seeds']}" for row in (mean, draws))]
        cells[2:2] = [f"{mean[part]:.3f}" for part in ("chance_spread", "useful_spread", "states_moved")]
        cells += [f"{draws['best']}", *(f"{draws[f'{part}_spread_of_best']:.3f}" for part in ("chance", "useful"))]
        lines.append(f"| {' | '.join(cells)} |")
    settings = result["configuration"]
    note = (
        f"One log per model of {settings['prompts']} prompts and {settings['steps']} steps, {settings['observed']:.0%} "
        f"of the groups rolled out; {settings['svi_steps']} SVI steps. {result['machine']}; {result['date']}."
    )
    return "\n".join([*lines, "", note])


def calibration(result: dict[str, Any]) -> str:
    """The smallest p-value of a model's rank histograms beside what Bonferroni asks of it, and how it was sampled."""
    columns = ("model", "scalars", "smallest p", "at least", "ranks", "effective draws", "divergences", "minutes")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in (result["models"][name] for name in sorted(result["models"])):
        scalars = row["scalars"].values()
        effective = min(scalar["effective_draws"][0] for scalar in scalars)
        verdict = "uniform" if row["uniform"] else "**not uniform**"
        cells = (
            _named(row), len(scalars), f"{row['smallest_p']:.4f}", f"{row['level'] / len(scalars):.4f}", verdict,
            f"{effective:.0f} of {row['draws']}", row["divergences"], f"{row['seconds'] / 60:.0f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    sizes: dict[str, list[str]] = {}
    for row in result["models"].values():
        size = f"{row['simulations']} simulations of {row['prompts']} prompts and {row['steps']} steps"
        sizes.setdefault(f"{size}, a draw every {row['thin']} iterations", []).append(row["model"])
    shown = [f"{size} ({', '.join(sorted(names))})" for size, names in sizes.items()]
    tempered = {row["model"]: len(row["powers"]) for row in result["models"].values() if "powers" in row}
    copies = "".join(f"; {copies} tempered copies of each chain of {name}" for name, copies in tempered.items())
    machines = {f"{row['machine']}; {row['date']}" for row in result["models"].values()}
    return "\n".join([*lines, "", f"{'; '.join(shown)}{copies}. {'. '.join(sorted(machines))}."])


def _named(row: dict[str, Any]) -> str:
    """A model with the arguments that it was made small with."""
    given = ", ".join(f"{name}={value}" for name, value in row.get("arguments", {}).items())
    return f"{row['model']}({given})" if given else str(row["model"])


def _over(arm: dict[str, Any], uniform: dict[str, Any] | None) -> str:
    """The paired difference from uniform selection, with its standard error over seeds."""
    if uniform is None or arm is uniform:
        return "–"
    difference = np.subtract(arm["average"]["values"], uniform["average"]["values"])
    return f"{difference.mean():+.3f} ± {difference.std(ddof=1) / len(difference) ** 0.5:.3f}"


def _read(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


if __name__ == "__main__":
    main()
