"""How much signal does a rollout buy? Ways of choosing prompts and drawing groups, replayed on full logs of runs.

    python -m benchmarks.prediction.signal --out benchmarks/results/signal.json

The gradient of a prompt's success rate p is estimated from rollouts with rewards of 0 and 1. A rollout's share in the
squared signal-to-noise ratio is p (1 - p), and a leave-one-out baseline over a group of n leaves (n - 1) / n of it. A
way of choosing is measured by the mean of p (1 - p) (n - 1) / n over all rollouts that it paid for: `signal`, against
that of uniform selection with groups of six. Of the eight rollouts that the log has of each prompt at each step, the
first six can be drawn; whether the last two differ estimates 2 p (1 - p) without bias, and no way of choosing sees it.

`visited` is the share of the prompts with a rollout in the whole run, and `spread` that of the prompts over which the
signal is spread: the effective number, (sum of signals)^2 / sum of squared signals. A selector that buys signal by
going back to the same prompts has a small spread, and runs have shown that it teaches less.

For groups in two parts, n is the size that a group came to. That the size depends on the first outcomes is not in the
formula, which is exact for sizes that are set before; take their rows as approximate.

The policy of the log is the same whatever is chosen, so that this compares choices and not what is learned from them.
The beliefs are those of `LogitWalk` where no other model is named, from its default prior, with a population for each
number of operands. "all seen" is told
all six rollouts of every prompt at every step, which are not counted: what the best prediction from outcomes would buy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import results
from benchmarks.prediction.logs import FOLDER
from dps_pyro import PromptSampler, RolloutHistory
from dps_pyro.models import LogitWalk, PaperDPS, SolvingProgress
from dps_pyro.selection.acquisition import ACQUISITIONS, Acquisition, Forecast, by_variance, soft
from dps_pyro.selection.plan import second_half

DRAWN, HELD = 6, 2


class Arm(NamedTuple):
    """A way of choosing prompts and of drawing their groups."""

    acquisition: Acquisition
    size: int = DRAWN  # of whole groups, or the largest size of groups in two parts
    first: int = 0  # rollouts of the first part; 0: groups are drawn whole
    everything: bool = False  # whether the beliefs see every prompt at every step
    model: str = "LogitWalk"  # of solving progress


def drawn_signal(forecast: Forecast, generator: torch.Generator) -> Tensor:
    """Draw each prompt's success rate p from its belief, and the batch with weights p (1 - p)."""
    rate = forecast.draw(generator).double()
    return soft(1.0)(forecast._replace(informative=4 * rate * (1 - rate)), generator)


UNIFORM, THOMPSON, TOP = (ACQUISITIONS[name] for name in ("uniform", "thompson", "top"))
ARMS: dict[str, Arm] = {
    "uniform, groups of 6": Arm(UNIFORM),
    "uniform, two parts": Arm(UNIFORM, first=2),
    "SolvingProgress, soft 4, groups of 6": Arm(soft(4.0), model="SolvingProgress"),
    "PaperDPS, top, groups of 6": Arm(TOP, model="PaperDPS"),
    "Thompson, groups of 6": Arm(THOMPSON),
    "Thompson, groups of 4": Arm(THOMPSON, 4),
    "Thompson, two parts": Arm(THOMPSON, first=2),
    "soft 4, groups of 4": Arm(soft(4.0), 4),
    "soft 2, groups of 4": Arm(soft(2.0), 4),
    "drawn p (1 - p), groups of 4": Arm(drawn_signal, 4),
    "E[p (1 - p)]^2, groups of 4": Arm(by_variance(soft(2.0)), 4),
    "E[p (1 - p)]^2, two parts": Arm(by_variance(soft(2.0)), first=2),
    "E[p (1 - p)]^3, two parts": Arm(by_variance(soft(3.0)), first=2),
    "all seen: Thompson, groups of 6": Arm(THOMPSON, everything=True),
    "all seen: E[p (1 - p)]^2, groups of 6": Arm(by_variance(soft(2.0)), everything=True),
    "all seen: top, groups of 6": Arm(TOP, everything=True),
}


class Log(NamedTuple):
    """A full log: every prompt's eight rollouts at every step, in random order."""

    right: Tensor  # float [T, N, 8]
    labels: list[str]


def read(name: str, seed: int) -> Log:
    """A log whose counts are laid out as single rollouts, in an order that `seed` decides."""
    history = RolloutHistory.from_parquet(FOLDER / f"{name}.parquet")
    events = history.events
    steps, prompts = int(events.step.max()) + 1, history.num_prompts
    solved = torch.zeros(steps, prompts)
    solved[events.step, events.prompt] = events.solved.float()
    order = torch.rand(steps, prompts, DRAWN + HELD, generator=torch.Generator().manual_seed(seed)).argsort(-1)
    labels = [str(int(count)) for count in torch.as_tensor(history.features["operands"]).tolist()]
    return Log((order < solved.unsqueeze(-1)).float(), labels)


def play(log: Log, arm: Arm, budget: int, seed: int) -> dict[str, float]:
    """One arm on one log with `budget` rollouts a step."""
    steps, prompts = log.right.shape[:2]
    model = {"LogitWalk": lambda: LogitWalk(log.labels), "SolvingProgress": SolvingProgress, "PaperDPS": PaperDPS}
    sampler = PromptSampler(model[arm.model](), prompts, acquisition=arm.acquisition, trials=arm.size, seed=seed)
    drawn, spare = log.right[..., :DRAWN].cumsum(-1), (log.right[..., DRAWN] != log.right[..., DRAWN + 1]).double() / 2
    gained, seen, paid, useful, groups = torch.zeros(prompts).double(), torch.zeros(prompts).bool(), 0, 0, 0
    for step in range(steps):
        if arm.first:
            rows = sampler.select(min(budget // 2 // arm.first, prompts))
            sizes = torch.full_like(rows, arm.first)
            rates, solved = sampler.tracker.rates().of(rows), drawn[step, rows, arm.first - 1]
            sizes += second_half(rates, solved, sizes, budget - int(sizes.sum()), most=arm.size)
        else:
            rows = sampler.select(min(budget // arm.size, prompts))
            sizes = torch.full_like(rows, arm.size)
        solved = drawn[step, rows, sizes - 1]
        gained[rows] += spare[step, rows] * (sizes - 1)
        seen[rows] = True
        paid += int(sizes.sum())
        useful, groups = useful + int(((solved > 0) & (solved < sizes)).sum()), groups + len(rows)
        if arm.everything:
            sampler.observe(torch.arange(prompts), drawn[step, :, -1], DRAWN)
        else:
            sampler.observe(rows, solved, sizes)
    return {
        "signal": float(gained.sum()) / paid,
        "useful": useful / groups,
        "useful groups per 100 rollouts": 100 * useful / paid,
        "visited": float(seen.double().mean()),
        "spread": float(gained.sum() ** 2 / gained.square().sum().clamp_min(1e-12)) / prompts,
        "rollouts": float(paid),
    }


def main() -> None:
    """Play every arm, and write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", nargs="+", default=["report-hard", "report-middle"])
    parser.add_argument("--budgets", type=int, nargs="+", default=[24], help="rollouts a step")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/signal.json"))
    parser.add_argument("--table", action="store_true", help="play nothing: print the table of the results in --out")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.out.read_text(encoding="utf-8"))))
        return
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name in options.logs:
        logs = {seed: read(name, seed) for seed in options.seeds}
        for budget in options.budgets:
            rows: dict[str, Any] = {}
            for arm in options.arms:
                began = time.process_time()
                runs = [play(logs[seed], ARMS[arm], budget, seed) for seed in options.seeds]
                means = {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}
                spread = statistics.stdev(run["signal"] for run in runs) if len(runs) > 1 else 0.0
                rows[arm] = {**means, "signal_sd": spread}
                print(
                    f"{name:14s} {budget:4d} {arm:45s} signal {means['signal']:.4f} ± {spread:.4f}"
                    f" useful {means['useful']:.2f} per 100 {means['useful groups per 100 rollouts']:5.1f}"
                    f" visited {means['visited']:.2f} spread {means['spread']:.2f}"
                    f"  {time.process_time() - began:.0f} s",
                    flush=True,
                )
                found.setdefault(name, {})[str(budget)] = rows
                write(options.out, options.seeds, found)


def table(result: dict[str, Any]) -> str:
    """The result file's content as Markdown: a table for each log, with signals also in units of the first arm's."""
    parts = []
    for name, budgets in result["logs"].items():
        for budget, rows in budgets.items():
            base = next(iter(rows.values()))["signal"]
            parts.append(f"**{name}, {budget} rollouts a step**\n")
            parts.append(
                "| arm | signal per rollout | times the first | useful | visited | spread |\n|---|---|---|---|---|---|"
            )
            parts += [
                f"| {arm} | {row['signal']:.3f} ± {row['signal_sd']:.3f} | {row['signal'] / base:.2f}"
                f" | {row['useful']:.2f} | {row['visited']:.2f} | {row['spread']:.2f} |"
                for arm, row in rows.items()
            ]
            parts.append("")
    return "\n".join(parts)


def write(out: Path, seeds: list[int], found: dict[str, Any]) -> None:
    """Write what is known so far."""
    result = {
        "what": "p (1 - p) (n - 1) / n per rollout, by the way that prompts are chosen, replayed on full logs",
        "date": results.today(),
        "machine": results.machine(),
        "seeds": seeds,
        "logs": found,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    results.write(out, result)


if __name__ == "__main__":
    main()
