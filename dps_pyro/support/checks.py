"""What users hand in, checked at the door: each returns what it was given in one form, or says what it expected."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # tasks use these checks, too, in processes without PyTorch
    from torch import Tensor

__all__ = ["count", "features", "ids", "instance", "numbers", "positive", "whole_numbers"]

T = TypeVar("T")


def instance(name: str, value: T, kind: type[Any]) -> T:
    """An object of the given kind, not its class."""
    if not isinstance(value, kind):
        came = f"the class {value.__name__} itself" if isinstance(value, type) else repr(value)
        raise ValueError(f"{name}: expected an instance of {kind.__name__}, got {came}")
    return value


def count(name: str, value: Any, least: int, most: int | None = None) -> int:
    """One whole number: an int, or a numpy or torch integer."""
    expected = f"a whole number of at least {least}" if most is None else f"a whole number in {least}..{most}"
    try:
        number = operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name}: expected {expected}, got {value!r}") from error
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return number


def positive(name: str, value: Any, or_zero: bool = False) -> float:
    """One finite number above zero."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected a number, got {value!r}") from error
    if not (0 < number < float("inf") or (or_zero and number == 0)):
        raise ValueError(f"{name}: expected a number {'of at least' if or_zero else 'above'} 0, got {value!r}")
    return number


def numbers(name: str, value: Any) -> Tensor:
    """Real numbers, float64."""
    import torch

    try:
        tensor = torch.as_tensor(value, device="cpu").detach()
        if tensor.is_floating_point() and not hasattr(value, "dtype"):  # Python's floats would be rounded to float32
            tensor = torch.as_tensor(value, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: expected numbers, got {value!r}") from error
    if tensor.is_complex():
        raise ValueError(f"{name}: expected real numbers, got {tensor.dtype}")
    return tensor.to(torch.float64)


def whole_numbers(name: str, value: Any) -> Tensor:
    """Whole numbers, long, within 0..2^31-1 (what the log can hold)."""
    import torch

    if isinstance(value, list) and value and type(value[0]) is int:
        with suppress(TypeError, ValueError, RuntimeError, OverflowError):  # what is wrong is told below
            value = torch.tensor(value)
    if isinstance(value, torch.Tensor) and value.dtype == torch.long and value.device.type == "cpu":
        least, most = (0, 0) if value.numel() == 0 else (int(one) for one in value.aminmax())
        if least >= 0 and most < 2**31:
            return value.detach()
    if type(value) is int and 0 <= value < 2**31:
        return torch.tensor(value)
    tensor = numbers(name, value)
    wrong = ~((tensor >= 0) & (tensor == tensor.floor()) & (tensor < 2**31))
    if bool(wrong.any()):
        raise ValueError(f"{name}: expected whole numbers in 0..2^31-1, got {tensor[wrong][0].item():g}")
    # A mask is not a list of rows, nor a count.
    if tensor.numel() and torch.as_tensor(value).dtype == torch.bool:
        raise ValueError(f"{name}: expected whole numbers, got booleans")
    return tensor.long()


def ids(name: str, value: Any) -> list[str] | None:
    """Distinct strings, or None where something else than a list of them was given (a number, one hopes)."""
    if isinstance(value, str) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        return None
    names = list(value)
    strange = [one for one in names if not isinstance(one, str)]
    if strange:
        raise ValueError(f"{name}: expected a number or a list of ids (strings), got {strange[0]!r}")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(one for one in names if one in seen or seen.add(one))  # type: ignore[func-returns-value]
        raise ValueError(f"{name}: expected distinct ids, got {twice!r} twice")
    return [str(one) for one in names]  # numpy's strings are not JSON's


def features(name: str, value: Any, num_prompts: int) -> dict[str, list[float] | list[str]]:
    """Columns of one number or one string per prompt."""
    table: dict[str, list[float] | list[str]] = {}
    for column, entries in instance(name, value if value is not None else {}, Mapping).items():
        entries = entries.tolist() if hasattr(entries, "tolist") else entries
        if isinstance(entries, str) or not isinstance(entries, Sequence) or len(entries) != num_prompts:
            raise ValueError(
                f"{name}: expected {num_prompts} values of {column!r}, one per prompt, got {entries!r}"[:300]
            )
        if all(isinstance(entry, str) for entry in entries):
            table[str(column)] = [str(entry) for entry in entries]
            continue
        try:
            table[str(column)] = [float(entry) for entry in entries]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: expected {column!r} to be all numbers or all strings: {error}") from error
    return table
