"""`dps-pyro demo`: the whole idea in a few minutes on two cores.

Two runs of one configuration: a short one with uniform selection, then the real one with predicted prompts. Both start
from the embedded policy with the same seed; the report draws them side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dps_pyro.storage import atomic_path, strict_json
from dps_pyro.support.console import plain_console
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.run.seals import seal_run

__all__ = ["DemoOptions", "compare", "run_demo"]


@dataclass
class DemoOptions:
    """Fine-tune the embedded Countdown policy on predicted prompts, next to a short run with uniform selection, and
    draw a report."""

    out: Path | None = None
    """The folder for both runs. The default is the first free one of runs/demo, runs/demo-2 and so on."""
    steps: int = 120
    """The number of training steps with predicted prompts."""
    uniform_steps: int = 25
    """The number of training steps with uniform selection."""
    seed: int = 0
    """The random seed of both runs."""


def run_demo(options: DemoOptions) -> int:
    """Run the demo; returns the exit status: 1 where it did not show what it is for, which it says.

    The comparison is written into the predicted run's `summary.json`, as `demo`.
    """
    console = plain_console()
    out = options.out or _free(Path("runs/demo"))
    # The model that predicts best, not the one that teaches best: the useful groups are to show within minutes.
    shared = TrainConfig.flat(seed=options.seed, dynamics="LogitWalk", eval_every=30, checkpoint_every=30, threads=1)

    console.rule("1 of 2: uniform selection, for comparison")
    size = f"{shared.rollouts.batch_size} prompts chosen at random, {shared.rollouts.group_size} rollouts each"
    console.print(f"{options.uniform_steps} steps of {size}.")
    arm = shared.replaced(out=out / "uniform", steps=options.uniform_steps, acquisition="uniform", eval_every=0)
    uniform = train(arm.replaced(report=False))

    console.rule("2 of 2: predicted prompts")
    console.print(
        f"{options.steps} steps of the same size, on prompts that {shared.selection.dynamics} predicts to be "
        "partially solved."
    )
    main = train(shared.replaced(out=out / "predicted", steps=options.steps, compare=(out / "uniform",)))
    found = compare(main, uniform)
    text = strict_json({**main, "demo": found}, indent=1) + "\n"
    with atomic_path(out / "predicted" / "summary.json") as aside:
        aside.write_text(text, encoding="utf-8")
    seal_run(out / "predicted")

    times = found["useful_times_uniform"]
    console.print(
        f"Held-out accuracy went from {main['accuracy_before']:.1%} to {main['accuracy_after']:.1%}. "
        f"{main['useful_share']:.0%} of the groups were useful; with uniform selection it was "
        f"{uniform['useful_share']:.0%}" + (f": {times:.1f} times as many." if times is not None else ".")
    )
    console.print(f"Look at it: {(out / 'predicted' / 'report.html').resolve()}", soft_wrap=True)
    for failure in found["failures"]:
        console.print(f"The demo failed: {failure}", style="red")
    return 1 if found["failures"] else 0


def compare(predicted: dict[str, Any], uniform: dict[str, Any]) -> dict[str, Any]:
    """What two runs' summaries show: the gain in accuracy, the useful share beside uniform selection's (None where that
    found no useful group), and, in sentences, what did not come out as it should."""
    gain = predicted["accuracy_after"] - predicted["accuracy_before"]
    share, other = predicted["useful_share"], uniform["useful_share"]
    failures = []
    if not gain > 0:
        failures.append("held-out accuracy did not rise.")
    if not share > other:
        failures.append("the share of useful groups was not above uniform selection's.")
    return {
        "accuracy_gain": gain,
        "useful_share": share,
        "useful_share_uniform": other,
        "useful_times_uniform": share / other if other > 0 else None,
        "failures": failures,
    }


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that is not there."""
    number = 2
    free = path
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free
