"""What the commands for logs read: a file, a folder of another loop, or a run of this package."""

from __future__ import annotations

from pathlib import Path

import pytest

from dps_pyro.cli.inputs import LogOptions, read_history
from dps_pyro.history.log import RolloutHistory


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The files of a run's folder that say that it is one, its history, and others beside it."""
    for name in ("run_id", "config.yaml", "checksums.json", "metrics.jsonl"):
        (tmp_path / name).write_text("{}")
    history = RolloutHistory(3)
    history.append([0, 2], step=0, solved=[1, 4], trials=4)
    history.to_parquet(tmp_path / "history.parquet")
    return tmp_path


def test_a_run_stands_for_its_history(run: Path) -> None:
    said: list[str] = []
    history = read_history(run, LogOptions(), said.append)
    assert (history.num_prompts, history.events.solved.tolist()) == (3, [1, 4])
    assert said == [f"{run / 'history.parquet'}: 5 of 8 rollouts solved their prompt, and 1 of 2 groups are useful."]
    (run / "history.parquet").rename(run / "full_log.parquet")
    assert read_history(run, LogOptions(), said.append, "full_log.parquet").num_prompts == 3


def test_what_is_missing_is_named_with_the_way_out(run: Path) -> None:
    with pytest.raises(
        OSError, match=r"expected full_log.parquet in this run folder, found none; a run with --full-log"
    ):
        read_history(run, LogOptions(), print, "full_log.parquet")
    (run / "history.parquet").unlink()
    (run / "history.parquet").mkdir()
    with pytest.raises(OSError, match=r"expected history.parquet in this run folder, found none; .* --resume writes"):
        read_history(run, LogOptions())
    with pytest.raises(OSError, match=r"nothing.parquet: expected a log, found nothing there"):
        read_history(run / "nothing.parquet", LogOptions())
