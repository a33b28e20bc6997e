"""Write the tables and pictures of docs/evidence.md from the result files beside this script.

    python -m benchmarks.evidence

The numbers in the docs come from nowhere else; a test compares the two.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "evidence.md"
PICTURE = PAGE.parent / "images" / "selectors.png"


def main() -> None:
    """Rewrite the page's tables, and draw its picture."""
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw(_read("selectors"), PICTURE)
    print(f"{PAGE}\n{PICTURE}")


def render(page: str) -> str:
    """The page with every `<!-- table: name -->` ... `<!-- end -->` filled from its result file."""
    tables = {"selectors": selectors, "sampler": sampler}
    for name, table in tables.items():
        block = f"<!-- table: {name} -->\n{table(_read(name))}\n<!-- end -->"
        page = re.sub(rf"<!-- table: {name} -->.*?<!-- end -->", lambda _, block=block: block, page, flags=re.DOTALL)
    return page


def selectors(result: dict[str, Any]) -> str:
    """Accuracy at the end and over the run, useful share, coverage and rollouts; mean ± standard deviation."""
    rows = [
        "| selector | final accuracy | mean accuracy over the run | useful groups | prompts visited | rollouts |",
        "|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {name} | {_spread(arm['final'], 3)} | {_spread(arm['average'], 3)} | {_spread(arm['useful'], 2)} "
        f"| {arm['visited']['mean']:.2f} | {arm['rollouts']['mean'] / 1000:.0f}k |"
        for name, arm in sorted(result["arms"].items(), key=lambda item: -item[1]["average"]["mean"])
    ]
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result["configuration"].items())
    start = np.mean([curve[0] for arm in result["arms"].values() for curve in arm["accuracy"]])
    note = (
        f"Mean ± standard deviation over seeds {', '.join(map(str, result['seeds']))}; accuracy before training "
        f"{start:.3f}. {settings}. {result['machine']}; {result['date']}."
    )
    return "\n".join([*rows, "", note])


def sampler(result: dict[str, Any]) -> str:
    """Milliseconds a sampler step, and as a multiple of copying the beliefs."""
    rows = ["| model | prompts | one sampler step | copying the beliefs | ratio |", "|---|---|---|---|---|"]
    rows += [
        f"| {row['model']} | {row['prompts']:,} | {row['step']:.1f} ms | {row['copy']:.2f} ms | {row['ratio']:.0f} |"
        for row in result["rows"]
    ]
    return "\n".join([*rows, "", f"Medians, one thread. {result['machine']}; {result['date']}."])


def draw(result: dict[str, Any], path: Path) -> None:
    """Accuracy against rollouts, mean over seeds with one standard error."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#000000"]
    for (name, arm), colour in zip(result["arms"].items(), colours, strict=False):
        accuracy, rollouts = np.array(arm["accuracy"]), np.mean(arm["rollouts_by_step"], 0) / 1000
        mean, error = accuracy.mean(0), accuracy.std(0, ddof=1) / len(accuracy) ** 0.5
        axes.plot(rollouts, mean, label=name, color=colour, linewidth=1.6)
        axes.fill_between(rollouts, mean - error, mean + error, color=colour, alpha=0.12, linewidth=0)
    axes.set_xlabel("training rollouts, thousands")
    axes.set_ylabel("held-out accuracy")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)


def _spread(values: dict[str, Any], digits: int) -> str:
    return f"{values['mean']:.{digits}f} ± {values['sd']:.{digits}f}"


def _read(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


if __name__ == "__main__":
    main()
