"""The device on which tensors lie: a block whose tensors are made on one device, and copies of things on another."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

__all__ = ["device_of", "moved", "off_device", "on_device", "seeded"]

T = TypeVar("T")


def device_of(device: str | torch.device | None) -> torch.device | None:
    """A device that is there; None stays None.

    Raises:
        ValueError: torch does not know the device, or this machine or this build of torch does not have it.
    """
    import torch

    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"device: expected a device of this machine, such as cpu or cuda, got {device!r}: {reason}"
        ) from error
    return found


def on_device(device: torch.device | None) -> AbstractContextManager[Any]:
    """A block in which new tensors lie on the device if nothing else is said. None changes nothing."""
    return nullcontext() if device is None else device


def off_device(device: torch.device | None) -> AbstractContextManager[Any]:
    """A block within that of `on_device(device)` in which new tensors lie on the CPU again, where logs are."""
    import torch

    return nullcontext() if device is None else torch.device("cpu")


def moved(value: T, device: torch.device | None) -> T:
    """A deep copy of anything, whose tensors lie on the device. With None it is the thing itself."""
    from torch import Tensor
    from torch.overrides import TorchFunctionMode

    if device is None:
        return value

    class Moving(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is Tensor.__deepcopy__:
                return args[0].detach().to(device)
            return func(*args, **(kwargs or {}))

    with Moving():
        return copy.deepcopy(value)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """A block with its own random state, of the CPU and of the device. The global generators do not change."""
    import torch

    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        yield
