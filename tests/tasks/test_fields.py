"""Fields of records: paths, bad records, answers, and what becomes a feature."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dps_pyro.tasks import Math, feature_columns
from dps_pyro.tasks.fields import at, known_of


def one(record: dict[str, Any], **settings: Any) -> Any:
    return Math.from_records([], [record], **settings).prompts("test")[0]


def test_paths_lead_into_records() -> None:
    record = {"a": {"b": [{"c": 1}, {"c": 2}]}, "a.b": "dots", "j": '{"x": {"y": 3}}', "n": None}
    assert at(record, "a.b") == "dots"
    assert at(record, "a.b") == "dots"
    assert (at(record, "a.b.0.c"), at({"a": record["a"]}, "a.b.-1.c"), at(record, "j.x.y")) == (1, 2, 3)
    for path in ("a.z", "n.x", "a.b.7.c", "z", ""):
        assert at({"a": record["a"], "n": None}, path) is None
    assert at({"j": "[" * 100_000}, "j.0") is None


def test_names_may_differ_in_capitals() -> None:
    assert (at({"Problem": 1}, "problem"), at({"Problem": 1, "problem": 2}, "problem")) == (1, 2)
    records = [{"Problem": f"q{n}", "Answer": str(n), "Level": str(n)} for n in range(4)]
    assert known_of(records, ["problem", "answer"]) == [{"Level": float(n)} for n in range(4)]


@pytest.mark.parametrize(
    ("record", "gold"),
    [
        ({"question": "q", "answer": "So 70 + 2 = <<70+2=72>>72.\n#### 72"}, "72"),
        ({"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "34"}}, "34"),
        ({"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": '["3"]'}}, "3"),
        ({"problem": "q", "answer": '["3", "three"]'}, ("3", "three")),
        ({"problem": "q", "answer": "[3, 4)"}, "[3, 4)"),
        ({"messages": [{"role": "user", "content": "q"}], "ground_truth": "5", "dataset": "gsm8k"}, "5"),
        ({"input": "q", "label": 7.0}, "7"),
        ({"ID": "2024-I-1", "Problem": "q", "Answer": "204", "Solution": "Long."}, "204"),
    ],
)
def test_answers_in_the_forms_of_data_sets(record: dict[str, Any], gold: Any) -> None:
    assert one(record).answer == gold


def test_any_of_several_right_answers_is_right() -> None:
    task = Math.from_records([], [{"problem": "q", "answer": '["3", "7"]'}, {"problem": "r", "answer": "1"}])
    first, second = task.prompts("test")
    rewards = task.rewards([first, first, first, second], ["\\boxed{7}", "\\boxed{3}", "\\boxed{1}", "\\boxed{1}"])
    assert [reward.value for reward in rewards] == [1.0, 1.0, 0.0, 1.0]


def test_bad_records_are_left_out_and_counted() -> None:
    good = {"problem": "1 + 1", "answer": "2"}
    bad = [
        {"problem": "", "answer": "2"}, {"problem": "q", "answer": None}, {"problem": "q", "answer": math.nan},
        {"problem": "q", "answer": "proof"}, {"problem": "q", "answer": "nan"}, {"problem": "q"},
        {"messages": [{"role": "user", "content": "q"}], "ground_truth": '{"func_name": "validate"}'},
        {"prompt": [{"role": "tool", "content": "q"}], "answer": "2"},
    ]  # fmt: skip
    task = Math.from_records([*bad, good], [])
    assert [prompt.answer for prompt in task.prompts("train")] == ["2"]
    (note,) = task.notes
    assert note.startswith(
        "8 of 9 records are left out: 4 without an answer, 1 without a problem, 1 whose answer is a pr"
    )
    assert "The first: expected a problem (" in note
    assert Math.from_records([good], []).notes == ()


def test_the_sentence_that_asks_for_the_answer() -> None:
    record = {"problem": "1 + 1", "answer": "2"}
    assert one(record).text.endswith("\\boxed{}.")
    assert one(record, instruction=False).text == "1 + 1"
    assert one(record, instruction="Be brief.").text == "1 + 1\n\nBe brief."
    for said in ("Put it in \\boxed{}.", "Answer: on the last line", 'after "####"', "<answer> tags"):
        assert one({"problem": f"1 + 1 {said}", "answer": "2"}).text == f"1 + 1 {said}"
        assert one({"problem": f"1 + 1 {said}", "answer": "2"}, instruction=True).text.endswith("\\boxed{}.")


def test_other_columns_are_features() -> None:
    rows: list[dict[str, Any]] = [
        {"problem": f"q{n}", "answer": "1", "rate": f"{n}/8", "level": str(n % 3),
         "extra": {"hard": n % 2 == 0, "index": n},
         "llama8b_solve_rate": None if n == 0 else n / 40, "source": "ab"[n % 2], "uuid": f"u{n}", "note": "x" * 200,
         "rare": 1 if n == 3 else None, "said": f"words {n}", "tags": ["a"]}
        for n in range(40)
    ]  # fmt: skip
    columns = feature_columns(Math.from_records(rows, []).prompts("train"))
    assert columns.keys() == {"length", "rate", "level", "extra.hard", "llama8b_solve_rate", "source"}
    assert columns["rate"][:3] == [0.0, 0.125, 0.25] and columns["level"][:3] == [0.0, 1.0, 2.0]
    assert columns["llama8b_solve_rate"][0] == pytest.approx(sum(n / 40 for n in range(1, 40)) / 39)
    assert known_of([]) == []


def test_ends_of_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = [{"problem": f"{n}", "answer": "1"} for n in range(4)]
    (tmp_path / "a.json").write_text("\n".join(map(json.dumps, rows)))
    assert len(Math.from_files("~/a.json", test_size=1).prompts("train")) == 3
    (tmp_path / "b.json").write_text(json.dumps({"train": rows, "dev": rows[:1]}))
    task = Math.from_files("~/b.json", split="train", test_split="dev")
    assert (len(task.prompts("train")), len(task.prompts("test"))) == (3, 1)
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"deep.json: expected JSON"):
        Math.from_files("~/deep.json")
    (tmp_path / "wide.csv").write_text("problem,answer\na,1,2\n")
    with pytest.raises(ValueError, match=r"wide.csv: expected as many values as names, got more in record 0"):
        Math.from_files("~/wide.csv")
    (tmp_path / "bad.arrow").write_bytes(b"no arrow")
    with pytest.raises(ValueError, match=r"bad.arrow: expected a table of Arrow's"):
        Math.from_files("~/bad.arrow")
