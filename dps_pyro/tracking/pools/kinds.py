"""Kinds of prompts: one belief stands for all prompts of a kind that were never rolled out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.sites import own_sites
from dps_pyro.dynamics.step import Columns, Step

__all__ = ["Kinds", "kinds_of"]

MOST = 4096
"""The largest number of kinds. More would cost more than they save, and each prompt then has its own belief."""


class Kinds(NamedTuple):
    """The kinds of prompts. Prompts of one kind have the same laws at every step."""

    of: Tensor | None  # int32 [N], each prompt's kind, 0..G-1; None if there is one kind
    example: Tensor  # long [G], one prompt of each kind
    sizes: Tensor  # long [G], how many prompts each kind has
    steady: bool  # whether the model's laws are the same at all steps with the same trials and updates

    def at(self, rows: Tensor) -> Tensor:
        """Long [V], the kinds of the prompts `rows` [V]."""
        return torch.zeros_like(rows) if self.of is None else self.of[rows].long()

    def divided(self, labels: Tensor) -> Kinds | None:
        """The kinds that differ also in their labels, long [N] from 0 on; None if there are too many."""
        everyone = torch.arange(len(labels))
        found = _labelled(self.at(everyone) * (int(labels.max()) + 1) + labels, self.steady)
        return None if found.too_many(len(labels)) else found

    def too_many(self, num_prompts: int) -> bool:
        """Whether each prompt had better have its own belief."""
        return len(self.example) > min(MOST, max(1, num_prompts // 2))


def kinds_of(dynamics: Dynamics[Any], num_prompts: int, values: Mapping[str, Tensor] | None = None) -> Kinds | None:
    """The kinds of a model's prompts; None if the filter has to keep a belief for every prompt.

    A model says which prompts are alike (`Dynamics.kinds`). If it does not say, they are all alike if each of its
    laws gives one answer for two prompts. Models with parameters per prompt, models that ask for a prompt's last visit
    or its columns, and models with very many kinds give None.

    Raises:
        ValueError: `values` do not belong to the model, or prompts that it calls alike have different laws.
    """
    if num_prompts < 2 or any(own_sites(dynamics, 2).values()):
        return None
    labels = dynamics.kinds(num_prompts)
    if labels is None:
        found = Kinds(None, torch.tensor([0]), torch.tensor([num_prompts]), True)
        probe = torch.tensor([0, 1])
    else:
        found = _labelled(labels, True)
        probe = found.example
    if found.too_many(num_prompts):
        return None
    if labels is not None:
        _hold(dynamics, found, num_prompts, values)
    asked: set[str] = set()
    shapes = _shapes(dynamics, dynamics.parameters(num_prompts, values, probe), asked)
    alike = all(size == 1 or (labels is not None and size == len(probe)) for size in shapes)
    if not alike or asked & {"since", "columns"}:
        return None
    return found._replace(steady=asked <= {"trials", "trained"})


def _labelled(labels: Tensor, steady: bool) -> Kinds:
    """The kinds of prompts of which those with the same label, long [N], are alike."""
    sizes = torch.bincount(labels)
    there = sizes.nonzero().squeeze(-1)
    place = torch.zeros_like(sizes).index_copy(0, there, torch.arange(len(there)))
    first = torch.full_like(sizes, len(labels)).scatter_reduce(0, labels, torch.arange(len(labels)), "amin")
    of = None if len(there) == 1 else place.to(torch.int32)[labels]
    return Kinds(of, first[there], sizes[there], steady)


def _hold(
    dynamics: Dynamics[Any], kinds: Kinds, num_prompts: int, values: Mapping[str, Tensor] | None, tried: int = 64
) -> None:
    """Check on some prompts that prompts of one kind have the same laws, which a subclass may have changed."""
    rows = torch.linspace(0, num_prompts - 1, min(tried, num_prompts)).long().unique()
    pair = [dynamics.parameters(num_prompts, values, chosen) for chosen in (rows, kinds.example[kinds.at(rows)])]
    step = Step(torch.tensor([8]))
    for law in (dynamics.initial, lambda theta: dynamics.transition(theta, step)):
        own, claimed = (law(theta).probs for theta in pair)
        if own.shape != claimed.shape or not torch.allclose(own, claimed):
            name = type(dynamics).__name__
            raise ValueError(
                f"dynamics: expected prompts with the same number in {name}.kinds to have the same laws, got different "
                f"ones; override kinds as well (returning None keeps a belief for every prompt)"
            )


def _shapes(dynamics: Dynamics[Any], theta: Any, asked: set[str]) -> list[int]:
    """For each law, the number of prompts that it answers for. What the laws ask of the step is added to `asked`."""
    one = torch.tensor([1])
    step = Step(one, one > 0, torch.zeros(1), one, one, _Anything()).watched(asked)
    initial = dynamics.initial(theta).batch_shape
    transition = dynamics.transition(theta, step).batch_shape[:-1]
    emission = dynamics.emission(theta, step).batch_shape[:-1]
    informative = dynamics.informative(theta, step).shape[:-1]
    return [shape[-1] if len(shape) else 1 for shape in (initial, transition, emission, informative)]


class _Anything(Columns):
    """Columns of zeros, whatever their names."""

    def __init__(self) -> None:
        super().__init__({})

    def __getitem__(self, name: str) -> Tensor:
        return torch.zeros(1)
