"""The sites of a model's prior: which there are, which belong to each prompt, and where they stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.infer.autoguide.initialization import init_to_mean
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

__all__ = ["At", "HasPrior", "beginning", "centre", "is_drawn", "is_own", "own_sites", "sites_of"]


class At(Messenger):
    """Substitute site values. The values of a site per prompt are cut down to the wanted rows."""

    def __init__(self, values: Mapping[str, Tensor], rows: Tensor | None) -> None:
        super().__init__()
        self.values, self.rows = values, rows
        self.sites: list[str] = []

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):  # which rows a plate has is no parameter
            self.sites.append(msg["name"])
        if msg["name"] not in self.values:
            return
        value = torch.as_tensor(self.values[msg["name"]])
        expected, whose = list(msg["fn"].shape()), ""
        own = [frame for frame in msg["cond_indep_stack"] if frame.name == "prompts"]
        if own:
            dim = own[0].dim - len(msg["fn"].event_shape)
            expected[dim] = own[0].full_size
            whose = f" for {own[0].full_size} prompts"
        if list(value.shape) != expected:
            wanted = f"{msg['name']!r}{whose} of shape {tuple(expected)}"
            raise ValueError(f"values: expected {wanted}, got shape {tuple(value.shape)}")
        if own and self.rows is not None:
            value = value.index_select(dim, self.rows)
        msg["value"], msg["is_observed"] = value, True


def centre(site: Any) -> Tensor:
    """A site's prior mean, or the next best thing: never drawn, so that it is the same each time it is asked for."""
    centre = _middle(site["fn"])
    if centre is None:
        raise ValueError(f"values: expected a value for {site['name']!r}, whose prior has no mean to stand at")
    return centre


def beginning(site: Any) -> Tensor:
    """The point where a fit begins: the site's prior mean or the next best thing, as `centre`, and if there is none
    Pyro's choice. Pyro's own `init_to_mean` has no centre for the laws of a primed model, and would begin at equal
    chances, far from what earlier runs taught."""
    middle = _middle(site["fn"])
    return init_to_mean(site) if middle is None else middle


def _middle(law: Any) -> Tensor | None:
    if isinstance(law, torch.distributions.Independent):
        return _middle(law.base_dist)
    for formula in (lambda: law.mean, lambda: law.icdf(torch.full(law.batch_shape, 0.5))):
        try:
            value: Tensor = formula()  # type: ignore[no-untyped-call]
        except NotImplementedError:
            continue
        if value.shape == law.batch_shape + law.event_shape and bool(value.isfinite().all()):
            return value
    if not isinstance(law, torch.distributions.TransformedDistribution):
        return None
    base = _middle(law.base_dist)
    for transform in law.transforms if base is not None else []:
        base = transform(base)
    return base


class HasPrior(Protocol):
    """Whatever draws its parameters from a prior; every `Dynamics` does."""

    def prior(self, prompts: pyro.plate) -> Any:
        """Draw the parameters with `pyro.sample`."""
        ...


def sites_of(dynamics: HasPrior, num_prompts: int) -> dict[str, Any]:
    """The sample sites of a model's prior, by name: each as Pyro's trace has it, with "fn", "value" and its plates.

    The rows that a plate chooses are not a site. The global random generator does not change.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad(), poutine.block(), poutine.trace() as trace:
        dynamics.prior(pyro.plate("prompts", num_prompts, dim=-1))
    return {name: site for name, site in trace.trace.iter_stochastic_nodes() if not site_is_subsample(site)}


def is_own(site: Any) -> bool:
    """Whether each prompt has its own value of a site."""
    return any(frame.name == "prompts" for frame in site["cond_indep_stack"])


def own_sites(dynamics: HasPrior, num_prompts: int) -> dict[str, bool]:
    """The names of a prior's sites, and whether each prompt has its own value of it."""
    return {name: is_own(site) for name, site in sites_of(dynamics, num_prompts).items()}


def is_drawn(site: Any) -> bool:
    """Whether a trace's node is a random variable: neither a plate's choice of rows nor a function of others."""
    if site["type"] != "sample" or site_is_subsample(site):
        return False
    law = site["fn"]
    while hasattr(law, "base_dist"):
        law = law.base_dist
    return not isinstance(law, Delta)
