"""Records from files, folders and data sets: what is read, and how mistakes are told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from dps_pyro.tasks import read_records

RECORDS: list[dict[str, Any]] = [
    {"problem": "1 + 1", "answer": "2", "level": 1},
    {"problem": "Größe $\\pi$", "answer": "3,14", "level": 5, "tags": ["a", "b"]},
]
SAME = [{"x": 1, "y": "é", "z": [1.5]}, {"x": 2, "y": None, "z": []}]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(records), encoding="utf-8")
    else:
        path.write_text("\n\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_every_kind_of_file_gives_the_records_back(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, SAME)
    assert read_records(path) == read_records(str(path)) == SAME


def test_records_may_differ_in_their_names(tmp_path: Path) -> None:
    assert read_records(write(tmp_path / "a.jsonl", RECORDS)) == RECORDS


def test_a_json_file_may_have_splits(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": RECORDS, "test": RECORDS[:1]}), encoding="utf-8")
    assert read_records(path, "train") == RECORDS
    assert read_records(path, "test") == RECORDS[:1]
    with pytest.raises(ValueError, match="expected a split among 'train', 'test', got 'dev'"):
        read_records(path, "dev")
    with pytest.raises(ValueError, match=r"expected a list of records, .* got dict \(give a split\)"):
        read_records(path)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_table_is_separated_as_excel_separates_it(mark: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'problem{mark}answer\n"1,5 + 1; what?"{mark}2\n', encoding="utf-8-sig")
    assert read_records(path) == [{"problem": "1,5 + 1; what?", "answer": "2"}]


def test_a_folder_has_a_file_a_split(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", RECORDS[:1])
    write(tmp_path / "train.json", RECORDS)
    assert read_records(tmp_path, "test") == RECORDS[:1]
    assert read_records(tmp_path) == RECORDS
    with pytest.raises(ValueError, match=r"expected dev.parquet, dev.jsonl, .* or dev-\*.parquet"):
        read_records(tmp_path, "dev")


def test_a_folder_laid_out_as_on_the_hub(tmp_path: Path) -> None:
    write(tmp_path / "data/train-00001-of-00002.parquet", SAME[1:])
    write(tmp_path / "data/train-00000-of-00002.parquet", SAME[:1])
    write(tmp_path / "data/test-00000-of-00001.parquet", SAME)
    assert read_records(tmp_path, "train") == SAME
    assert read_records(tmp_path, "test") == SAME


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "a\tb", r"expected a file that ends in .parquet, .jsonl, .json, .csv, .arrow, got"),
        ("a.json", "{", "expected JSON, got"),
        ("a.json", "[1]", r"expected records, as {name: value}, got 1 at place 0"),
        ("a.json", "7", "expected a list of records, a table .*, got int"),
        ("a.jsonl", '{"a": 1}\n{"a"', "expected JSON on every line, got .* on line 2"),
        ("a.jsonl", "[1]\n", "expected records"),
        ("a.parquet", "text", "expected a Parquet file, got"),
    ],
)
def test_what_holds_no_records_is_told(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_records(tmp_path / name)


def test_a_split_of_a_file_without_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected no split of a file of records, got 'test'"):
        read_records(write(tmp_path / "a.jsonl", RECORDS), "test")


@pytest.mark.parametrize("name", ["no.jsonl", "/no/such", "./no", "~/no"])
def test_a_file_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(ValueError, match="no such file"):
        read_records(name)


def test_a_data_set_is_read_by_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself is tested by its own; what it is asked for is tested here."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        asked.append((*arguments, options["split"]))
        return datasets.Dataset.from_list(SAME)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_records("owner/name:config", "test") == SAME
    assert read_records("owner/name") == SAME
    assert asked == [("owner/name", "config", "test"), ("owner/name", None, "train")]


def test_without_a_network_a_data_set_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        ValueError, match=r"got 'owner/name': ConnectionError: Couldn't reach the hub\. Without a network"
    ):
        read_records("owner/name")


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'dps_pyro\[hub\]'"):
        read_records("owner/name")
