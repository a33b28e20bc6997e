"""`dps-pyro bench`: training runs side by side, over seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

__all__ = ["Options", "run"]


@dataclass
class Options:
    """Compare ways of choosing prompts by real training runs: every arm on every testbed with every seed.

    The curve of each run is saved when the run ends. If the command is stopped, the same command continues, and does
    not repeat runs whose settings are unchanged. The command prints a table and writes results.json and accuracy.png:
    the accuracy against rollouts, and the number of rollouts that each arm needs to reach the final accuracy of the
    others, with bootstrap intervals over seeds.
    """

    plan: tyro.conf.Positional[Path]
    """The YAML file with the plan: seeds, shared settings, testbeds, arms, and the arms to compare with."""
    out: Path = Path("runs/bench")
    """The folder for curves and results."""
    workers: int = 1
    """The number of training runs at a time. Each run has a process of its own."""
    keep_runs: bool = False
    """Keep the run folders, with their logs of rollouts, below the curves."""
    table: Annotated[bool, tyro.conf.arg(name="table")] = False
    """Do not run anything. Print the table and write the results of the runs that have ended."""


def run(arguments: list[str]) -> int:
    """Run what is missing, then write and print the results."""
    options = tyro.cli(Options, prog="dps-pyro bench", args=arguments)
    if options.workers < 1:
        raise ValueError(f"workers: expected 1 or more, got {options.workers}")
    if not options.plan.is_file():
        raise ValueError(f"plan: expected a YAML file, got {options.plan}")

    from dps_pyro.support.console import plain_console
    from dps_pyro.support.interrupts import passed_on
    from dps_pyro.trainers.bench.curves import Curve, known, run_all
    from dps_pyro.trainers.bench.plan import Job, read_plan
    from dps_pyro.trainers.bench.results import by_name, draw, table, write

    console = plain_console()
    plan = read_plan(options.plan)
    kept = options.out / "curves"
    ended = [job for job in plan.jobs if known(job, kept) is not None]
    done = len(ended)
    console.print(f"{len(plan.jobs)} runs, of which {done} have ended.", highlight=False)

    def told(job: Job, curve: Curve) -> None:
        nonlocal done
        done += 1
        name = f"{job.testbed}, {job.arm}, seed {job.seed}"
        rise = f"{curve.accuracy[0]:.3f} to {curve.accuracy[-1]:.3f} with {curve.rollouts[-1]:,} rollouts"
        console.print(f"{done} of {len(plan.jobs)}: {name}: {rise}", highlight=False, soft_wrap=True)

    jobs = ended if options.table else list(plan.jobs)
    if not jobs:
        raise ValueError(f"out: expected runs that have ended below {kept}, got none")
    with passed_on():
        ran = run_all(jobs, kept, options.workers, told, keep_runs=options.keep_runs)
    curves = by_name(plan, jobs, ran)
    print(table(write(options.out / "results.json", plan, curves)))
    draw(options.out / "accuracy.png", plan, curves)
    console.print(f"Look at {(options.out / 'accuracy.png').resolve()}", soft_wrap=True, highlight=False)
    return 0
