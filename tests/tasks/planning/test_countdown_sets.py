"""The sets and the prompt of Countdown that were published."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from helpers.problems.splits import both

from dps_pyro.tasks import Countdown, by_name


def test_the_papers_two_sets() -> None:
    both_counts, four = Countdown.three_to_four(), Countdown.four(train_size=100)
    assert (len(both_counts.prompts("train")), len(both_counts.prompts("test"))) == (2000, 512)
    assert Counter(len(p.answer[0]) for p in both_counts.prompts("train")) == {3: 1000, 4: 1000}
    assert {len(p.answer[0]) for p in four.prompts("test")} == {4}
    for prompt in both(both_counts):
        numbers, target = prompt.answer
        assert all(1 <= number <= 99 for number in numbers) and 10 <= target <= 100
        assert "<think>" in prompt.text
    assert not set(both_counts.prompts("train").ids) & set(both_counts.prompts("test").ids)


def test_tinyzeros_prompt() -> None:
    task = Countdown.three_to_four(train_size=1, test_size=1, style="tinyzero")
    text = task.prompt([44, 19, 35], 98).text
    assert "User: Using the numbers [44, 19, 35], create an equation that equals 98." in text
    assert text.endswith("Assistant: Let me solve this step by step.\n<think>")
    assert (
        task.reward(task.prompt([44, 19, 35], 98), "44 + 19 + 35 </think> <answer> 44 + 19 + 35 </answer>").value == 1
    )


def test_published_records(tmp_path: Any) -> None:
    records = [
        {"nums": [44, 19, 35], "target": 98},
        {"nums": [35, 44, 19], "target": 98},
        {"nums": [1, 2, 3], "target": 6},
    ]
    task = Countdown.from_records(records, [{"nums": [3, 2, 1], "target": 6}, {"nums": [4, 5], "target": 9}])
    assert task.prompts("train").ids == ("countdown:19,35,44=98",)
    assert task.prompts("test").ids == ("countdown:1,2,3=6", "countdown:4,5=9")
    assert len(Countdown.from_records(records, train_size=5).prompts("test")) == 1
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    found = by_name.make("countdown", {"preset": "from_files", "train": str(tmp_path / "a.jsonl"), "style": "compact"})
    assert found.prompts("train")[0].text == "44 19 35 = 98 :"
    many = [{"nums": [1, number], "target": number + 1} for number in range(2, 22)]
    split = Countdown.from_records(many, train_size=8, test_size=4)  # as the paper's code: the first 8, the next 4
    assert [p.answer[1] for p in both(split)] == list(range(3, 15))
    rest = Countdown.from_records(many, test_size=4)
    assert [p.answer[1] for p in rest.prompts("test")] == [19, 20, 21, 22] and len(rest.prompts("train")) == 16
    other = Countdown.from_records(many, many[2:4], train_size=8, test_size=4)  # tested problems are not trained on
    assert [p.answer[1] for p in other.prompts("train")] == [3, 4, 7, 8, 9, 10, 11, 12]
    with pytest.raises(ValueError, match="expected nums and target in record 0, got target"):
        Countdown.from_records([{"target": 3}])


def test_presets_by_configuration() -> None:
    task = by_name.make("countdown", {"preset": "four", "train_size": 8, "test_size": 4})
    assert {len(p.answer[0]) for p in task.prompts("train")} == {4}
    with pytest.raises(ValueError, match="expected a preset among three_to_four, four, from_files, got 'five'"):
        by_name.make("countdown", {"preset": "five"})
