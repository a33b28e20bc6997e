"""What does `Siblings` predict, by what it is told of the prompts?

    python -m benchmarks.prediction.told --out benchmarks/results/told.json

On the testbeds *planning* and *formulas*, a policy is trained on prompts chosen at random, in groups of four. The log
is then played through the filter, and each group is scored by the log-probability that it was given before it was
seen: all groups, and those of prompts that were rolled out for the first time. The filter is told nothing, the groups
that the testbed names, the prompts' features, the policy's own reading of each prompt before training, or noise of as
many columns. Beside it stands `LogitWalk` alone, which treats every prompt by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import results
from benchmarks.prediction.reading import trained
from dps_pyro import RolloutHistory
from dps_pyro.models import LogitWalk, Siblings
from dps_pyro.tracking.predictor import Filter
from dps_pyro.tracking.tracker import track
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.parts import make_task
from dps_pyro.trainers.policy.load import load_policy
from dps_pyro.trainers.policy.reading import reading_features
from dps_pyro.trainers.step.groups import shown

GROUPS = {"planning": "blocks+moves", "formulas": "operations"}
"""What makes the groups of each testbed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, read, play and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbeds", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--components", type=int, default=16, help="of the policy's reading")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--runs", type=Path, default=Path("runs/told"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/told.json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for testbed in options.testbeds:
        folder = options.runs / testbed
        given = trained(testbed, folder, options.steps, options.seed, acquisition="uniform")
        history = RolloutHistory.from_parquet(folder / "history.parquet")
        reading = _reading(given, history.ids, options.components)
        for name, model in models(history, GROUPS[testbed].split("+"), reading).items():
            rows.append({"testbed": testbed, "told": name, **play(track(model, history.num_prompts), history)})
            print(rows[-1], flush=True)
    result = {
        "what": "the mean log-probability of a group before it was seen, in nats, by what Siblings is told",
        "date": results.today(),
        "machine": results.machine(),
        "configuration": {"steps": options.steps, "components": options.components, "seed": options.seed},
        "rows": rows,
    }
    results.write(options.out, result)


def models(
    history: RolloutHistory, grouping: Sequence[str], reading: Mapping[str, Sequence[float]]
) -> dict[str, LogitWalk | Siblings]:
    """The models that are compared, by what they are told."""
    known: dict[str, Any] = dict(history.features)
    labels = ["+".join(map(str, values)) for values in zip(*(known[name] for name in grouping), strict=True)]
    noise = torch.randn(history.num_prompts, len(reading), generator=torch.Generator().manual_seed(0))
    named, features, read = " and ".join(grouping), f"features ({', '.join(known)})", dict(reading)
    return {
        "nothing, each prompt by itself (LogitWalk)": LogitWalk(),
        "nothing": Siblings(),
        "noise": Siblings(features=noise),
        "the reading": Siblings(features=read),
        features: Siblings(features=known),
        f"groups by {named}": Siblings(labels),
        f"groups by {named}, noise": Siblings(labels, noise),
        f"groups by {named}, the reading": Siblings(labels, read),
        f"groups by {named}, {features}": Siblings(labels, known),
        f"groups by {named}, {features}, the reading": Siblings(labels, known | read),
    }


def play(tracker: Filter, history: RolloutHistory) -> dict[str, float]:
    """The mean log-probability of a group before it was seen: of all groups, of those of prompts that had not been
    rolled out, and of the others; and how many first ones there were."""
    events, seen = history.events, torch.zeros(history.num_prompts, dtype=torch.bool)
    scores: list[Tensor] = []
    first: list[Tensor] = []
    for step in range(history.num_steps):
        now = (events.step == step).nonzero().squeeze(-1)
        rows = events.prompt[now]
        scores.append(tracker.observe(rows, events.solved[now], events.trials[now], step).double())
        first.append(~seen[rows])
        seen[rows] = True
    score, new = torch.cat(scores), torch.cat(first)
    parts = {"all": score, "first": score[new], "again": score[~new]}
    return {**{name: float(part.mean()) for name, part in parts.items()}, "visited": int(new.sum())}


def _reading(given: dict[str, Any], ids: Sequence[str] | None, components: int) -> dict[str, list[float]]:
    """The policy's reading of the prompts of the log before training."""
    config = TrainConfig.flat(**given)
    policy, tokenizer = load_policy(config)
    task = make_task(config, tokenizer)
    prompts = task.prompts("train")
    if ids is not None and list(prompts.ids) != list(ids):
        raise ValueError("expected a log of the task's prompts in their order, got others")
    return reading_features(policy, tokenizer, shown(tokenizer, task, list(prompts), config), components)


if __name__ == "__main__":
    main()
