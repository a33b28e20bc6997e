"""Predictive checks on logs whose groups were selected: uniform where the model is true, small where it is wrong.

    python -m benchmarks.inference.predictive --out benchmarks/results/predictive.json

Prompts move and answer as a model says, a sampler of that model selects whom to roll out, and the one-step-ahead checks
are asked of the log. At the truth each check's tail probabilities over the logs of an acquisition are to be uniform:
chi-square over five bins, p above 0.01 after Bonferroni over the checks. A three-state model that is fitted to logs of
a walk over 25 success logits, selected by itself, is to fail a check (tail below 0.01) in nine logs of ten. How many
logs of the true model fail a check by the same rule is counted beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from benchmarks import results
from dps_pyro import Dynamics, Posterior, PromptSampler, RolloutHistory, fit
from dps_pyro.evaluation.predictive import predictive_checks
from dps_pyro.models import LogitWalk, SolvingProgress

ACQUISITIONS = ("uniform", "soft", "thompson", "top")
PARTS = (*ACQUISITIONS, "wrong")
TRUTH = {
    "gaps": torch.tensor([0.05, 0.45, 0.45, 0.05]),
    "initial": torch.tensor([0.5, 0.3, 0.2]),
    "transition": torch.tensor([[0.93, 0.06, 0.01], [0.03, 0.92, 0.05], [0.01, 0.04, 0.95]]),
}
LEVEL = 0.01
BINS = 5


def played(
    world: Dynamics[Any],
    values: Mapping[str, Tensor],
    sampler: PromptSampler,
    num_steps: int,
    batch_size: int,
    seed: int,
) -> RolloutHistory:
    """The log of a sampler in a world that is a model at some values; groups of eight."""
    count = sampler.num_prompts
    trials = torch.full((count,), 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        theta = world.parameters(count, values)
        initial: Tensor = world.initial(theta).probs
        state = torch.distributions.Categorical(initial.expand(count, -1)).sample()
        for _ in range(num_steps):
            rows = sampler.select(batch_size)
            step = sampler.tracker.coming(8).replace(trials=trials)
            law = world.emission(theta, step)
            solved = law.expand(torch.Size([count, len(world.states)])).sample().gather(-1, state.unsqueeze(-1))[:, 0]
            sampler.observe(rows, solved[rows], 8)
            moves: Tensor = world.transition(theta, step).probs.expand(count, -1, -1)
            state = torch.distributions.Categorical(moves[torch.arange(count), state]).sample()
    return sampler.history


def at_the_truth(acquisition: str, options: argparse.Namespace) -> dict[str, Any]:
    """Tail probabilities of the checks over logs that the model itself made."""
    model = SolvingProgress()
    tails: dict[str, list[float]] = {}
    draws = {name: value.expand(options.replications, *value.shape) for name, value in TRUTH.items()}
    known = Posterior({}, TRUTH, torch.zeros(0), True)
    flagged = 0
    for seed in range(options.logs):
        sampler = PromptSampler(model, options.prompts, acquisition=acquisition, posterior=known, seed=seed)
        log = played(model, TRUTH, sampler, options.steps, options.batch, seed)
        found = {check.name: check.tail for check in predictive_checks(model, log, draws, seed=seed)}
        flagged += min(found.values()) < LEVEL
        for name, tail in found.items():
            tails.setdefault(name, []).append(tail)
    chances = {name: uniform(torch.tensor(found)) for name, found in tails.items()}
    smallest = min(chances.values()) * len(chances)
    rounded = {name: [round(tail, 3) for tail in found] for name, found in tails.items()}
    return {"logs": options.logs, "p": chances, "good": smallest > LEVEL, "flagged": flagged, "tails": rounded}


def uniform(tails: Tensor) -> float:
    """The p-value of a chi-square test that tail probabilities are uniform over five bins."""
    counts = torch.histc(tails.double(), BINS, 0, 1)
    return float(stats.chisquare(counts.numpy()).pvalue)


def of_a_wrong_model(options: argparse.Namespace) -> dict[str, Any]:
    """How often a three-state model fails a check on logs of a walk."""
    world, caught = LogitWalk(spread=1.0, learning=(30.0, 40.0, 30.0)), []
    for seed in range(options.wrong):
        sampler = PromptSampler(SolvingProgress(), options.prompts, acquisition="soft", seed=seed)
        log = played(world, {}, sampler, options.steps, options.batch, seed)
        posterior = fit(SolvingProgress(), log, seed=seed, progress=False)
        tails = {one.name: one.tail for one in predictive_checks(SolvingProgress(), log, posterior.draws, seed=seed)}
        caught.append(min(tails.values()) < LEVEL)
    many = sum(caught) >= 0.9 * options.wrong
    return {"model": "SolvingProgress on a LogitWalk", "logs": options.wrong, "caught": sum(caught), "good": many}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the parts that the file does not have, print and write; the exit status is 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--logs", type=int, default=50, help="logs for each acquisition (%(default)s)")
    parser.add_argument("--wrong", type=int, default=10, help="logs of the wrong model (%(default)s)")
    parser.add_argument("--prompts", type=int, default=50, help="prompts of each log (%(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="steps of each log (%(default)s)")
    parser.add_argument("--batch", type=int, default=25, help="prompts rolled out at each step (%(default)s)")
    parser.add_argument("--replications", type=int, default=199, help="replications of each log (%(default)s)")
    parser.add_argument("--out", type=Path, help="the JSON file to write, part by part; what it has is kept")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    configuration = {name: value for name, value in vars(options).items() if name not in ("out", "parts")}
    found: dict[str, Any] = {}
    if options.out is not None and options.out.exists():
        before = json.loads(options.out.read_text(encoding="utf-8"))
        if before["configuration"] != configuration:
            raise SystemExit(f"{options.out}: expected results of {configuration}, got others; remove it first")
        found = before["parts"]
    for part in [name for name in options.parts if name not in found]:
        found[part] = of_a_wrong_model(options) if part == "wrong" else at_the_truth(part, options)
        print(part, {name: value for name, value in found[part].items() if name != "tails"}, flush=True)
        if options.out is not None:
            result = {
                "what": "tail probabilities of one-step-ahead predictive checks on logs whose groups were selected",
                "date": results.today(),
                "machine": results.machine(),
                "configuration": configuration,
                "parts": {name: found[name] for name in PARTS if name in found},
            }
            results.write(options.out, result)
    raise SystemExit(0 if all(part["good"] for part in found.values()) else 1)


if __name__ == "__main__":
    main()
