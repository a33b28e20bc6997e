"""The No-U-Turn Sampler: chains, and what each transition tells of itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from pyro import infer, poutine
from pyro.infer.autoguide import init_to_sample, init_to_value
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.sites import beginning, sites_of
from dps_pyro.history.log import RolloutHistory
from dps_pyro.inference.methods import NUTS
from dps_pyro.inference.posterior import Posterior

__all__ = ["Chain", "agreement", "run_chain"]


class Chain(NamedTuple):
    """One chain."""

    draws: dict[str, Tensor]
    """Site -> [draws, ...]."""
    stats: dict[str, Tensor]
    """[draws] each, as ArviZ names them: "diverging", "energy", "tree_depth", "n_steps", "step_size",
    "acceptance_rate"."""


class _Recording(infer.NUTS):
    """Pyro's kernel, which keeps what each transition after the warm-up was like."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)  # type: ignore[no-untyped-call]
        self.transitions: list[dict[str, float]] = []
        self._now: dict[str, float] = {}

    def _build_basetree(self, *arguments: Any) -> Any:
        tree: Any = super()._build_basetree(*arguments)  # type: ignore[no-untyped-call]
        self._now["n_steps"] += 1
        self._now["accepted"] += float(tree.sum_accept_probs)
        self._now["energy"] = float(arguments[-1])
        self._now["diverging"] = max(self._now["diverging"], float(tree.diverging))
        return tree

    def sample(self, params: Any) -> Any:
        self._now = {"n_steps": 0.0, "accepted": 0.0, "energy": math.nan, "diverging": 0.0}
        step_size, drawn = float(self.step_size), super().sample(params)  # type: ignore[no-untyped-call]
        if self._t > (self._warmup_steps or 0):
            self.transitions.append({**self._now, "step_size": step_size})
        return drawn


def run_chain(
    dynamics: Dynamics[Any], history: RolloutHistory, settings: NUTS, seed: int, progress: bool = False
) -> Chain:
    """Run one chain, which depends only on the seed. The global random generator does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = poutine.reparam(dynamics.model, config=dict(settings.reparam or {}))
        kernel = _Recording(
            model,
            target_accept_prob=settings.target_accept,
            max_tree_depth=settings.max_tree_depth,
            full_mass=settings.dense_mass,
            init_strategy=_start(settings.start),
        )
        chain: Any = infer.MCMC(
            kernel, num_samples=settings.draws, warmup_steps=settings.warmup, disable_progbar=not progress
        )
        chain.run(history)
        draws = _own_sites(dynamics, history, dict(chain.get_samples()), settings)
    table = {name: torch.tensor([row[name] for row in kernel.transitions]) for name in kernel.transitions[0]}
    leaps = table["n_steps"]
    stats = {
        "diverging": table["diverging"] > 0,
        "energy": table["energy"],
        "tree_depth": (leaps + 1).log2().ceil().long(),
        "n_steps": leaps.long(),
        "step_size": table["step_size"],
        "acceptance_rate": table["accepted"] / leaps.clamp_min(1),
    }
    return Chain(draws, stats)


def agreement(by_chain: dict[str, Tensor]) -> dict[str, Any]:
    """The largest split R-hat and the smallest effective number of draws over all scalars of draws [chains, draws,
    ...]; None if there are fewer than four draws."""
    if not by_chain or next(iter(by_chain.values())).shape[1] < 4:
        return {"r_hat": None, "effective_draws": None}
    r_hat = max(float(split_gelman_rubin(value).max()) for value in by_chain.values())
    effective = min(float(effective_sample_size(value).min()) for value in by_chain.values())
    return {"r_hat": round(r_hat, 4), "effective_draws": max(0, round(effective)) if math.isfinite(effective) else 0}


def _start(start: Any) -> Callable[[Any], Tensor]:
    if isinstance(start, Posterior):
        size = len(next(iter(start.draws.values())))
        at = int(torch.randint(size, ()))
        made: Callable[[Any], Tensor] = init_to_value(values={name: value[at] for name, value in start.draws.items()})
        return made
    return beginning if start == "mean" else init_to_sample


def _own_sites(
    dynamics: Dynamics[Any], history: RolloutHistory, samples: dict[str, Tensor], settings: NUTS
) -> dict[str, Tensor]:
    """The draws of the model's own sites: those that a reparametrisation replaced are computed from its."""
    names = list(sites_of(dynamics, history.num_prompts))
    if not settings.reparam:
        return {name: samples[name] for name in names}
    prior = poutine.reparam(dynamics.prior, config=dict(settings.reparam))
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    with torch.no_grad():
        for at in range(settings.draws):
            values = {name: value[at] for name, value in samples.items()}
            plate = pyro.plate("prompts", history.num_prompts, dim=-1)
            nodes: Any = poutine.trace(poutine.condition(prior, data=values)).get_trace(plate).nodes
            for name in names:
                found[name].append(nodes[name]["value"])
    return {name: torch.stack(values) for name, values in found.items()}
