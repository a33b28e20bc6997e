"""`dps-pyro demo`: the whole idea in a few minutes on two cores.

Two runs of one configuration: a short one with uniform selection, then the real one with predicted prompts. Both start
from the embedded policy with the same seed; the report draws them side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from dps_pyro.trainers.config import TrainConfig
from dps_pyro.trainers.grpo import train

__all__ = ["DemoOptions", "demo"]


@dataclass
class DemoOptions:
    """Fine-tune the embedded Countdown policy on predicted prompts, beside a short uniform arm, and draw a report."""

    out: Path | None = None
    """The folder for both runs; runs/demo, runs/demo-2, ... if left out."""
    steps: int = 120
    """Training steps with predicted prompts."""
    uniform_steps: int = 25
    """Training steps of the uniform arm."""
    seed: int = 0
    """Of both runs."""


def demo(options: DemoOptions) -> int:
    """Run the demo; returns the exit status."""
    console = Console()
    out = options.out or _free(Path("runs/demo"))
    shared = TrainConfig(seed=options.seed, eval_every=30, checkpoint_every=30, threads=1)

    console.rule("1 of 2: uniform selection, for comparison")
    size = f"{shared.batch_size} prompts chosen at random, {shared.group_size} rollouts each"
    console.print(f"{options.uniform_steps} steps of {size}.")
    arm = replace(shared, out=out / "uniform", steps=options.uniform_steps, acquisition="uniform", eval_every=0)
    uniform = train(replace(arm, report=False))

    console.rule("2 of 2: predicted prompts")
    console.print(
        f"{options.steps} steps of the same size, on prompts that {shared.dynamics} predicts to be partially solved."
    )
    main = train(replace(shared, out=out / "predicted", steps=options.steps, compare=(out / "uniform",)))
    page = out / "predicted" / "report.html"

    times = main["useful_share"] / max(uniform["useful_share"], 1e-9)
    console.print(
        f"Held-out accuracy went from {main['accuracy_before']:.1%} to {main['accuracy_after']:.1%}. "
        f"{main['useful_share']:.0%} of the groups were useful; with uniform selection it was "
        f"{uniform['useful_share']:.0%}: {times:.1f} times as many."
    )
    console.print(f"Look at it: {page.resolve()}", soft_wrap=True)
    return 0


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that is not there."""
    number = 2
    free = path
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free
