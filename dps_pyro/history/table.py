"""A history's Parquet file, read with suspicion: everything is checked before anything of its size is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from dps_pyro.storage import naming, parse_json
from dps_pyro.support import checks

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MOST_PROMPTS", "MOST_STEPS", "About", "read_table"]

MOST_PROMPTS = 100_000_000
"""Prompts of one history. A larger number is an id or a time stamp taken for a row."""

MOST_STEPS = 10_000_000
"""Training steps of one history. A larger number is a time stamp taken for a step."""

_NEEDED = ("prompt", "step", "solved", "trials")


class About(NamedTuple):
    """What the file's metadata says; a file from elsewhere says nothing."""

    ids: list[str] | None = None
    num_prompts: int | None = None
    num_steps: int = 0
    features: dict[str, Any] | None = None
    marks: dict[str, dict[int, float]] | None = None


def read_table(path: Path, names: Sequence[str]) -> tuple[dict[str, Tensor], About]:
    """Read those of the columns `names` that the file has, as float64 [E], and its metadata.

    Raises:
        ValueError: the file is not Parquet, a needed column is missing, a column or the metadata holds something else
            than a history's, or the numbers are so large that they cannot be rows and steps. The message names the file
            and the column.
        OSError: the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with naming(path):
            schema = pq.read_schema(path)
        missing = [name for name in _NEEDED if name not in schema.names]
        if missing:
            hint = " (the sizes of the groups, without which nobody knows of how many)" if "trials" in missing else ""
            raise ValueError(
                f"{path}: expected columns prompt, step, solved, trials; {', '.join(missing)} not among "
                f"{', '.join(schema.names)}{hint}"
            )
        present = [name for name in names if name in schema.names]
        for name in present:
            _check_type(path, name, schema.field(name).type)
        table = pq.read_table(path, columns=present, page_checksum_verification=True)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: expected a whole Parquet file, got {' '.join(str(error).split())}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path}: expected a whole Parquet file, got {' '.join(str(error).split())}") from error
    names_of_prompts, table = _rows_of_names(table)
    columns = {name: torch.from_numpy(_numbers(table[name])) for name in present}
    strange = [name for name in ("prompt", "step", "trials") if not bool((columns[name] % 1 == 0).all())]
    if strange:
        raise ValueError(f"{path}: expected whole numbers in {', '.join(strange)}, got others")
    for name, most in (("prompt", MOST_PROMPTS), ("step", MOST_STEPS), ("trials", 2**31)):
        if len(table) and float(columns[name].max()) >= most:
            raise ValueError(
                f"{path}: expected numbers below {most:,} in {name}, got {columns[name].max().item():,.0f}"
                + (": prompts are rows, counted from 0; of ids make rows first" if name == "prompt" else "")
                + (": steps are counted from 0" if name == "step" else "")
            )
    seen = int(columns["prompt"].max()) + 1 if len(table) else 0
    about = _about(path, schema.metadata or {}, max(seen, 0))
    return columns, about if names_of_prompts is None else about._replace(ids=names_of_prompts)


def _check_type(path: Path, name: str, kind: pa.DataType) -> None:
    import pyarrow as pa

    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if name == "prompt" and _is_text(kind):
        return
    if not plain and not pa.types.is_null(kind):
        raise ValueError(f"{path}: expected columns of numbers, got {name} of {kind}")


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))


def _rows_of_names(table: pa.Table) -> tuple[list[str] | None, pa.Table]:
    """The ids of the prompts in the order in which they appear, where the table has ids in place of rows, and the table
    with their rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    place = table.schema.get_field_index("prompt")
    column = table["prompt"]
    if not _is_text(column.type):
        return None, table
    whole = pc.cast(column, pa.large_string()).combine_chunks().dictionary_encode()
    whole = whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole
    return whole.dictionary.to_pylist(), table.set_column(place, "prompt", whole.indices)


def _numbers(column: pa.ChunkedArray) -> Any:
    """float64 [E], NaN if there is no value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_boolean(column.type):
        column = pc.cast(column, pa.int8())
    return pc.cast(column, pa.float64(), safe=False).to_numpy().copy()


def _about(path: Path, metadata: dict[bytes, bytes], seen: int) -> About:
    """The metadata under `dps_pyro`, checked; `seen` is the number of prompts that the rows need."""
    what = f"{path}: metadata"
    try:
        about = parse_json(metadata.get(b"dps_pyro", b"{}"))
    except ValueError as error:
        raise ValueError(f"{what}: expected JSON, got {error}") from error
    if not isinstance(about, dict):
        raise ValueError(f"{what}: expected {{name: value}}, got {type(about).__name__}")
    raw, steps = about.get("ids"), checks.count(f"{what}: num_steps", about.get("num_steps", 0), 0, MOST_STEPS)
    ids = None if raw is None else checks.ids(f"{what}: ids", raw)
    if raw is not None and ids is None:
        raise ValueError(f"{what}: ids: expected a list of ids, got {str(raw)[:80]}")
    given = about.get("num_prompts", seen if ids is None else len(ids))
    count = checks.count(f"{what}: num_prompts", given, 0, MOST_PROMPTS)
    if count < seen or (ids is not None and len(ids) != count):
        listed = "" if ids is None else f" and {len(ids):,} ids"
        raise ValueError(
            f"{what}: expected the {seen:,} prompts of the rows at least, got num_prompts {count:,}{listed}"
        )
    features = checks.features(f"{what}: features", about.get("features"), count)
    return About(ids, count, steps, features, _marks(what, about.get("marks", {})))


def _marks(what: str, given: Any) -> dict[str, dict[int, float]]:
    """The steps' own columns: name -> step -> value."""
    try:
        marks = {
            str(name): {checks.count("step", step, 0, MOST_STEPS): float(value) for step, value in by_step}
            for name, by_step in given.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{what}: marks: expected {{name: [[step, value], ...]}}, got {str(given)[:80]}") from error
    return marks
