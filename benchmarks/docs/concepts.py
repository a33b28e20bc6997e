"""Draw the pictures of docs/concepts.md and docs/models/gallery.md.

    python -m benchmarks.docs.concepts

The models are drawn by Pyro's `render_model`, which needs Graphviz (Debian: apt install graphviz).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pyro
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from dps_pyro import PromptSampler, RolloutHistory, models
from dps_pyro.models import SolvingProgress

IMAGES = Path(__file__).parents[2] / "docs" / "images"
BLUE, AMBER, GREEN, INK, MUTED = "#0072B2", "#E69F00", "#009E73", "#222222", "#777777"
GALLERY: dict[str, Any] = {
    "SolvingProgress": models.SolvingProgress,
    "LogitWalk": lambda: models.LogitWalk(["easy", "hard"] * 2),
    "Ladder": models.Ladder,
    "Hierarchical": lambda: models.Hierarchical(["easy", "hard"] * 2),
    "PromptTypes": models.PromptTypes,
    "Covariate": lambda: models.Covariate({"length": [1.0, 2.0, 3.0, 4.0]}),
    "Trained": models.Trained,
    "Forgetting": models.Forgetting,
    "RunStart": models.RunStart,
    "DenseReward": models.DenseReward,
    "PaperDPS": models.PaperDPS,
}


def main() -> None:
    """Draw all pictures."""
    mpl.rcParams.update({"svg.hashsalt": "dps_pyro", "font.size": 9, "svg.fonttype": "none"})
    for name, draw in {"chain": chain, "belief": belief, "loop": loop}.items():
        _save(draw(), IMAGES / f"{name}.svg")
    if shutil.which("dot") is None:
        print("Graphviz is not installed: the pictures of the models stay as they are.")
        return
    for name, make in GALLERY.items():
        history = RolloutHistory(4)
        for step in range(2):
            history.append([0, 1, 2, 3], step=step, solved=[0, 4, 8, 2], trials=[8, 8, 8, 8])
        graph = pyro.render_model(make().enumerated_model, model_args=(history,), render_distributions=True)
        picture = graph.pipe(format="svg").decode("utf-8")
        (IMAGES / "models" / f"{name}.svg").write_text(picture, encoding="utf-8")


def chain() -> Figure:
    """The hidden Markov model of one prompt, over four steps."""
    figure = Figure(figsize=(7.2, 2.7), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.9, 7.1), ylim=(-0.75, 2.3), aspect="equal")
    axes.axis("off")
    outcomes = ("0 of 8", "3 of 8", "no rollouts", "7 of 8")
    for step, outcome in enumerate(outcomes):
        x = 2.0 * step
        axes.add_patch(Circle((x, 1.5), 0.42, facecolor="white", edgecolor=BLUE, linewidth=1.6))
        axes.text(x, 1.5, f"$z_{step + 1}$", ha="center", va="center", color=INK, fontsize=12)
        seen = outcome != "no rollouts"
        if seen:
            box = FancyBboxPatch(
                (x - 0.5, -0.25), 1.0, 0.5, boxstyle="round,pad=0.04", facecolor="#EEF4FA", edgecolor=BLUE
            )
            axes.add_patch(box)
            axes.add_patch(FancyArrowPatch((x, 1.06), (x, 0.32), arrowstyle="-|>", mutation_scale=11, color=MUTED))
        axes.text(x, 0.0, outcome, ha="center", va="center", color=INK if seen else MUTED, fontsize=8.5)
        axes.text(x, -0.62, f"step {step + 1}", ha="center", va="center", color=MUTED, fontsize=8)
        if step:
            axes.add_patch(
                FancyArrowPatch((x - 1.56, 1.5), (x - 0.44, 1.5), arrowstyle="-|>", mutation_scale=12, color=BLUE)
            )
    axes.text(1.0, 1.72, "transition", ha="center", color=BLUE, fontsize=8)
    axes.text(0.12, 0.7, "emission", ha="left", color=MUTED, fontsize=8)
    axes.text(-0.85, 2.15, "hidden: how far the policy solves the prompt", color=BLUE, fontsize=8.5)
    return figure


def belief() -> Figure:
    """A belief over time: what the filter makes of one prompt's groups."""
    groups: list[int | None] = [0, 0, None, 1, 2, None, None, 4, 5, 7, 8, 8]
    sampler = PromptSampler(SolvingProgress(), num_prompts=2, trials=8)
    shares, useful = [], []
    for solved in groups:
        shares.append(sampler.belief[0])
        useful.append(float(sampler.informative(8)[0]))
        sampler.observe([0 if solved is not None else 1], [solved or 0], trials=8)
    table = torch.stack(shares).T
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    axes = figure.subplots()
    steps = range(1, len(groups) + 1)
    colours = ["#C9D6E3", AMBER, GREEN]
    axes.stackplot(steps, table.numpy(), colors=colours, labels=list(SolvingProgress.states), alpha=0.8)
    axes.plot(steps, useful, color=INK, linewidth=1.6, label="chance of a useful group")
    for step, solved in zip(steps, groups, strict=True):
        axes.text(step, 1.03, "–" if solved is None else f"{solved}/8", ha="center", fontsize=8, color=INK)
    axes.set(xlim=(1, len(groups)), ylim=(0, 1), ylabel="belief")
    axes.set_xlabel("step (above: how many of 8 rollouts were right)")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    return figure


def loop() -> Figure:
    """Where selection enters the training loop."""
    figure = Figure(figsize=(7.2, 2.5), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 10.2), ylim=(0, 3.2), aspect="equal")
    axes.axis("off")
    boxes = {
        "select": (0.2, 1.7, "select\nprompts", BLUE),
        "roll out": (2.8, 1.7, "roll out\ngroups", MUTED),
        "reward": (5.4, 1.7, "reward", MUTED),
        "update": (8.0, 1.7, "update\npolicy", MUTED),
        "beliefs": (2.8, 0.1, "observe: every belief\nmoves one step on", BLUE),
    }
    for name, (x, y, text, colour) in boxes.items():
        wide = 3.6 if name == "beliefs" else 1.9
        style = {"boxstyle": "round,pad=0.05", "facecolor": "white", "edgecolor": colour, "linewidth": 1.5}
        axes.add_patch(FancyBboxPatch((x, y), wide, 1.0, **style))
        axes.text(x + wide / 2, y + 0.5, text, ha="center", va="center", fontsize=9, color=INK)
    for start, end in (((2.2, 2.2), (2.7, 2.2)), ((4.8, 2.2), (5.3, 2.2)), ((7.4, 2.2), (7.9, 2.2))):
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=MUTED))
    axes.add_patch(FancyArrowPatch((6.3, 1.6), (5.6, 1.2), arrowstyle="-|>", mutation_scale=12, color=BLUE))
    axes.add_patch(FancyArrowPatch((2.7, 0.6), (1.1, 1.6), arrowstyle="-|>", mutation_scale=12, color=BLUE))
    axes.text(0.2, 0.75, "chances of a\nuseful group", fontsize=8, color=BLUE)
    axes.text(6.6, 0.5, "blue: dps_pyro; grey: your training loop", fontsize=8, color=MUTED)
    return figure


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
