"""What models with a ladder of states share: names and priors of any number of levels, and checked concentrations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

__all__ = ["concentrations", "even_gaps", "even_start", "level_names"]


def concentrations(name: str, value: Sequence[Any] | Tensor, shape: tuple[int, ...]) -> Tensor:
    """Positive numbers of a given shape, such as the concentrations of a Dirichlet, in torch's default dtype.

    Args:
        name: what the constructor calls them, for the error.
        value: the numbers.
        shape: their shape.

    Raises:
        ValueError: they are of another shape, or not all positive.
    """
    tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if tensor.shape != shape or not bool((tensor > 0).all()):
        raise ValueError(f"{name}: expected positive numbers of shape {shape}, got {value}")
    return tensor


def even_gaps(levels: int) -> list[float]:
    """Concentrations, 50 in all, whose mean puts the rates at even steps of arcsin √rate from 0.02 to 0.98: in these
    a Binomial's standard deviation is the same everywhere."""
    first = math.asin(math.sqrt(0.02))
    stride = (math.pi / 2 - 2 * first) / (levels - 1)
    rates = [0.0, *(math.sin(first + stride * level) ** 2 for level in range(levels)), 1.0]
    return [50 * (above - below) for below, above in pairwise(rates)]


def even_start(levels: int) -> list[float]:
    """Concentrations of where prompts start: a third at the bottom, a third at the top, and a third in between."""
    return [levels - 2.0, *[1.0] * (levels - 2), levels - 2.0]


def level_names(levels: int) -> tuple[str, ...]:
    """Names of K levels, from the lowest to the highest."""
    return tuple(f"level {level} of {levels}" for level in range(1, levels + 1))
