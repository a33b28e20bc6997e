"""`dps-pyro demo`: the whole idea in a few minutes on two cores.

Two runs spend the same number of rollouts from the same policy: one on prompts chosen at random, one on predicted
prompts. The report draws both, accuracy against rollouts, and the last sentence says how many rollouts each took to the
accuracy that uniform selection ended with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dps_pyro.report.measures import saving
from dps_pyro.storage import atomic_path, strict_json
from dps_pyro.support.console import plain_console
from dps_pyro.trainers.bench.curves import curve_of
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.run.seals import seal_run

__all__ = ["DemoOptions", "compare", "run_demo"]

SETTINGS: Mapping[str, Any] = {
    "task": "blocks",
    "task_args": {"blocks": [5, 6], "moves": [5, 10]},
    "learning_rate": 1e-4,
    "eval_every": 30,
    "checkpoint_every": 100,
    "keep_best": False,
    "threads": 1,
}
"""The testbed: the embedded policy solves about a tenth of these problems, and most groups are all wrong."""
ARMS: Mapping[str, Mapping[str, Any]] = {
    "uniform": {"acquisition": "uniform", "batch_size": 4, "group_size": 8},
    "predicted": {"batch_size": 8, "group_size": 4},
}
"""Predicted prompts are selected by the defaults. Both arms spend 32 rollouts per step, in the group size that suits
each best (benchmarks/learning/plans/planning.yaml)."""


@dataclass
class DemoOptions:
    """Fine-tune the embedded blocks world policy twice with the same number of rollouts, on prompts chosen at random
    and on predicted prompts, and draw a report."""

    out: Path | None = None
    """The folder for both runs. The default is the first free one of runs/demo, runs/demo-2 and so on."""
    steps: int = 300
    """The number of training steps of each run. Each step draws 32 rollouts."""
    seed: int = 0
    """The random seed of both runs."""


def run_demo(options: DemoOptions) -> int:
    """Run the demo; returns the exit status: 1 where it did not show what it is for, which it says.

    The comparison is written into the predicted run's `summary.json`, as `demo`.
    """
    console = plain_console()
    out = options.out or _free(Path("runs/demo"))
    shared = TrainConfig.flat(**SETTINGS, steps=options.steps, seed=options.seed)
    done = {}
    for number, (arm, told) in enumerate(
        (("uniform", "prompts chosen at random"), ("predicted", "predicted prompts")), start=1
    ):
        config = shared.replaced(out=out / arm, **ARMS[arm])
        if arm == "predicted":
            config = config.replaced(compare=(out / "uniform",))
        console.rule(f"{number} of 2: {told}")
        size = f"{config.rollouts.batch_size} prompts with {config.rollouts.group_size} rollouts each"
        console.print(f"{options.steps} steps of {size}.")
        done[arm] = train(config.replaced(report=arm == "predicted"))
    curves = {arm: curve_of(out / arm) for arm in done}
    main = done["predicted"]
    found = compare(main, done["uniform"], *((curves[arm].rollouts, curves[arm].accuracy) for arm in ARMS))
    text = strict_json({**main, "demo": found}, indent=1) + "\n"
    with atomic_path(out / "predicted" / "summary.json") as aside:
        aside.write_text(text, encoding="utf-8")
    seal_run(out / "predicted")

    console.print(
        f"{main['useful_share']:.0%} of the groups of predicted prompts were useful; with prompts chosen at random "
        f"it was {done['uniform']['useful_share']:.0%}."
    )
    console.print(f"Look at it: {(out / 'predicted' / 'report.html').resolve()}", soft_wrap=True)
    console.print(found["sentence"])
    for failure in found["failures"]:
        console.print(f"The demo failed: {failure}", style="red")
    return 1 if found["failures"] else 0


def compare(
    predicted: Mapping[str, Any],
    uniform: Mapping[str, Any],
    uniform_curve: tuple[Sequence[float], Sequence[float]],
    predicted_curve: tuple[Sequence[float], Sequence[float]],
) -> dict[str, Any]:
    """What two runs show: the rollouts that each took to uniform selection's final accuracy (the mean of its last three
    evaluations), the useful shares, one sentence, and, in sentences, what did not come out as it should.

    Args:
        predicted: the summary of the run on predicted prompts.
        uniform: the summary of the run on prompts chosen at random.
        uniform_curve: the rollouts and the held-out accuracies at the evaluations of the run on random prompts.
        predicted_curve: the same of the run on predicted prompts.
    """
    own, theirs = (np.array(curve, dtype=np.float64) for curve in (predicted_curve, uniform_curve))
    target, took, uniform_took = saving((own[0], own[1]), (theirs[0], theirs[1]))
    share, other = predicted["useful_share"], uniform["useful_share"]
    failures = []
    if not predicted["accuracy_after"] > predicted["accuracy_before"]:
        failures.append("held-out accuracy did not rise.")
    if not share > other:
        failures.append("the share of useful groups was not above uniform selection's.")
    if not took < uniform_took:
        failures.append("predicted prompts did not reach uniform selection's final accuracy with fewer rollouts.")
    reached = f"predicted prompts took {took:,.0f}"
    if math.isinf(took):
        reached = "predicted prompts did not reach it"
    return {
        "target": target,
        "rollouts_uniform": uniform_took,
        "rollouts_predicted": took if math.isfinite(took) else None,
        "accuracy_gain": predicted["accuracy_after"] - predicted["accuracy_before"],
        "useful_share": share,
        "useful_share_uniform": other,
        "sentence": f"To a held-out accuracy of {target:.1%}, with which uniform selection ended, it took "
        f"{uniform_took:,.0f} rollouts; {reached}.",
        "failures": failures,
    }


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that is not there."""
    number = 2
    free = path
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free
