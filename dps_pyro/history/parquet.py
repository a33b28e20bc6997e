"""The log as a Parquet file."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from dps_pyro.history.log import Events, RolloutHistory
from dps_pyro.history.table import read_table
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
        "ids": None if history.ids is None else list(history.ids),
        "num_prompts": history.num_prompts,
        "num_steps": history.num_steps,
        "features": history.features,
        "marks": {name: list(by_step.items()) for name, by_step in history.marks.items()},
    }
    table = pa.table(columns, names=list(Events._fields), metadata={"dps_pyro": json.dumps(about)})
    with atomic_path(path) as aside:
        pq.write_table(table, aside, compression="zstd", write_page_checksum=True)
    return path


def read(path: Path) -> RolloutHistory:
    """Read a log; see `RolloutHistory.from_parquet`."""
    column, about = read_table(path, Events._fields)
    prompts = about.ids if about.ids is not None else about.num_prompts or 0
    history = RolloutHistory(prompts, features=about.features)
    # Appending step by step would need the log sorted; the columns are checked as one append and then dated.
    learned, mixed = (None if of is None else of > 0 for of in (column.get("trained"), column.get("useful")))
    try:
        history.append(
            column["prompt"],
            step=0,
            solved=column["solved"],
            trials=column["trials"],
            predicted=column.get("predicted"),
            trained=learned,
            useful=mixed,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    steps = column["step"].long()
    if len(steps) and int(steps.min()) < 0:
        raise ValueError(f"{path}: step: expected 0 or more, got {int(steps.min())}")
    events = history.events._replace(step=steps, progress=column.get("progress", history.events.progress))
    return RolloutHistory.from_events(
        events, prompts, num_steps=about.num_steps, features=about.features, marks=about.marks
    )
