"""The device on which a filter computes. It takes and returns tensors of the CPU, where the log is."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

__all__ = ["placed", "put"]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound="HasDevice")


class HasDevice(Protocol):
    """Whatever computes on a device."""

    device: torch.device | None
    """None is the CPU."""
    within: bool
    """Whether one of its methods is at work, so that what is passed around lies on the device already."""


def placed(method: Callable[Concatenate[F, P], R]) -> Callable[Concatenate[F, P], R]:
    """Let a filter's method compute on its device: its tensors are taken there, those that it makes are made there, and
    those that it returns are brought to the CPU. A call from another such method changes nothing."""

    @wraps(method)
    def there(self: F, /, *arguments: P.args, **named: P.kwargs) -> R:
        if self.device is None or self.within:
            return method(self, *arguments, **named)
        self.within = True
        try:
            with self.device:
                given, told = put((arguments, named), self.device)
                found: R = put(method(self, *given, **told), torch.device("cpu"))
                return found
        finally:
            self.within = False

    return there


def put(value: Any, device: torch.device) -> Any:
    """The tensors in a value, or in tuples and dictionaries of values, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: put(part, device) for name, part in value.items()}
    if isinstance(value, tuple):
        parts = [put(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
