"""Ids of very many prompts: one Arrow column of text and one of hashes, instead of a Python string for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from dps_pyro.support import checks

__all__ = ["MANY", "Names", "ids_of", "in_both", "kept_ids", "rows_of", "saved_ids"]

MANY = 100_000
"""The number of ids from which on they are kept in columns."""
PIECE = 1 << 16
"""Ids that are Python strings at the same time, while all of them are looked through."""


class Names(Sequence[str]):
    """Distinct strings in a fixed order: `names[row]` is a string, `names.rows(strings)` are their rows.

    The strings lie in an Arrow column. Beside it are their 64-bit hashes in order and the row of each. A string is
    looked up by its hash, and strings of the same hash are compared. Ten million ids of 20 characters take 0.4 GB.

    Args:
        name: what the strings are called in errors.
        values: strings, or an Arrow array of them.

    Raises:
        ValueError: a value is no string, or two are equal.
    """

    def __init__(self, name: str, values: Iterable[str] | Any) -> None:
        import pyarrow as pa

        parts = _chunks(pa, values) if isinstance(values, pa.Array | pa.ChunkedArray) else _pieces(pa, name, values)
        self._column = pa.chunked_array(parts, type=pa.large_string()).combine_chunks()
        if isinstance(self._column, pa.ChunkedArray):
            self._column = self._column.chunk(0)
        if self._column.null_count:
            raise ValueError(f"{name}: expected ids (strings), got None")
        hashes = np.fromiter(map(hash, self), dtype=np.int64, count=len(self))
        order = hashes.argsort(kind="stable")
        self._rows, self._hashes = order.astype(np.int32), hashes[order]
        self._distinct(name)

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            found: list[str] = self._column.take(np.arange(len(self))[row]).to_pylist()
            return found
        at = checks.count("row", row, -len(self), len(self) - 1) if len(self) else 0
        text: str = self._column[at % len(self)].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), PIECE):
            yield from self._column.slice(first, PIECE).to_pylist()

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) >= 0

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return bool(self._column.equals(other._column))
        if not isinstance(other, list | tuple):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self):,} ids>"

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the columns take."""
        return int(self._column.nbytes + self._hashes.nbytes + self._rows.nbytes)

    def rows(self, names: Sequence[Any]) -> Tensor:
        """Long [V], the rows of some names [V]; -1 where one is not among these."""
        return torch.tensor([self._find(one) if isinstance(one, str) else -1 for one in names], dtype=torch.long)

    def plus(self, name: str, more: Iterable[str]) -> Names:
        """These names and more after them.

        Raises:
            ValueError: see `Names`.
        """
        import pyarrow as pa

        return Names(name, pa.chunked_array([self._column, *_pieces(pa, name, more)], type=pa.large_string()))

    def state_dict(self) -> dict[str, Tensor]:
        """The text and where each string ends, as tensors."""
        ends, text = (np.frombuffer(part, dtype=kind) for part, kind in self._buffers())
        return {"text": torch.from_numpy(text.copy()), "ends": torch.from_numpy(ends.copy())}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Names:
        """The names that were saved.

        Raises:
            ValueError: the state is damaged.
        """
        import pyarrow as pa

        parts = (pa.py_buffer(state[part].contiguous().numpy()) for part in ("ends", "text"))
        try:
            column = pa.LargeStringArray.from_buffers(len(state["ends"]) - 1, *parts)
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            raise ValueError(f"ids: expected saved ids, got damaged ones: {error}") from error
        return cls("ids", column)

    def _buffers(self) -> list[tuple[Any, Any]]:
        import pyarrow as pa

        whole = pa.concat_arrays([self._column])  # without an offset
        _, ends, text = whole.buffers()
        count = 8 * (len(whole) + 1)
        return [(memoryview(ends)[:count], np.int64), (memoryview(text) if text is not None else b"", np.uint8)]

    def _find(self, name: str) -> int:
        """The row of a name; -1 if it has none."""
        wanted = np.int64(hash(name))
        at = int(self._hashes.searchsorted(wanted))
        while at < len(self._hashes) and self._hashes[at] == wanted:
            row = int(self._rows[at])
            if self._column[row].as_py() == name:
                return row
            at += 1
        return -1

    def _distinct(self, name: str) -> None:
        """Raise a ValueError if two of the strings are equal: they have the same hash."""
        same = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        seen: dict[int, set[str]] = {}
        for at in same.tolist():
            known = seen.setdefault(int(self._hashes[at]), {self[int(self._rows[at])]})
            one = self[int(self._rows[at + 1])]
            if one in known:
                raise ValueError(f"{name}: expected distinct ids, got {one!r} twice")
            known.add(one)


def ids_of(name: str, value: Any) -> Sequence[str] | None:
    """Distinct strings, as a list, or as `Names` if they are many; None if `value` is something else, such as a number.

    Raises:
        ValueError: some are no strings, or two are equal.
    """
    if isinstance(value, Names):
        return value
    arrow = type(value).__module__.partition(".")[0] == "pyarrow"
    if arrow or (isinstance(value, Sequence) and not isinstance(value, str) and len(value) >= MANY):
        return Names(name, value) if len(value) >= MANY else checks.ids(name, value.to_pylist())
    return checks.ids(name, value)


def rows_of(ids: Names | Mapping[str, int], names: Sequence[Any]) -> Tensor:
    """Long [V], the rows of some ids [V], by `Names` or by a dictionary; -1 where one is unknown."""
    if isinstance(ids, Names):
        return ids.rows(names)
    found = [ids.get(name, -1) if isinstance(name, str) else -1 for name in names]
    return torch.tensor(found, dtype=torch.long)


def in_both(ids: Sequence[str] | None, names: Sequence[str] | None) -> list[str]:
    """Those of some names that are among the ids."""
    there = ids if isinstance(ids, Names) else set(ids or [])
    return [name for name in names or [] if name in there]


def saved_ids(ids: Sequence[str] | None) -> Any:
    """Ids as a state has them: a list, or the tensors of `Names`."""
    return ids.state_dict() if isinstance(ids, Names) else ids


def kept_ids(saved: Any) -> Any:
    """The ids of a state."""
    return Names.of_state(saved) if isinstance(saved, Mapping) else saved


def _chunks(pa: Any, values: Any) -> list[Any]:
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    return [chunk.cast(pa.large_string()) for chunk in chunks]


def _pieces(pa: Any, name: str, values: Iterable[Any]) -> list[Any]:
    """Arrow arrays of strings, a piece at a time."""
    parts, piece = [], []
    for one in values:
        if not isinstance(one, str):
            raise ValueError(f"{name}: expected a number or a list of ids (strings), got {one!r}")
        piece.append(str(one))  # numpy's strings are not Arrow's
        if len(piece) == PIECE:
            parts.append(pa.array(piece, type=pa.large_string()))
            piece = []
    return [*parts, pa.array(piece, type=pa.large_string())]
