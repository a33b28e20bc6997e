"""What does the policy's own reading of a prompt tell about its success rate, beyond the group that it belongs to?

    python -m benchmarks.prediction.reading --out benchmarks/results/reading.json

The policies of the testbeds *planning* and *formulas* roll every training prompt out 16 times, before training and
after 150 steps of it. The success rates are regressed on the prompts' groups (as many blocks and moves, say), on
the principal components of the policy's hidden state at the prompt's end and its log-probability of the prompt
(`trainers.policy.reading`), and on both: a logistic regression of the counts, with a normal prior on the coefficients.
The share of the rates' variance that is explained is measured on prompts that were left out, five times, and less the
noise that sixteen rollouts leave. "few" learns from three tenths of the prompts, whose rollouts are as many as the run
has drawn by then.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarks import results
from dps_pyro.dynamics.features import Groups
from dps_pyro.trainers.bench.plan import read_plan
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.parts import make_engine, make_task
from dps_pyro.trainers.policy.load import load_policy
from dps_pyro.trainers.policy.reading import principal, read_prompts
from dps_pyro.trainers.step.groups import Source, shown, told

PLANS = Path(__file__).parents[1] / "learning" / "plans"
GROUPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "planning": (("blocks", "moves"),),
    "formulas": (("operations",), ("operations", "reversed")),
}
"""The features that make the groups, one way or more, on each testbed."""
ROLLOUTS = 16
FOLDS = 5
FEW = 0.3
"""The share of the prompts whose rollouts are as many as a run of 150 steps draws."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, roll out, regress and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbeds", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--steps", type=int, default=150, help="training steps between the two readings")
    parser.add_argument("--prompts", type=int, default=1024)
    parser.add_argument("--components", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--runs", type=Path, default=Path("runs/reading"), help="where the run is kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/reading.json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for testbed in options.testbeds:
        folder = options.runs / testbed
        given = trained(testbed, folder, options.steps, options.seed, train_size=options.prompts)
        for step, policy in ((0, None), (options.steps, folder / "policy")):
            solved, trials, states, logps, features = _rolled_out(given, policy)
            groups = {name: _groups(features, name) for name in GROUPS[testbed]}
            shares = explained(solved, trials, states, logps, groups, options.components)
            rows += [{"testbed": testbed, "step": step, **row} for row in shares]
    result = {
        "what": "the share of the variance of the prompts' success rates that is explained, by what is regressed on",
        "date": results.today(),
        "machine": results.machine(),
        "configuration": {"prompts": options.prompts, "rollouts": ROLLOUTS, "folds": FOLDS, "seed": options.seed},
        "rows": rows,
    }
    results.write(options.out, result)
    for row in rows:
        print(row)


def trained(
    testbed: str, folder: Path, steps: int, seed: int, train_size: int | None = None, **changed: Any
) -> dict[str, Any]:
    """Train the policy of a testbed in `folder`, or go on there, and return the settings of the run: those of the arm
    "Siblings, soft" of its plan, but for some that are `changed`, with `train_size` prompts."""
    jobs = read_plan(PLANS / f"{testbed}.yaml").jobs
    given = dict(next(job.settings for job in jobs if job.arm == "Siblings, soft"))
    if train_size is not None:
        given["task_args"] = {**given["task_args"], "train_size": train_size}
    given |= {"steps": steps, "eval_every": steps, "seed": seed, **changed}
    train(TrainConfig.flat(**given, out=folder, resume=folder.exists()))
    return given


def _rolled_out(
    given: dict[str, Any], saved: Path | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Mapping[str, Any]]]:
    """Each prompt's number of solved and of all rollouts, hidden state, log-probability and features."""
    asked = {**given, "dynamics": "Oracle", "dynamics_args": {}, "oracle_rollouts": ROLLOUTS}
    config = TrainConfig.flat(**asked)
    policy, tokenizer = load_policy(config, saved)
    task = make_task(config, tokenizer)
    prompts = task.prompts("train")
    source = Source(make_engine(config, policy, tokenizer), tokenizer, task, config)
    _, solved, trials = told(source, prompts, 0)
    states, logps = read_prompts(policy, tokenizer, shown(tokenizer, task, list(prompts), config))
    return solved.double(), trials.double(), states, logps, [prompt.features for prompt in prompts]


def _groups(features: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Tensor:
    """Long [N], the number of each prompt's group, which has the same values of the named features."""
    labels = ["+".join(str(of[name]) for name in names) for of in features]
    return Groups(labels).of(torch.arange(len(labels)), len(labels))


def explained(
    solved: Tensor,
    trials: Tensor,
    states: Tensor,
    logps: Tensor,
    groups: Mapping[tuple[str, ...], Tensor],
    components: Sequence[int],
) -> list[dict[str, Any]]:
    """The share of the variance that each set of regressors explains on prompts that were left out.

    Args:
        solved, trials: float64 [N].
        states: [N, D].
        logps: [N].
        groups: By the names of the features that make them, the number of each prompt's group, long [N]. The first are
            regressed on together with the reading, too.
        components: How many components of the states are regressed on.

    Returns:
        A row for each set: its name, and the shares when it learns from all other prompts and from few.
    """
    constant = torch.ones(len(solved), 1, dtype=torch.float64)
    likely = ((logps - logps.mean()) / logps.std()).double()[:, None]
    columns = {" and ".join(names): (one_hot(numbers).double(), 1.0) for names, numbers in groups.items()}
    first, (member, _) = next(iter(columns.items()))
    columns[f"{first}, log-probability"] = torch.cat([member, likely], 1), 1.0
    for count in components:
        reading = torch.cat([principal(states, count), likely], 1)
        columns[f"reading, {count} components"] = torch.cat([constant, reading], 1), 10.0
        columns[f"{first}, reading, {count} components"] = torch.cat([member, reading], 1), 10.0
    rate = solved / trials
    noise = (rate * (1 - rate) / (trials - 1)).mean()
    spread = rate.var() - noise
    generator = torch.Generator().manual_seed(0)
    fold = torch.randint(FOLDS, rate.shape, generator=generator)
    few = torch.rand(rate.shape, generator=generator) < FEW
    rows = []
    for name, (regressors, penalty) in columns.items():
        shares = {}
        for amount, known in (("all", torch.ones_like(few)), ("few", few)):
            predicted = torch.empty_like(rate)
            for left_out in range(FOLDS):
                learn, test = known & (fold != left_out), fold == left_out
                weights = regression(regressors[learn], solved[learn], trials[learn], penalty)
                predicted[test] = torch.sigmoid(regressors[test] @ weights)
            shares[amount] = float(1 - ((rate - predicted).square().mean() - noise) / spread)
        rows.append({"regressors": name, **shares})
    return rows


def regression(regressors: Tensor, solved: Tensor, trials: Tensor, penalty: float, steps: int = 40) -> Tensor:
    """float64 [K], the most probable coefficients of a logistic regression of counts, each normal with a precision of
    `penalty`, by Newton's method."""
    weights = torch.zeros(regressors.shape[1], dtype=torch.float64)
    prior = penalty * torch.eye(len(weights), dtype=torch.float64)
    for _ in range(steps):
        chance = torch.sigmoid(regressors @ weights)
        gradient = regressors.T @ (solved - trials * chance) - prior @ weights
        curvature = (regressors * (trials * chance * (1 - chance))[:, None]).T @ regressors + prior
        weights = weights + torch.linalg.solve(curvature, gradient).clamp(-3, 3)
    return weights


if __name__ == "__main__":
    main()
