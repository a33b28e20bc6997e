"""Reward functions of other trainers, and what they return."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dps_pyro.tasks.own.reward_process import RewardError, RewardProcess
from dps_pyro.tasks.own.signatures import Rule, adapted, checked

CHAT = [{"role": "user", "content": "1 + 1 ="}]
RECORD = {
    "prompt": CHAT, "solution": "2", "data_source": "sums", "reward_model": {"ground_truth": "2"},
    "extra_info": {"index": 3},
}  # fmt: skip


def test_trls_functions_are_given_lists_and_columns() -> None:
    seen: dict[str, Any] = {}

    def reward(prompts: Any, completions: Any, solution: Any, **kwargs: Any) -> list[float]:
        seen.update(prompts=prompts, completions=completions, solution=solution, **kwargs)
        return [0.25]

    assert adapted(reward)("2", RECORD) == 0.25
    assert seen["prompts"] == [CHAT] and seen["completions"] == [[{"role": "assistant", "content": "2"}]]
    assert seen["solution"] == ["2"] and seen["data_source"] == ["sums"] and "prompt" not in seen
    adapted(reward)("2", {"prompt": "1 + 1 =", "solution": "2"})
    assert (seen["prompts"], seen["completions"]) == (["1 + 1 ="], ["2"])
    assert adapted(lambda completions: [len(one) for one in completions])("abc", {"prompt": "q"}) == 3
    assert adapted(lambda completions: [None for _ in completions])("abc", {"prompt": "q"}) is None

    async def slow(completions: Any, **_: Any) -> list[float]:
        return [0.5 for _ in completions]

    assert adapted(slow)("a", {"prompt": "q"}) == 0.5
    with pytest.raises(TypeError, match="expected a reward of TRL that does without completion_ids"):
        adapted(lambda completions, completion_ids: [completions, completion_ids])


def test_verls_and_openrlhfs_functions() -> None:
    def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> dict[str, Any]:
        assert (data_source, ground_truth, extra_info) == ("sums", "2", {"index": 3})
        return {"score": 1.0 if solution_str == ground_truth else -1.0, "acc": solution_str == ground_truth}

    assert adapted(compute_score)("2", RECORD) == {"score": 1.0, "acc": True}
    assert adapted(lambda solution_str, ground_truth: solution_str + ground_truth)("x", {"answer": 4}) == "x4"

    def batch(data_sources: Any, solution_strs: Any, ground_truths: Any, extra_infos: Any) -> list[dict[str, Any]]:
        assert (data_sources, ground_truths, extra_infos) == (["sums"], ["2"], [{"index": 3}])
        return [{"score": float(one == "2")} for one in solution_strs]

    assert [adapted(batch)(said, RECORD) for said in ("2", "3")] == [{"score": 1.0}, {"score": 0.0}]

    def reward_func(queries: Any, prompts: Any, labels: Any) -> dict[str, Any]:
        return {"rewards": torch.tensor([float(queries == [f"q{labels[0]}"] and prompts == ["q"])])}

    assert checked(adapted(reward_func)("7", {"input": "q", "label": "7"}))["value"] == 1.0
    assert adapted(lambda completion, record: (completion, record))("a", {"b": 1}) == ("a", {"b": 1})


@pytest.mark.parametrize(
    ("found", "rule", "value", "reason"),
    [
        (True, Rule(), 1.0, "correct"),
        (0.5, Rule(), 0.5, "partly correct"),
        ((0, "no plan"), Rule(), 0.0, "no plan"),
        (None, Rule(), None, "abstained"),
        (math.nan, Rule(), None, "abstained"),
        (-1, Rule.of((-1, 1), None), 0.0, "wrong"),
        (0.5, Rule.of((-1, 1), None), 0.75, "partly correct"),
        (0.5, Rule.of(None, 0.5), 1.0, "correct"),
        (-7.0, Rule.of(None, 0.5), 0.0, "wrong"),
        ({"score": -1.0, "acc": True}, Rule(), 1.0, "correct"),
        ({"score": -1.0, "acc": True}, Rule.of((-1, 1), None), 0.0, "wrong"),
        ({"score": 0.25}, Rule(), 0.25, "partly correct"),
        ({"score": None}, Rule(), None, "abstained"),
        (torch.tensor(1.0), Rule(), 1.0, "correct"),
    ],
)
def test_what_is_returned_becomes_a_reward(found: Any, rule: Rule, value: float | None, reason: str) -> None:
    assert checked(found, rule) == {"value": value, "reason": reason}


def test_what_is_no_reward_is_told() -> None:
    with pytest.raises(ValueError, match=r"expected a reward in 0..1, got -1.0 \(--reward-range -1 1 says another"):
        checked(-1)
    with pytest.raises(ValueError, match=r"expected a reward in -1..1, got 2.0$"):
        checked(2, Rule.of((-1, 1), None))
    with pytest.raises(ValueError, match="expected a dictionary with score, reward or acc, got x"):
        checked({"x": 1})
    with pytest.raises(ValueError, match="expected one reward for one completion, got 2"):
        adapted(lambda completions: [*completions, "b"])("a", {"prompt": "q"})
    for bounds, solved_at, message in (
        ((1, 1), None, "two finite numbers that rise, got 1 and 1"), ((0, math.inf), None, "two finite numbers"),
        ((0, 1), 0.5, "expected at most one of them, got both"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Rule.of(bounds, solved_at)


def test_a_function_that_abstains_leaves_the_reward_unknown(tmp_path: Any) -> None:
    file = tmp_path / "own.py"
    file.write_text("def judge(completions, **kwargs):\n    return [None if c == 'x' else 3.0 for c in completions]\n")
    process = RewardProcess(f"{file}:judge", 60.0, Rule.of((1, 5), None))
    try:
        assert process("y", {"prompt": "q"}) == (0.5, "partly correct")
        with pytest.raises(RewardError, match="reward abstained"):
            process("x", {"prompt": "q"})
    finally:
        process.close()
