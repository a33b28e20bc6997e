"""Records of one's own as a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers.runs.tiny import call
from pyarrow import parquet

from dps_pyro.tasks.own.records import Records
from dps_pyro.trainers.config.config_file import load_config


@pytest.fixture
def judge(tmp_path: Path) -> str:
    file = tmp_path / "judge.py"
    file.write_text(
        "def judge(completion, record):\n    return completion.strip() == str(record['answer'])\n", encoding="utf-8"
    )
    return f"{file}:judge"


def jsonl(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


SUMS = [{"question": f"{i} + {i} =", "answer": 2 * i, "level": i % 3} for i in range(200)]


def test_records_become_prompts_with_a_stable_held_out_part(tmp_path: Path, judge: str) -> None:
    task = Records(jsonl(tmp_path / "a.jsonl", SUMS), judge, prompt="question", features=["level"], groups="level")
    train, test = task.prompts("train"), task.prompts("test")
    assert len(train) + len(test) == 200
    assert 8 <= len(test) <= 35
    assert train[0].features == {"level": train[0].answer["level"]}
    assert task.groups == "level"
    prompt = train[3]
    assert task.reward(prompt, f" {prompt.answer['answer']}\n") == (1.0, "correct")
    assert task.reward(prompt, "no idea") == (0.0, "wrong")
    # Another order, more records and another format: who is held out stays so.
    more = [*reversed(SUMS), *({"question": f"{i} + 1 =", "answer": i + 1, "level": 0} for i in range(50))]
    parquet.write_table(pa.Table.from_pylist(more), tmp_path / "b.parquet")
    again = Records(str(tmp_path / "b.parquet"), judge, prompt="question")
    assert set(test.ids) <= set(again.prompts("test").ids)
    assert set(train.ids) <= set(again.prompts("train").ids)
    with pytest.raises(ValueError, match="expected a split among train, test, got 'dev'"):
        task.prompts("dev")


def test_ids_splits_chats_and_what_json_does_not_hold(tmp_path: Path, judge: str) -> None:
    (tmp_path / "set").mkdir()
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1 ="}]
    parquet.write_table(
        pa.Table.from_pylist([{"name": "a", "prompt": chat, "answer": 2, "raw": b"\x00"}]),
        tmp_path / "set/train.parquet",
    )
    jsonl(tmp_path / "set/test.jsonl", [{"name": "b", "prompt": "2 + 2 =", "answer": 4}])
    task = Records(str(tmp_path / "set"), judge, id="name", test_split="test")
    assert (task.prompts("train").ids, task.prompts("test").ids) == (("a",), ("b",))
    assert task.prompts("train")[0].before == ({"role": "system", "content": "Be brief."},)
    assert task.prompts("train")[0].text == "1 + 1 ="
    assert "raw" not in task.prompts("train")[0].answer
    assert Records(str(tmp_path / "set"), judge, id="name", test_split="test", system="Think.").system == "Think."


@pytest.mark.parametrize(
    ("records", "arguments", "message"),
    [
        (
            [{"text": "1"}],
            {},
            r"expected a problem \(problem, .*\) in record 0, got text: task_args names",
        ),
        ([{"prompt": ""}], {}, r"expected a problem \(.*\) in record 0, got prompt"),
        (
            [{"prompt": [{"role": "assistant", "content": "x"}]}],
            {},
            "whose last message is the user's, got one of the assist",
        ),
        ([{"prompt": "a", "id": 1}, {"prompt": "b", "id": 1}], {"id": "id"}, "distinct 'id', got '1' more than once"),
        (
            [{"prompt": "a", "f": [1]}],
            {"features": ["f"]},
            r"expected numbers or strings in 'f', got \[1\] in record 0",
        ),
        ([{"prompt": "a"}], {"test_share": 1.5}, "expected test_share between 0 and 1, got 1.5"),
        ([{"prompt": "a"}], {"timeout": 0}, "reward_timeout: expected more than 0 seconds, got 0"),
    ],
)
def test_what_cannot_be_used_is_told(
    records: list[dict[str, Any]], arguments: dict[str, Any], message: str, tmp_path: Path, judge: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Records(jsonl(tmp_path / "a.jsonl", records), judge, **arguments)


def test_on_the_command_line(tmp_path: Path, judge: str, capsys: pytest.CaptureFixture[str]) -> None:
    data, file, run = jsonl(tmp_path / "a.jsonl", SUMS), tmp_path / "my.yaml", tmp_path / "run"
    file.write_text("task_args: {prompt: question}\nbatch_size: 4\ngroup_size: 4\nthreads: 1\nreport: false\n")
    status, _, err = call(
        capsys, "train", "--config", str(file), "--model", "countdown", "--data", data, "--reward", judge, "--steps",
        "1", "--out", str(run), "--eval-samples", "1", "--system", "Add.",
    )  # fmt: skip
    assert (status, err) == (0, "")
    kept = load_config(run / "config.yaml").task
    assert (kept.data, kept.system) == (data, "Add.")
    odd = jsonl(tmp_path / "odd.jsonl", [{"text": "1"}])
    for arguments, message in (
        (["--reward", judge], "reward: expected --data with it"),
        (["--data", data, "--reward", judge], "model: expected a causal LM's folder or hub id for --data, got none"),
        (["--data", "no.jsonl", "--reward", judge, "--model", "countdown"], "got 'no.jsonl': no such file"),
        (["--data", odd, "--reward", judge, "--model", "countdown"], "expected a problem (problem, question, prompt"),
        (["--data", data, "--reward-range", "-1", "1"], "reward_range, reward_solved_at: expected"),
    ):
        status, _, err = call(capsys, "train", "--out", str(tmp_path / "other"), *arguments)
        assert status == 2
        assert message in err
        assert not (tmp_path / "other").exists()
