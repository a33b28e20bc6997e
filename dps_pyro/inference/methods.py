"""The ways to fit a model, each with its own settings: `fit(model, history, SVI(...))` or `NUTS(...)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pyro.infer.reparam.reparam import Reparam

from dps_pyro.inference.posterior import Posterior
from dps_pyro.support import checks

__all__ = ["NUTS", "SVI", "Guide", "Laplace", "Method", "method_named", "new_form"]

Guide = Literal["normal", "low_rank", "delta"] | Callable[[Callable[..., Any]], Callable[..., Any]]

GUIDES = ("normal", "low_rank", "delta")


@dataclass(frozen=True)
class SVI:
    """Stochastic variational inference: maximise the ELBO of a guide. Fast, and approximate.

    Attributes:
        guide: the approximation of the posterior, in unconstrained space. "normal": independent normals. "low_rank": a
            normal with correlations; it cannot be used with mini-batches if prompts have sites of their own. "delta":
            only the most probable point (MAP). A function makes a Pyro guide from `dynamics.model`, which is called
            like that model. The default is "low_rank" for up to 256 parameters that all prompts share, and "normal" for
            more, or if prompts have sites of their own.
        steps: the largest number of steps, at least 1. The search ends sooner if the loss is flat.
        learning_rate: Adam's, positive. It falls tenfold on the way, and at once when the loss is flat.
        batch_size: prompts per mini-batch, within 1..N. The default is all prompts if there are up to 4,096, and 2,048
            otherwise.
        restarts: the number of searches at the beginning, at least 1. The first starts from the prior's mean, the
            others from draws of the prior. Each takes 15 % of the steps, or less if there are many: at most half of the
            steps in total. The search with the lowest loss continues.
        start: an earlier posterior. The search starts at its point, as wide as its draws. Sites of another shape (those
            of other prompts) start as they would without it, and so does a guide that a function made.
        seconds: the time limit of the search, in seconds.
        draws: the number of posterior draws to keep, at least 1.
        tolerance: the loss is flat when the mean of the last hundred steps is within this fraction of the mean of the
            hundred before, and within the standard error of the difference. With mini-batches, whole epochs are
            compared, at least four. The search ends when the loss is flat again at the lowest learning rate.

    Raises:
        ValueError: a setting is of another kind or out of range.
    """

    guide: Guide | None = None
    steps: int = 2000
    learning_rate: float = 0.05
    batch_size: int | None = None
    restarts: int = 1
    start: Posterior | None = None
    seconds: float | None = None
    draws: int = 200
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if not (self.guide is None or self.guide in GUIDES or callable(self.guide)):
            names = ", ".join(map(repr, GUIDES))
            raise ValueError(f"guide: expected one of {names} or a function of a model, got {self.guide!r}")
        for name in ("steps", "restarts", "draws"):
            checks.count(name, getattr(self, name), 1)
        if self.batch_size is not None:
            checks.count("batch_size", self.batch_size, 1)
        checks.positive("learning_rate", self.learning_rate)
        checks.positive("tolerance", self.tolerance, or_zero=True)
        if self.seconds is not None:
            checks.positive("seconds", self.seconds)
        if self.start is not None:
            checks.instance("start", self.start, Posterior)


@dataclass(frozen=True)
class Laplace:
    """The most probable point by L-BFGS, and draws from a Student-t distribution with the curvature there, wider on the
    sides where the posterior has a long tail, kept by their importance weights. Fast, and close to exact, for some 256
    parameters at most that all prompts share.

    If the weights are not reliable (Pareto k above 0.7), the draws come from the Student-t distribution itself. Their
    intervals may then be too narrow.

    Attributes:
        steps: the largest number of gradient evaluations, at least 1. The search ends sooner if it is at the top.
        draws: the number of posterior draws to keep, at least 1.
        start: an earlier posterior, at whose point the search starts. The default is the prior's mean.
        seconds: the search ends after that time, if it has not before.

    Raises:
        ValueError: a setting is of another kind or out of range.
    """

    steps: int = 1000
    draws: int = 200
    start: Posterior | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "draws"):
            checks.count(name, getattr(self, name), 1)
        if self.seconds is not None:
            checks.positive("seconds", self.seconds)
        if self.start is not None:
            checks.instance("start", self.start, Posterior)


@dataclass(frozen=True)
class NUTS:
    """The No-U-Turn Sampler (Hoffman and Gelman 2014): draws from the exact posterior. For small histories.

    Attributes:
        warmup: the exact number of steps before the first draw is kept, at least 1. They adapt the step size and the
            mass.
        draws: the number of draws to keep from each chain, at least 1.
        chains: the number of chains, at least 1. R-hat compares two or more.
        processes: the number of processes for the chains, at least 1. With 1 they run in this process, one after the
            other. The draws do not depend on it.
        target_accept: the mean acceptance probability to which the step size is adapted, in (0, 1). Use a higher value
            (0.95) if transitions diverge.
        max_tree_depth: how often a transition may double its trajectory, at least 1.
        dense_mass: adapt a full covariance of the parameters instead of their variances.
        start: where chains start: "prior", at a draw of the prior; "mean", at the prior's mean; or a posterior, such
            as one of SVI, at one of its draws.
        reparam: site -> a Pyro reparametrisation of it, such as `LocScaleReparam(0.0)` for the offsets of groups whose
            scale is a parameter too. Draws are of the model's own sites all the same.

    Raises:
        ValueError: a setting is of another kind or out of range.
    """

    warmup: int = 200
    draws: int = 200
    chains: int = 1
    processes: int = 1
    target_accept: float = 0.8
    max_tree_depth: int = 10
    dense_mass: bool = False
    start: Literal["prior", "mean"] | Posterior = "prior"
    reparam: Mapping[str, Reparam] | None = None

    def __post_init__(self) -> None:
        for name in ("warmup", "draws", "chains", "processes", "max_tree_depth"):
            checks.count(name, getattr(self, name), 1)
        if not 0 < checks.positive("target_accept", self.target_accept) < 1:
            raise ValueError(f"target_accept: expected a number in (0, 1), got {self.target_accept!r}")
        if self.start not in ("prior", "mean") and not isinstance(self.start, Posterior):
            raise ValueError(f"start: expected 'prior', 'mean' or a Posterior, got {self.start!r}")
        for name, how in (self.reparam or {}).items():
            checks.instance(f"reparam[{name!r}]", how, Reparam)


Method = SVI | Laplace | NUTS
"""How to fit."""


def method_named(name: Literal["laplace", "svi", "nuts"], **settings: Any) -> Method:
    """A method by its name, with the settings that are not None. For NUTS, "steps" is `warmup`.

    Raises:
        ValueError: the method has no such setting, or a setting is out of range.
    """
    kinds: dict[str, type[Method]] = {"laplace": Laplace, "svi": SVI, "nuts": NUTS}
    given = {_MOVED[name].get(key, key): value for key, value in settings.items() if value is not None}
    known = kinds[name].__dataclass_fields__
    if strange := [key for key in given if key not in known]:
        raise ValueError(f"{strange[0]}: expected a setting of {name} ({', '.join(known)}), got {given[strange[0]]!r}")
    return kinds[name](**given)


_MOVED = {"nuts": {"steps": "warmup"}, "svi": dict[str, str](), "laplace": dict[str, str]()}


def new_form(method: Any, old: Mapping[str, Any]) -> TypeError:
    """The error for a call in the form `fit(model, history, "nuts", steps=...)`. It shows the present form."""
    kind = method if method in ("svi", "nuts") else "nuts" if isinstance(method, NUTS) else "svi"
    known = (NUTS if kind == "nuts" else SVI).__dataclass_fields__
    named = {_MOVED[kind].get(name, name): value for name, value in old.items()}
    shown = [f"{name}={value!r}" for name, value in named.items() if name in known]
    strange = [name for name in named if name not in known]
    form = f"fit(model, history, {kind.upper()}({', '.join(shown)}))"
    ignored = f"; {kind.upper()} has no {', '.join(strange)}" if strange else ""
    came = f"method={method!r}" if isinstance(method, str) else f"{', '.join(old)} beside the method"
    return TypeError(f"fit: expected the method's settings inside the method, {form}, got {came}{ignored}")
