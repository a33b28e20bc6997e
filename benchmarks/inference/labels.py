"""Whether states keep their labels whatever the seed: one log a model, fitted from many starts.

    python -m benchmarks.inference.labels --out benchmarks/results/labels.json

A log is drawn from each model that is fitted, and fitted from 20 seeds by SVI, as `fit` does it: from the prior's mean;
and from draws of the prior, far apart, as `fit` begins its further restarts. A model whose labels can switch has other
success chances in a state for each seed, and other prompts in it. So has a posterior of several modes: there some seeds
end at a lower likelihood, and are counted. The seeds are fitted side by side. A model that the result file has already
is left as it is, unless it is named with --models.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from benchmarks.inference.gallery import FITTED, SMALL, arguments, make
from benchmarks.inference.recovery import prior_means
from benchmarks.inference.rows import Rows
from benchmarks.inference.side_by_side import guides
from dps_pyro import RolloutHistory, Step
from dps_pyro.evaluation.parallel_hmc import Posteriors
from dps_pyro.evaluation.sbc_ranks import design, filled, simulated
from dps_pyro.evaluation.smoothing import smoothed
from dps_pyro.inference.svi import usual_guide

GROUP = 8
"""Rollouts in a group."""
STARTS = ("mean", "draws")
"""Of the prior: where fits begin."""
BEST = 0.01
"""Nats a group: a fit as good as the best lies within this of it."""


def main() -> None:
    """Draw, fit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=FITTED)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--observed", type=float, default=0.7, help="the share of groups that are rolled out")
    parser.add_argument("--svi-steps", type=int, default=1000)
    parser.add_argument("--history-seed", type=int, default=0, help="of the parameters and the log")
    parser.add_argument("--out", type=Path, help="a JSON file to write the result to")
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # small chances round to 0 in float32
    configuration = {name: value for name, value in vars(options).items() if name not in ("out", "models")}
    what = (
        "one simulated log a model, fitted from many seeds: how far the success chances of states, the predicted "
        "chances of useful groups and the states of prompts lie apart"
    )
    settings = {"configuration": configuration}
    rows = Rows(options.out, what, settings, ("start", STARTS), anew=options.models or ())
    heads = f"{'ordered':>7} {'chances':>8} {'useful':>7} {'states':>7} {'best':>5} {'nats':>7} {'seconds':>8}"
    print(f"{'model':<16} {'start':<6} {heads}")
    for name, start in rows.missing(options.models or FITTED):
        row = measure(name, start, **configuration)
        _show(row)
        rows.add(row)


def _show(row: dict[str, Any]) -> None:
    numbers = f"{row['chance_spread']:>8.4f} {row['useful_spread']:>7.4f} {row['states_moved']:>7.4f}"
    tail = f"{row['best']:>5} {row['evidence_spread']:>7.4f} {row['seconds']:>8.1f}"
    print(f"{row['model']:<16} {row['start']:<6} {row['ordered']:>4}/{row['seeds']} {numbers} {tail}", flush=True)


def measure(
    name: str, start: str, *, seeds: int, prompts: int, steps: int, observed: float, svi_steps: int, history_seed: int
) -> dict[str, Any]:
    """The row of one model and start."""
    begun = time.process_time()
    model = make(name, {**arguments(name, prompts), **SMALL.get(name, {})})
    schedule = design(prompts, steps, GROUP, visited=observed, seed=history_seed)

    def of_all() -> None:
        with pyro.plate("starts", seeds, dim=-2):
            model.model(schedule)

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(history_seed)
        starts, outcomes = simulated(of_all)
        centre = prior_means(model, prompts)
    # The log is the first draw's; fits may begin at all of them. A normal may draw rewards out of range.
    outcomes = outcomes[:1].clamp(0, GROUP).expand_as(outcomes).contiguous()
    posteriors = Posteriors(of_all, {"outcomes": outcomes}, starts)
    begin = posteriors.start
    if start == "mean":
        begin = posteriors.unconstrained({site: centre[site].expand(value.shape) for site, value in starts.items()})
    guide = usual_guide(model, prompts)
    positions, _ = guides(posteriors, begin, guide, steps=svi_steps, draws=200, seed=history_seed + 1)
    values = [posteriors.values(position) for position in positions]
    points = [
        {site: torch.stack([one[site][at, 0] if _whole(one[site]) else one[site][at] for one in values]).mean(0)
         for site in values[0]}
        for at in range(seeds)
    ]  # fmt: skip
    log = filled(schedule, outcomes[0])
    with torch.no_grad():
        evidence = posteriors.log_density(positions.mean(0))[1] / len(log)
    found = [_read(model, log, point) for point in points]
    chances, useful, states = (torch.stack(parts) for parts in zip(*found, strict=True))
    best = evidence >= evidence.max() - BEST
    return {
        "model": name,
        "start": start,
        "guide": guide,
        "arguments": SMALL.get(name, {}),
        "seeds": seeds,
        "ordered": int((chances.diff(dim=-1) >= -1e-9).flatten(1).all(-1).sum()),
        "chance_spread": _round(_spread(chances).max()),
        "useful_spread": _round(_spread(useful).max()),
        "states_moved": _round((states - states[evidence.argmax()]).abs().sum(-1).mul(0.5).mean((1, 2)).max()),
        "best": int(best.sum()),
        "chance_spread_of_best": _round(_spread(chances[best]).max()),
        "useful_spread_of_best": _round(_spread(useful[best]).max()),
        "evidence_spread": _round(evidence.max() - evidence.min()),
        "seconds": round(time.process_time() - begun, 1),
    }


def _whole(value: Tensor) -> bool:
    """Whether a site [S, 1 or N, ...] is one that prompts share."""
    return value.shape[1] == 1


def _read(model: Any, log: RolloutHistory, point: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """[N, K], the expected share of solved rollouts in each state; [N], the predicted chance that another group at the
    end is useful; [N, T, K], the chances of the states in hindsight."""
    theta = model.parameters(log.num_prompts, point)
    with torch.no_grad():
        step = Step(torch.full((log.num_prompts,), GROUP))
        states = smoothed(model, log, point)
        size = states[:, 0].shape
        chances = (model.emission(theta, step).mean / GROUP).expand(size)
        useful = (states[:, -1] * model.informative(theta, step).expand(size)).sum(-1)
    return chances, useful, states


def _spread(values: Tensor) -> Tensor:
    """The largest less the smallest of all seeds', which come first."""
    return values.amax(0) - values.amin(0)


def _round(value: Tensor) -> float:
    return round(float(value), 5)


if __name__ == "__main__":
    main()
