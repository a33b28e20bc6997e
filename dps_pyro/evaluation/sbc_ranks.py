r"""Simulation-based calibration: does a fit find the parameters with which its own model made the data?

Talts, Betancourt, Simpson, Vehtari and Gelman (2018), arXiv 1804.06788. For each of S simulations

    theta  ~ prior;   y ~ p(y | theta);   theta_1..L ~ the fit's posterior given y
    rank   = how many of theta_1..L lie below theta

If the model's density, its simulator and the sampler all agree, each scalar's rank is uniform over 0..L. A hump in the
ranks' histogram means that posteriors are too wide, a bowl that they are too narrow, and a slope that they are biased.
The log likelihood is ranked beside the parameters (Modrák et al. 2023, arXiv 2211.02383): it notices a posterior that
does not heed the data, which the parameters alone do not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.infer.reparam.reparam import Reparam
from pyro.ops.stats import effective_sample_size
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.sites import is_drawn
from dps_pyro.evaluation.parallel_hmc import Posteriors, hmc
from dps_pyro.evaluation.smoothing import law
from dps_pyro.history.log import RolloutHistory, observed
from dps_pyro.history.values import Groups, useful_by_sum
from dps_pyro.inference.fitting import fit
from dps_pyro.inference.methods import NUTS, SVI
from dps_pyro.support import checks
from dps_pyro.support.console import progress_bar

__all__ = ["Ranks", "design", "filled", "joined", "sbc", "simulated"]

LEVEL = 0.01
"""A calibration passes if the smallest p-value times the number of p-values (Bonferroni) is at least this."""


@dataclass(frozen=True)
class Ranks:
    """What a calibration found.

    Attributes:
        ranks: scalar ("gaps[0]", "z_prompt[2]" of the third prompt, "log likelihood") -> long [S], within 0..L.
        draws: L.
        effective: scalar -> float [S], the effective number of a simulation's L draws; near L where thinning has made
            them all but independent.
        about: the model, the method, the sizes, how long it took; "divergences" in all, where the method has them.
    """

    ranks: Mapping[str, Tensor]
    draws: int
    effective: Mapping[str, Tensor]
    about: dict[str, Any]

    def histogram(self, name: str, bins: int = 20) -> Tensor:
        """Long [bins], how many of the ranks fell into each of the equal parts of 0..L."""
        return torch.bincount(self.ranks[name] * self._fit(bins) // (self.draws + 1), minlength=bins)

    def p_values(self, bins: int = 20) -> dict[str, float]:
        """Scalar -> the chance of a histogram at least this uneven if ranks are uniform (Pearson's chi-square; use
        at least five simulations per bin).

        Raises:
            ValueError: L + 1 is not a multiple of `bins`, so that uniform ranks would not fill them evenly.
        """
        found = {}
        for name, ranks in self.ranks.items():
            expected = len(ranks) / bins
            statistic = (self.histogram(name, bins) - expected).square().sum() / expected
            degrees = torch.tensor((bins - 1) / 2, dtype=torch.float64)
            found[name] = float(torch.special.gammaincc(degrees, statistic.double() / 2))
        return found

    def uniform(self, bins: int = 20) -> bool:
        """Whether no histogram is more uneven than chance explains, with as many scalars as there are: the smallest
        p-value times their number is at least 0.01."""
        return min(self.p_values(bins).values()) * len(self.ranks) >= LEVEL

    def summary(self, bins: int = 20) -> dict[str, Any]:
        """Everything as numbers for JSON: what was done, the verdict, and for each scalar the histogram, the p-value
        and the effective number of draws (median and 5 % quantile over simulations)."""
        chances = self.p_values(bins)
        rows = {}
        for name in self.ranks:
            effective = self.effective[name].double()
            rows[name] = {
                "p": round(chances[name], 4),
                "effective_draws": [round(float(effective.quantile(share)), 1) for share in (0.5, 0.05)],
                "histogram": self.histogram(name, bins).tolist(),
            }
        verdict = {"uniform": self.uniform(bins), "smallest_p": round(min(chances.values()), 4), "level": LEVEL}
        return {**self.about, "bins": bins, **verdict, "scalars": rows}

    def plain(self) -> dict[str, Any]:
        """Everything as plain values for JSON, which `from_plain` reads."""
        lists = {name: getattr(self, name) for name in ("ranks", "effective")}
        listed = {name: {scalar: value.tolist() for scalar, value in found.items()} for name, found in lists.items()}
        return {**listed, "draws": self.draws, "about": self.about}

    @staticmethod
    def from_plain(value: Mapping[str, Any]) -> Ranks:
        """What `plain` wrote."""
        ranks, effective = (
            {scalar: torch.tensor(one) for scalar, one in value[name].items()} for name in ("ranks", "effective")
        )
        return Ranks(ranks, int(value["draws"]), effective, dict(value["about"]))

    def _fit(self, bins: int) -> int:
        if (self.draws + 1) % checks.count("bins", bins, 2):
            raise ValueError(f"bins: expected a divisor of draws + 1 = {self.draws + 1}, got {bins}")
        return bins


def joined(parts: Sequence[Ranks]) -> Ranks:
    """Calibrations of one model on one schedule, with different seeds, as one; what is said of it is the first's, but
    for the counts, which are added up, and the rates of acceptance and exchange, which are averaged.

    Raises:
        ValueError: there are none, or they are not of the same scalars and the same number of draws.
    """
    if not parts or len({(part.draws, tuple(part.ranks)) for part in parts}) > 1:
        raise ValueError(f"parts: expected calibrations of the same scalars and draws, got {len(parts)} others")
    first = parts[0]
    ranks, effective = (
        {scalar: torch.cat([getattr(part, name)[scalar] for part in parts]) for scalar in first.ranks}
        for name in ("ranks", "effective")
    )
    about = dict(first.about)
    for name in about.keys() & {"simulations", "divergences", "seconds"}:
        about[name] = round(sum(part.about[name] for part in parts), 1)
    if "accepted" in about:
        about["accepted"] = round(sum(part.about["accepted"] for part in parts) / len(parts), 3)
    if "exchanged" in about:
        shares = zip(*(part.about["exchanged"] for part in parts), strict=True)
        about["exchanged"] = [round(sum(share) / len(parts), 2) for share in shares]
    return Ranks(ranks, first.draws, effective, about)


def design(num_prompts: int, num_steps: int, trials: int = 8, *, visited: float = 0.5, seed: int = 0) -> RolloutHistory:
    """A schedule to simulate on: each prompt rolled out at each step with chance `visited`, half of those trained on.

    Its features are "group" ("a" or "b") and "difficulty" (standard normal); progress rises from 0 to 1.
    """
    generator = torch.Generator().manual_seed(checks.count("seed", seed, 0))
    features: dict[str, Any] = {
        "group": ["ab"[prompt % 2] for prompt in range(num_prompts)],
        "difficulty": torch.randn(num_prompts, generator=generator).tolist(),
    }
    history = RolloutHistory(num_prompts, num_steps=num_steps, features=features)
    for step in range(num_steps):
        rows = (torch.rand(num_prompts, generator=generator) < visited).nonzero().squeeze(-1)
        trained = torch.rand(len(rows), generator=generator) < 0.5
        known = step / max(num_steps - 1, 1)
        history.append(rows, step=step, solved=[0.0] * len(rows), trials=trials, trained=trained, progress=known)
    history.num_steps = num_steps
    return history.schedule()


def filled(schedule: RolloutHistory, outcomes: Tensor) -> RolloutHistory:
    """The log of a schedule whose outcomes [N, T] have become known. They are what a model drew, and may lie outside of
    0..trials: a normal sum of rewards, for instance."""
    prompts = schedule.ids if schedule.ids is not None else schedule.num_prompts
    history = RolloutHistory(prompts, num_steps=schedule.num_steps, features=schedule.features)
    events, known = schedule.events, schedule.progress().tolist()
    for step in events.step.unique().tolist():
        at = (events.step == step).nonzero().squeeze(-1)
        rows, trials, trained = events.prompt[at], events.trials[at], events.trained[at]
        solved = outcomes[rows, step].double()
        never = torch.full([len(rows)], math.nan)
        groups = Groups(solved, trials, never, trained, useful_by_sum(solved, trials))
        history.append_valid(rows, step, groups, known[step], None)
    return history


def sbc(
    dynamics: Dynamics[Any],
    schedule: RolloutHistory,
    *,
    simulations: int = 200,
    draws: int = 99,
    thin: int = 3,
    warmup: int = 300,
    method: Literal["hmc", "nuts", "svi"] = "hmc",
    powers: Sequence[float] = (1.0,),
    reparam: Mapping[str, Reparam] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Ranks:
    """Calibrate a model's fits on simulated histories.

    Args:
        dynamics: the model. Use float64 (`torch.set_default_dtype`) before it is made: small chances of a Dirichlet
            round to 0 in float32, and 0 has no unconstrained counterpart.
        schedule: the prompts, steps and trials of each simulation, such as `design` makes.
        simulations: S.
        draws: L, of each posterior, at least 4; one less than a multiple of the number of bins.
        thin: the number of iterations of a chain per kept draw, for "hmc" and "nuts".
        warmup: the number of iterations of each chain before the first draw, or the largest number of steps of "svi".
        method: "hmc" samples all simulations' posteriors side by side (`parallel_hmc`), the only way to do
            hundreds in minutes; "nuts" is `fit` with `NUTS(...)`, one after the other; "svi" is `fit` with its usual
            guide, whose approximation shows as ranks that are not uniform.
        powers: for "hmc", the powers of the likelihood of tempered copies of each chain, falling from 1. They
            help if posteriors have several modes, which a single chain would not leave. Each copy costs as much as the
            chain.
        reparam: for "hmc", site -> how to sample it, such as `LocScaleReparam(0)` where a site's scale is a parameter
            too: as the scale falls there is less and less room, and a chain does not get in. It is then the new site
            that is ranked, `"weights_decentered"`.
        seed: the random seed of the simulations and fits. The global random generator does not change.
        progress: show a progress bar.

    Returns:
        The ranks of every global scalar, of the first prompt's own, and of the log likelihood.
    """
    checks.instance("dynamics", dynamics, Dynamics)
    simulations, draws = checks.count("simulations", simulations, 1), checks.count("draws", draws, 4)
    seed = checks.count("seed", seed, 0)
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)

        def model(copies: int = 1) -> None:
            with poutine.reparam(config=dict(reparam or {})), pyro.plate("simulations", copies * simulations, dim=-2):
                dynamics.model(schedule)

        copies = partial(model, len(powers))
        with torch.no_grad():
            truth, outcomes = simulated(model)
            fresh, _ = simulated(copies)  # where the chains start: unlike the truth, and unlike each other
        found: dict[str, Any] = {}
        if method == "hmc":
            posteriors = Posteriors(copies, {"outcomes": outcomes.repeat(len(powers), 1, 1)}, fresh)
            with torch.no_grad(), pyro.validation_enabled(False):
                own = Posteriors(model, {"outcomes": outcomes}, truth)
                likelihood = own.log_density(own.start)[1]
            lengths = {"warmup": warmup, "draws": draws, "thin": thin}
            chains = hmc(posteriors, **lengths, powers=powers, seed=seed, progress=progress)
            samples, seen = chains.draws, chains.log_likelihood
            found = {"divergences": int(chains.divergences.sum()), "accepted": round(float(chains.accepted.mean()), 3)}
            found |= {"reparam": {name: type(one).__name__ for name, one in reparam.items()}} if reparam else {}
            if len(powers) > 1:
                exchanged = [round(share, 2) for share in chains.exchanged.mean(1).tolist()]
                found |= {"powers": list(powers), "exchanged": exchanged}
        elif method in ("nuts", "svi"):
            every = thin if method == "nuts" else 1
            kept = draws * every
            how = NUTS(warmup=warmup, draws=kept) if method == "nuts" else SVI(steps=warmup, draws=kept)

            def fitted(history: RolloutHistory, at: int) -> dict[str, Tensor]:
                drawn = fit(dynamics, history, how, seed=seed + at, progress=False).draws
                return {name: value[every - 1 :: every] for name, value in drawn.items()}

            samples, seen, likelihood = _one_by_one(dynamics, schedule, truth, outcomes, fitted, progress)
        else:
            raise ValueError(f"method: expected 'hmc', 'nuts' or 'svi', got {method!r}")
        scalars = {**_scalars(truth, samples), "log likelihood": (likelihood, seen)}
        ranks = {name: _rank(true, drawn) for name, (true, drawn) in scalars.items()}
    effective = {
        name: effective_sample_size(drawn.unsqueeze(0)).nan_to_num(nan=1.0)  # of a chain that never moved
        for name, (_, drawn) in scalars.items()
    }
    about = {
        "model": type(dynamics).__name__,
        "method": method,
        "simulations": simulations,
        "prompts": schedule.num_prompts,
        "steps": schedule.num_steps,
        "groups": len(schedule),
        "draws": draws,
        "thin": thin,
        "warmup": warmup,
        **found,
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 1),
    }
    return Ranks(ranks, draws, effective, about)


def simulated(model: Callable[[], None]) -> tuple[dict[str, Tensor], Tensor]:
    """Parameters drawn from the prior, site -> [S, 1 or N, ...], and the outcomes [S, N, T] that they make."""
    nodes: dict[str, Any] = poutine.trace(model).get_trace().nodes
    sites = {name: node for name, node in nodes.items() if is_drawn(node)}
    outcomes = sites.pop("outcomes")["value"]
    return {name: node["value"] for name, node in sites.items()}, outcomes


def _one_by_one(
    dynamics: Dynamics[Any],
    schedule: RolloutHistory,
    truth: Mapping[str, Tensor],
    outcomes: Tensor,
    fitted: Callable[[RolloutHistory, int], Mapping[str, Tensor]],
    progress: bool,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """As of `hmc`, simulation after simulation: draws [L, S, 1 or N, ...], their log likelihoods [L, S], and [S] the
    true parameters'."""
    kept: list[dict[str, Tensor]] = []
    seen, true = [], []
    with progress_bar(len(outcomes), "fitting", progress) as advance:
        for at, drawn_outcomes in enumerate(outcomes):
            history = filled(schedule, drawn_outcomes)
            drawn = fitted(history, at)

            def likelihood(values: Mapping[str, Tensor], of: RolloutHistory = history) -> Tensor:
                return law(dynamics, of, values).log_prob(observed(of)).sum()

            own = {name: value[at] for name, value in truth.items()}
            shapes = {name: value.shape[1:] for name, value in drawn.items()}
            count = len(next(iter(drawn.values())))
            seen.append(
                torch.stack([likelihood({name: value[i] for name, value in drawn.items()}) for i in range(count)])
            )
            true.append(likelihood({name: value.reshape(shapes[name]) for name, value in own.items()}))
            kept.append({name: value.reshape(count, *own[name].shape) for name, value in drawn.items()})
            advance("")
    return (
        {name: torch.stack([one[name] for one in kept], 1) for name in kept[0]},
        torch.stack(seen, 1),
        torch.stack(true),
    )


def _scalars(truth: Mapping[str, Tensor], samples: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Scalar -> its true values [S] and draws [L, S]: of the global sites, and of the first prompt's own."""
    found = {}
    for name, value in truth.items():
        true, drawn = value[:, 0].reshape(len(value), -1), samples[name][:, :, 0].reshape(*samples[name].shape[:2], -1)
        places = [f"{name}{list(at)}" if at else name for at in _places(value.shape[2:])]
        found.update({place: (true[:, i], drawn[..., i]) for i, place in enumerate(places)})
    return found


def _places(shape: torch.Size) -> list[tuple[int, ...]]:
    return [tuple(int(i) for i in at) for at in torch.ones(shape).nonzero()]


def _rank(true: Tensor, drawn: Tensor) -> Tensor:
    """Long [S]; ties (values that round to the same) broken at random."""
    below, equal = (drawn < true).sum(0), (drawn == true).sum(0)
    return below + (torch.rand(true.shape) * (equal + 1)).long().clamp_max(equal)
