"""A fit as ArviZ has it: an InferenceData, or from ArviZ 1.0 a DataTree, with the usual groups.

    posterior             the draws, by chain
    prior                 as many draws of the same sites
    log_likelihood        "outcomes" (chain, draw, prompt): log p(y_1:T) of a prompt, its states summed out
    posterior_predictive  "outcomes" (chain, draw, group): each draw's own replication of the log, on its schedule
    prior_predictive      the same for the draws of the prior
    observed_data         "outcomes" (group)
    constant_data         "trials", "trained", "group_prompt", "group_step" (group): size, trained on or not, its
                          prompt's row, its step; "progress" (training_step); "feature_NAME" (prompt)
    sample_stats          "lp", log p(draw, outcomes); for NUTS "diverging", "energy", "tree_depth", "n_steps",
                          "step_size" and "acceptance_rate"; for a guide's draws "log_weight", lp less the guide's own

A *group* is one prompt's rollouts at one step, and only those with rollouts are listed, as a log is sparse. `arviz.loo`
reads log_likelihood, whose unit is the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.sites import own_sites
from dps_pyro.evaluation.elpd import COPIES, log_likelihood
from dps_pyro.evaluation.predictive import replicate
from dps_pyro.history.layouts import layout
from dps_pyro.history.log import RolloutHistory
from dps_pyro.inference.posterior import Posterior
from dps_pyro.storage import atomic_path
from dps_pyro.support.extras import needed

__all__ = ["to_arviz", "to_netcdf"]

_DRAWN = ("chain", "draw")


def to_arviz(
    dynamics: Dynamics[Any],
    history: RolloutHistory,
    posterior: Posterior,
    *,
    copies: int = COPIES,
    seed: int = 0,
) -> Any:
    """Everything that ArviZ knows of a fit.

    Args:
        dynamics: the model.
        history: the log that it was fitted to.
        posterior: the fit.
        copies: where prompts have parameters of their own, how many prior draws of those log_likelihood is averaged
            over; 0 takes the fit's, which makes PSIS-LOO over prompts unreliable.
        seed: the random seed of the prior draws, the replications and the copies.

    Raises:
        ValueError: the posterior is not of this model and these prompts, or the log has no outcomes.
    """
    import xarray as xr

    states = len(dynamics.states)
    draws, chains = posterior.draws, int(posterior.about.get("chains", 1))
    own, groups = own_sites(dynamics, history.num_prompts), layout(history)
    seen = groups.trials > 0
    terms = log_likelihood(dynamics, history, draws, copies=copies, seed=seed)
    stats = {"lp": _log_joint(dynamics, history, draws), **posterior.sample_stats}
    if posterior.log_weights is not None:
        stats["log_weight"] = posterior.log_weights
    prior = _prior(dynamics, history, len(terms), seed)

    def by_chain(value: Tensor, *dims: str) -> tuple[tuple[str, ...], np.ndarray]:
        return (*_DRAWN, *dims), value.detach().unflatten(0, (chains, -1)).numpy()

    def sites(values: Mapping[str, Tensor]) -> dict[str, Any]:
        named = {}
        for name, value in values.items():
            first = ("prompt",) * own[name]
            shape = value.shape[1 + len(first) :]
            # A dimension as long as there are states is that of the states, where the model does not say otherwise.
            rest = [_axis(name, axis, size, states) for axis, size in enumerate(shape)]
            named[name] = by_chain(value, *first, *rest)
        return named

    constant = {
        "trials": (("group",), groups.trials[seen].numpy()),
        "trained": (("group",), groups.trained[seen].numpy()),
        "group_prompt": (("group",), groups.prompt[seen].numpy()),
        "group_step": (("group",), groups.step[seen].numpy()),
        "progress": (("training_step",), history.progress().numpy()),
        **{f"feature_{name}": (("prompt",), np.asarray(column)) for name, column in history.features.items()},
    }
    tables: dict[str, dict[str, Any]] = {
        "posterior": sites(draws),
        "prior": sites(prior),
        "log_likelihood": {"outcomes": by_chain(terms, "prompt")},
        "posterior_predictive": {"outcomes": by_chain(_replicated(dynamics, history, draws, seed), "group")},
        "prior_predictive": {"outcomes": by_chain(_replicated(dynamics, history, prior, seed), "group")},
        "sample_stats": {name: by_chain(value) for name, value in stats.items()},
        "observed_data": {"outcomes": (("group",), groups.solved[seen].numpy())},
        "constant_data": constant,
    }
    where = groups.prompt[seen].tolist(), groups.step[seen].tolist()
    names = history.ids if history.ids is not None else np.arange(history.num_prompts)
    datasets = {}
    for group, table in tables.items():
        dataset = xr.Dataset(table)
        known: dict[str, Any] = {str(name): np.arange(size) for name, size in dataset.sizes.items()}
        known |= {name: list(dynamics.states) for name in known if name.endswith("_state")}
        known |= {"prompt": names} if "prompt" in known else {}
        if "group" in known:  # which prompt's group it is, and of which step
            known["group_name"] = ("group", [f"{names[row]}@{at}" for row, at in zip(*where, strict=True)])
        datasets[group] = dataset.assign_coords(known)
    return _assembled(datasets)


def to_netcdf(groups: Any, path: str | Path) -> Path:
    """Write what `to_arviz` made to one NetCDF file, atomically; `arviz.from_netcdf` reads it.

    Raises:
        ImportError: neither h5netcdf with h5py nor netCDF4 is installed.
    """
    from importlib.util import find_spec

    needs = {"h5netcdf": ("h5netcdf", "h5py"), "netcdf4": ("netCDF4",)}  # newer h5netcdf comes without h5py
    engine = next((name for name, parts in needs.items() if all(map(find_spec, parts))), None)
    if engine is None:
        raise ImportError("netcdf: expected h5netcdf with h5py, or netCDF4, to be installed, got neither")
    with atomic_path(Path(path)) as aside:
        groups.to_netcdf(str(aside), engine=engine)
    return Path(path)


def _assembled(datasets: dict[str, Any]) -> Any:
    """The one place where ArviZ's versions differ."""
    needed("arviz")
    import arviz

    if int(arviz.__version__.partition(".")[0]) < 1:
        return arviz.InferenceData(**datasets)
    import xarray as xr

    return xr.DataTree.from_dict(datasets)


def _axis(name: str, axis: int, size: int, states: int) -> str:
    return f"{name}_state" if size == states and axis == 0 else f"{name}_dim_{axis}"


def _replicated(dynamics: Dynamics[Any], history: RolloutHistory, draws: Mapping[str, Tensor], seed: int) -> Tensor:
    return replicate(dynamics, history, draws, sequential=False, seed=seed)


def _prior(dynamics: Dynamics[Any], history: RolloutHistory, count: int, seed: int) -> dict[str, Tensor]:
    drawn = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for _ in range(count):
            trace = poutine.trace(dynamics.prior).get_trace(pyro.plate("prompts", history.num_prompts, dim=-1))
            sites: list[Any] = [node for node in trace.iter_stochastic_nodes() if not site_is_subsample(node[1])]
            drawn.append({name: node["value"] for name, node in sites})
    return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}


def _log_joint(dynamics: Dynamics[Any], history: RolloutHistory, draws: Mapping[str, Tensor]) -> Tensor:
    """[S], `log p(draw, outcomes)` with prompts' own parameters as drawn."""
    found = []
    with torch.no_grad(), pyro.validation_enabled(False):  # a simplex may be off by a rounding
        for at in range(len(next(iter(draws.values())))):
            values = {name: value[at] for name, value in draws.items()}
            trace = poutine.trace(poutine.condition(dynamics.model, data=values)).get_trace(history)
            found.append(torch.as_tensor(trace.log_prob_sum()))
    return torch.stack(found)
