"""The laws of outcomes as the likelihood wants them: without checks, and without copies."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

__all__ = ["narrow", "unchecked"]


def unchecked(law: Any) -> Any:
    """A copy of the law that takes any outcome, so that a group's partial rewards may add up to a fraction of a count.
    Its parameters were checked when it was made."""
    law = copy.copy(law)
    law._validate_args = False
    for name, part in list(vars(law).items()):  # the laws that it wraps or mixes
        if isinstance(part, torch.distributions.Distribution):
            setattr(law, name, unchecked(part))
    return law


def narrow(law: Any) -> Any:
    """A copy of a Binomial that holds once what it was given once: torch expands counts over the states and rates over
    the prompts, and computes every copy's gamma function and logarithm. Other laws as they are."""
    if not isinstance(law, torch.distributions.Binomial):
        return law
    law = copy.copy(law)
    for name in ("total_count", "probs", "logits"):
        if name in vars(law):
            whole: Tensor = vars(law)[name]
            once = tuple(slice(1) if stride == 0 else slice(None) for stride in whole.stride())
            setattr(law, name, whole[once])
    return law
