"""What is known of a training step besides its outcomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

Theta_contra = TypeVar("Theta_contra", contravariant=True)

__all__ = ["Chain", "Step", "each_field"]


class Step(NamedTuple):
    """What is known of a training step besides its outcomes; fields broadcast against a model's [..., N] batch."""

    trials: Tensor
    """Rollouts a prompt, [..., N or 1]; 0 where the prompt was not rolled out."""
    trained: Tensor | None = None
    """Whether the policy was updated on the prompt in this step, bool [..., N or 1]; None: wherever `trials > 0`."""
    progress: Tensor | None = None
    """The policy's overall progress before the step, for instance its held-out accuracy, [..., 1]; None: 0."""


def each_field(step: Step, change: Callable[[Tensor], Tensor]) -> Step:
    """The step with `change` applied to each field that is known."""
    trials, *others = step
    trained, progress = (None if field is None else change(field) for field in others)
    return Step(change(trials), trained, progress)


class Chain(Protocol[Theta_contra]):
    """The three laws of a hidden Markov model that the forward algorithm needs; every `Dynamics` has them."""

    def initial(self, theta: Theta_contra) -> dist.Categorical:
        """`p(z_1)`, batch [..., N or 1] over K states."""
        ...

    def transition(self, theta: Theta_contra, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., N or 1, K] (the state now) over K states (the state next)."""
        ...

    def emission(self, theta: Theta_contra, step: Step) -> TorchDistribution:
        """`p(y_t | z_t)`, batch [..., N or 1, K], over a group's number of solved rollouts."""
        ...
