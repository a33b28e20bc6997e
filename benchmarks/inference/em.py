"""Whether EM would find the most probable parameters sooner than the search of `Laplace()`, or start SVI better.

    python -m benchmarks.inference.em --out benchmarks/results/em.json

`SolvingProgress` is fitted to simulated logs by EM and by L-BFGS, the search of `Laplace()`. Both maximise the same
function: the log posterior density in unconstrained space, where a Dirichlet prior with concentrations a has the mode
a / sum(a). An iteration of EM and an evaluation of L-BFGS cost nearly the same, one pass of the filter forward and
back: EM takes expected counts from it (Fisher's identity), and L-BFGS the gradient. The rows of the transition matrix
and the start have a maximisation step in closed form. The success rates are ordered through their gaps, so that theirs
is a concave problem of three unknowns, which Newton's method solves exactly.

Reported are the passes and the processor seconds until the log posterior is within 0.01 of the highest value that
either method reached, from the prior's mean. At the sizes of --fits they stand beside whole fits: `Laplace()`, which
draws and weighs points after its search, and SVI with the guide `low_rank` from the prior's mean and from the point of
EM, until the loss is flat. What the result file has is left as it is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import results
from benchmarks.inference.fit import TRUTH, simulated
from dps_pyro import SVI, Laplace, Posterior, RolloutHistory, fit
from dps_pyro.dynamics.forward import log_likelihood
from dps_pyro.inference.laplace import _Space, _summit
from dps_pyro.inference.methods import Method
from dps_pyro.models import SolvingProgress

NEAR = 0.01
"""In nats: a log posterior this close to the best is as good."""
FITS = ("laplace", "svi", "svi_from_em")
PARTS = ("em", *FITS)
"""What is measured of each log. The first is both searches."""
NEWTON, LEAST = 50, 1e-10
"""Steps of Newton's method at most, and the decrement at which it ends."""


class Point(NamedTuple):
    """Values of the sites of `SolvingProgress`."""

    gaps: Tensor  # [4]
    initial: Tensor  # [3]
    transition: Tensor  # [3, 3]


class Reached(NamedTuple):
    """One step on the way of a search."""

    seconds: float
    value: float  # the log posterior


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["80x15", "1000x50"], help="prompts x steps")
    parser.add_argument("--observed", type=float, default=0.5, help="the share of groups that are rolled out")
    parser.add_argument("--logs", type=int, default=5, help="logs of each size, each with a seed of its own")
    parser.add_argument("--iterations", type=int, default=200, help="of EM at most")
    parser.add_argument("--fits", nargs="*", default=["80x15"], help="the sizes at which whole fits are made, too")
    parser.add_argument("--out", type=Path, help="a JSON file to write the result to")
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    configuration = {name: getattr(options, name) for name in ("sizes", "observed", "logs", "iterations")}
    what = "passes of the filter and processor seconds to the most probable parameters, by EM and by L-BFGS"
    result: dict[str, Any] = {"what": what, "configuration": configuration, "near": NEAR, "rows": []}
    if options.out is not None and options.out.exists():
        result = json.loads(options.out.read_text(encoding="utf-8"))
        if result["configuration"] != configuration:
            raise SystemExit(f"{options.out}: expected results of {configuration}, got others; remove it first")
    logs = [(size, seed) for size in options.sizes for seed in range(options.logs)]
    jobs = [(part, size, seed) for part in PARTS for size, seed in logs if part not in FITS or size in options.fits]
    lbfgs(SolvingProgress(), simulated(SolvingProgress(), 2, 2, 1.0, _truth()))  # what only the first search takes
    for part, size, seed in jobs:
        row = next((one for one in result["rows"] if (one["size"], one["seed"]) == (size, seed)), None)
        if row is None:
            row = {"size": size, "seed": seed}
            result["rows"].append(row)
        if part in row:
            continue
        row |= measure(part, size, seed, options)
        print(size, seed, part, row[part], flush=True)
        if options.out is not None:
            results.write(options.out, {**result, "date": results.today(), "machine": results.machine()})


def measure(part: str, size: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One part of the row of one log."""
    prompts, steps = map(int, size.split("x"))
    torch.manual_seed(seed)
    model = SolvingProgress()
    history = simulated(model, prompts, steps, options.observed, _truth())
    if part == "laplace":
        return {part: _fitted(model, history, Laplace())}
    if part == "svi":
        return {part: _fitted(model, history, SVI(guide="low_rank"))}
    point, climbed = em(model, history, options.iterations)
    if part == "svi_from_em":
        values = point._asdict()
        start = Posterior({name: value.unsqueeze(0) for name, value in values.items()}, values, torch.zeros(0), True)
        return {part: _fitted(model, history, SVI(guide="low_rank", start=start))}
    _, searched = lbfgs(model, history)
    best = max(max(one.value for one in way) for way in (climbed, searched))
    return {"groups": len(history), "em": _told(climbed, best), "lbfgs": _told(searched, best)}


def _truth() -> dict[str, Tensor]:
    return {name: value.double() for name, value in TRUTH.items()}


def em(model: SolvingProgress, history: RolloutHistory, iterations: int = 200) -> tuple[Point, list[Reached]]:
    """Run EM from the prior's mean, until an iteration gains less than a hundredth of `NEAR`.

    Returns:
        The last point, and the log posterior of each point on the way with the seconds that it took to get there. The
        pass that gives a point's expected counts gives its log posterior, too.
    """
    values = history.dense()
    assert values.solved is not None
    solved, trials = values.solved.mT, values.trials.mT  # time first
    prior = Point(model.rate_gaps, model.initial_concentration, model.transition_concentration)
    point = Point(*(one / one.sum(-1, keepdim=True) for one in prior))
    begun, way = time.process_time(), list[Reached]()
    while True:
        value, moves, starts, states = expected_counts(point, solved, trials)
        value += sum(float((weight * one.log()).sum()) for weight, one in zip(prior, point, strict=True))
        way.append(Reached(time.process_time() - begun, value))
        if len(way) > iterations or (len(way) > 1 and value - way[-2].value < NEAR / 100):
            return point, way
        right = (states * solved.unsqueeze(-1)).sum((0, 1))
        wrong = (states * (trials - solved).unsqueeze(-1)).sum((0, 1))
        initial, transition = starts + prior.initial, moves + prior.transition
        point = Point(
            best_gaps(point.gaps, right, wrong, prior.gaps),
            initial / initial.sum(),
            transition / transition.sum(-1, keepdim=True),
        )


def expected_counts(point: Point, solved: Tensor, trials: Tensor) -> tuple[float, Tensor, Tensor, Tensor]:
    """The E step: the log-likelihood of outcomes [T, N], and the expected numbers of moves [3, 3] and starts [3] and
    the chances of the states [T, N, 3] given all outcomes, by Fisher's identity."""
    law = torch.distributions.Binomial(trials.unsqueeze(-1), point.gaps.cumsum(-1)[:-1], validate_args=False)
    emitted = torch.where(trials.unsqueeze(-1) > 0, law.log_prob(solved.unsqueeze(-1)), 0.0).requires_grad_()
    initial, transition = point.initial.clone().requires_grad_(), point.transition.clone().requires_grad_()
    total = log_likelihood(initial.unsqueeze(0), transition.view(1, 1, 3, 3), emitted).sum()
    to_initial, to_transition, states = torch.autograd.grad(total, (initial, transition, emitted))
    return float(total.detach()), point.transition * to_transition, point.initial * to_initial, states


def best_gaps(gaps: Tensor, right: Tensor, wrong: Tensor, weight: Tensor) -> Tensor:
    """The M step of the success rates r, the cumulative sums of gaps g: the gaps that maximise
    sum right log r + wrong log(1 - r) + weight log g, by Newton's method with a line search from `gaps` [4]."""
    rates = gaps.cumsum(-1)[:-1]

    def value(at: Tensor) -> Tensor:
        apart = torch.diff(at, prepend=torch.zeros(1), append=torch.ones(1))
        if bool((apart <= 0).any()):
            return torch.tensor(-torch.inf)
        return (right * at.log() + wrong * torch.log1p(-at)).sum() + (weight * apart.log()).sum()

    for _ in range(NEWTON):
        apart = torch.diff(rates, prepend=torch.zeros(1), append=torch.ones(1))
        pull, bend = weight / apart, weight / apart.square()
        slope = right / rates - wrong / (1 - rates) + pull[:-1] - pull[1:]
        curve = right / rates.square() + wrong / (1 - rates).square() + bend[:-1] + bend[1:]
        hessian = torch.diag(curve) - torch.diag(bend[1:-1], 1) - torch.diag(bend[1:-1], -1)
        step = torch.linalg.solve(hessian, slope)
        if float(slope @ step) < LEAST:
            break
        size, before = 1.0, value(rates)
        while size > LEAST and not bool(value(rates + size * step) > before):
            size /= 2
        rates = rates + size * step
    return torch.diff(rates, prepend=torch.zeros(1), append=torch.ones(1))


def lbfgs(model: SolvingProgress, history: RolloutHistory) -> tuple[dict[str, Tensor], list[Reached]]:
    """The search of `Laplace()`: the point, and the log posterior at each evaluation."""
    space = _Space(model, history, {})
    begun, seconds = time.process_time(), list[float]()
    advance: Callable[[str], None] = lambda _: seconds.append(time.process_time() - begun)  # noqa: E731
    point, losses, _ = _summit(space, 1000, None, advance)
    constant = _constant(model)
    way = [Reached(at, -loss - constant) for at, loss in zip(seconds, losses, strict=True)]
    return {name: value[0] for name, value in space.values(point.unsqueeze(0)).items()}, way


def _constant(model: SolvingProgress) -> float:
    """What the priors' log densities have beside the terms of their values."""
    rows = [model.rate_gaps, model.initial_concentration, *model.transition_concentration]
    return sum(float(torch.lgamma(row.sum()) - torch.lgamma(row).sum()) for row in rows)


def _told(way: list[Reached], best: float) -> dict[str, float]:
    """The passes and seconds until the value is near the best one, and how far below it the last is."""
    enough = next((at for at, one in enumerate(way) if one.value > best - NEAR), None)
    near = {} if enough is None else {"passes": enough + 1, "seconds": round(way[enough].seconds, 3)}
    return {**near, "all": len(way), "all_seconds": round(way[-1].seconds, 3), "below": round(best - way[-1].value, 4)}


def _fitted(model: SolvingProgress, history: RolloutHistory, method: Method) -> dict[str, Any]:
    """What a whole fit took, and where its loss ended."""
    begun = time.process_time()
    posterior = fit(model, history, method, progress=False)
    seconds = round(time.process_time() - begun, 2)
    last = float(posterior.losses[-50:].mean()) if isinstance(method, SVI) else float(posterior.losses[-1])
    return {"steps": posterior.about["steps"], "seconds": seconds, "loss": round(last, 2), "flat": posterior.converged}


def table(result: dict[str, Any]) -> str:
    """Passes and seconds to the most probable point by EM and by the search of `Laplace()`, and those of whole fits."""
    columns = ("log", "method", "passes", "seconds", "relative to EM")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    names = {
        "em": "EM, to within 0.01 nats of the top",
        "lbfgs": "the search of `Laplace()`, the same",
        "laplace": "`Laplace()`, all of the fit; passes of its search",
        "svi": '`SVI(guide="low_rank")`',
        "svi_from_em": "the same from the point of EM",
    }
    for size in dict.fromkeys(row["size"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["size"] == size]
        for way, name in names.items():
            found = [row[way] for row in rows if way in row]
            if len(found) < len(rows):
                continue
            passes = [float(one.get("passes", one.get("steps"))) for one in found]
            seconds = [float(one["seconds"]) for one in found]
            times = statistics.fmean(seconds) / statistics.fmean([row["em"]["seconds"] for row in rows])
            cells = (f"{statistics.fmean(of):.{digits}f} ± {statistics.stdev(of):.{digits}f}"
                     for of, digits in ((passes, 0), (seconds, 2)))  # fmt: skip
            lines.append(f"| {size.replace('x', ' prompts, ')} steps | {name} | {' | '.join(cells)} | {times:.0f} |")
    settings = result["configuration"]
    note = (
        f"{settings['logs']} simulated logs of each size, {settings['observed']:.0%} of the groups rolled out: means ± "
        f"standard deviations over logs. A pass is one run of the filter forward and back; *seconds* are of the "
        f"processor. {result['machine']}; {result['date']}."
    )
    return "\n".join([*lines, "", note])


if __name__ == "__main__":
    main()
