"""Errors of the file system are sentences with the file and the way out."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dps_pyro.cli import main
from dps_pyro.history.log import RolloutHistory
from dps_pyro.storage import atomic_path, not_as_written, parse_json
from dps_pyro.support.files.file_errors import said_of
from dps_pyro.support.files.readers import column_names
from dps_pyro.trainers.run.seals import broken_seal


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(IsADirectoryError) as renamed, atomic_path(tmp_path / "metrics.jsonl") as aside:
        aside.write_text("{}")
    with pytest.raises(IsADirectoryError) as read:
        (tmp_path / "metrics.jsonl").read_text()
    for error in (renamed.value, read.value):
        assert said_of(error).startswith(
            f"{tmp_path / 'metrics.jsonl'} is a folder, where a file belongs; move it away"
        )


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EACCES, "a may not be read or written by this user"), (errno.ENOTDIR, "a has a file in its path"),
     (errno.EFBIG, "a is larger than this user's limit"), (errno.ENOSPC, "a: full")],
)  # fmt: skip
def test_errors_name_the_file_first(number: int, said: str) -> None:
    assert said_of(OSError(number, "full", "a")).startswith(said)


def test_a_message_of_ones_own_is_said_as_it_is() -> None:
    assert said_of(FileNotFoundError("expected a run folder, found none")) == "expected a run folder, found none"


def test_json_that_is_nested_too_deeply_is_damage_like_any_other() -> None:
    assert parse_json('{"a": [1]}') == {"a": [1]}
    for text in ("[" * 100_000, "{", b"\xff"):
        with pytest.raises(ValueError, match=r"nested too deeply|Expecting|decode"):
            parse_json(text)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match=r"state\.json"):
        not_as_written(tmp_path, {"state.json": "0"})


def test_a_table_that_is_not_there_is_named_once(tmp_path: Path) -> None:
    for read in (column_names, RolloutHistory.from_parquet):
        with pytest.raises(FileNotFoundError) as caught:
            read(tmp_path / "history.parquet")
        assert said_of(caught.value) == f"{tmp_path / 'history.parquet'} is not there"


def test_a_seal_that_may_not_be_read_is_not_called_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(PermissionError, match=r"checksums\.json"):
        broken_seal(tmp_path)


def test_commands_say_it_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run/config.yaml").mkdir(parents=True)
    assert main(["train", "--resume", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "config.yaml is a folder, where a file belongs" in said and "Errno" not in said
