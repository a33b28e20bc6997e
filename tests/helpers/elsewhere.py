"""A device that is not there: tensors that say they lie on it, and refuse to be mixed with tensors of the CPU.

A test machine has no GPU. What goes wrong on one is nearly always a tensor that was made on the CPU and meets one of
the GPU, a random generator of the wrong device, or a tensor that is turned into an array of NumPy. This emulation
raises in all three cases, and computes everything else on the CPU. It is stricter than CUDA in one point: rows may not
be picked by an index on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map

__all__ = ["DEVICE", "DEVICES", "Elsewhere", "emulated", "present"]

DEVICE = torch.device("lazy")
"""A device type that torch knows by name, for which no build has kernels."""

DEVICES = ["emulated", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
"""The devices that a test runs on, by the names that `present` takes."""

THERE = (DEVICE, torch.device("meta"))
"""The latter is where torch's own code takes these tensors to be."""
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Elsewhere(torch.Tensor):
    """A tensor on that device; its numbers are in `inner`, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Elsewhere:
        """Wrap a tensor of the CPU."""
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device="meta"
        )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: Elsewhere) -> None:
        self.inner = value.inner

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __setitem__(self, index: Any, value: Any) -> None:
        # torch would make a number a tensor of the device that it takes this one's to be, without asking.
        value = value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=self.dtype, device=DEVICE)
        super().__setitem__(index, value)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def emulated() -> Iterator[torch.device]:
    """Have the device, within the block."""
    with _Mode(), _Made():
        yield DEVICE


class _Made(TorchFunctionMode):
    """`torch.tensor` and its like ask no dispatcher for the device: they make a tensor on the CPU, which is moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        told = dict(kwargs or {})
        if (
            func not in (torch.tensor, torch.as_tensor, torch.asarray)
            or torch.device(told.get("device") or "cpu") != DEVICE
        ):
            return func(*args, **told)
        if isinstance(args[0], Elsewhere):
            return args[0].to(told.get("dtype") or args[0].dtype)
        return func(*args, **{**told, "device": "cpu"}).to(DEVICE)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    found: list[torch.Tensor] = []
    tree_map(lambda leaf: found.append(leaf) if isinstance(leaf, torch.Tensor) else None, (args, kwargs))
    here = [one for one in found if not isinstance(one, Elsewhere) and one.ndim]
    there = [one for one in found if isinstance(one, Elsewhere)]
    asked = kwargs.get("device")
    if here and there and func not in MOVES:
        raise RuntimeError(f"{func}: expected tensors of one device, got {DEVICE} and cpu")
    target = bool(there) if asked is None else torch.device(asked) in THERE
    if func is torch.ops.aten.copy_.default:
        target = isinstance(args[0], Elsewhere)
    generator = kwargs.get("generator")
    if generator is not None and (target or there):
        raise RuntimeError(f"{func}: expected a generator of {DEVICE}, got one of {generator.device}")
    plain = {name: value for name, value in kwargs.items() if name != "device"}
    if asked is not None:
        plain["device"] = "cpu"
    inner = tree_map(lambda leaf: leaf.inner if isinstance(leaf, Elsewhere) else leaf, (args, plain))
    out = func(*inner[0], **inner[1])
    if not target:
        return out
    out = tree_map(lambda leaf: Elsewhere(leaf) if isinstance(leaf, torch.Tensor) else leaf, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if there else out


@contextmanager
def present(name: str) -> Iterator[str]:
    """A block in which a device of `DEVICES` is there; what torch calls it."""
    if name != "emulated":
        yield name
        return
    with emulated():
        yield str(DEVICE)
