"""The log as a Parquet file."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from dps_pyro.history.log import Events, RolloutHistory
from dps_pyro.storage import atomic_path

__all__ = ["read", "write"]


def write(history: RolloutHistory, path: Path) -> Path:
    """Write a log; see `RolloutHistory.to_parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    events = history.events
    narrow = {"prompt": torch.int32, "step": torch.int32, "trials": torch.int32}
    columns = [
        pa.array((column.to(narrow[name]) if name in narrow else column).numpy())
        for name, column in events._asdict().items()
    ]
    about = {
        "ids": history.ids,
        "num_prompts": history.num_prompts,
        "num_steps": history.num_steps,
        "features": history.features,
        "marks": {name: list(by_step.items()) for name, by_step in history.marks.items()},
    }
    table = pa.table(columns, names=list(Events._fields), metadata={"dps_pyro": json.dumps(about)})
    with atomic_path(path) as aside:
        pq.write_table(table, aside, compression="zstd")
    return path


def read(path: Path) -> RolloutHistory:
    """Read a log; see `RolloutHistory.from_parquet`."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    missing = {"prompt", "step", "solved", "trials"} - set(table.column_names)
    if missing:
        raise ValueError(
            f"{path}: expected columns prompt, step, solved, trials; {', '.join(sorted(missing))} not among "
            f"{', '.join(table.column_names)}"
        )
    try:
        present = [name for name in Events._fields if name in table.column_names]
        column = {name: torch.from_numpy(table[name].to_numpy().astype("float64")) for name in present}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected columns of numbers, got {error}") from error
    strange = [name for name in ("prompt", "step", "trials") if not bool((column[name] % 1 == 0).all())]
    if strange:
        raise ValueError(f"{path}: expected whole numbers in {', '.join(strange)}, got others")
    about = json.loads((table.schema.metadata or {}).get(b"dps_pyro", b"{}"))
    seen = int(column["prompt"].max()) + 1 if len(table) else 0
    ids = about.get("ids")
    prompts = ids if ids is not None else about.get("num_prompts", seen)
    history = RolloutHistory(prompts, features=about.get("features"))
    # Appending step by step would need the log sorted; the columns are checked as one append and then dated.
    learned, mixed = (None if of is None else of > 0 for of in (column.get("trained"), column.get("useful")))
    history.append(
        column["prompt"],
        step=0,
        solved=column["solved"],
        trials=column["trials"],
        predicted=column.get("predicted"),
        trained=learned,
        useful=mixed,
    )
    steps = column["step"].long()
    if len(steps) and int(steps.min()) < 0:
        raise ValueError(f"{path}: step: expected 0 or more, got {int(steps.min())}")
    events = history.events._replace(step=steps, progress=column.get("progress", history.events.progress))
    marks = {
        name: {int(step): float(value) for step, value in by_step} for name, by_step in about.get("marks", {}).items()
    }
    sizes = {"num_steps": about.get("num_steps", 0), "features": about.get("features")}
    return RolloutHistory.from_events(events, prompts, **sizes, marks=marks)
