"""The script that warm-starts a testbed: right demonstrations, mostly easy, none of the testbed's own prompts."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from benchmarks.learning.testbeds import sums
from dps_pyro.tasks import Prompt, judge
from dps_pyro.tasks.planning.blocks import plan, random_state
from scripts import make_testbed_policy as script
from scripts.make_task_policy import make_tokenizer


@pytest.mark.parametrize("name", list(script.TESTBEDS))
def test_demonstrations_are_right_mostly_easy_and_fit(name: str) -> None:
    bed = script.TESTBEDS[name]
    task, spec = bed.make(), bed.spec
    own = {prompt.text.replace(" ", "") for split in ("train", "test") for prompt in task.prompts(split)}
    tokenizer = make_tokenizer(spec.symbols)
    rows = script.demonstrations(name, tokenizer, task, 1)
    for _ in range(60):
        ids, asked = next(rows)
        assert tokenizer.unk_token_id not in ids
        assert len(ids) - asked <= spec.max_new_tokens
        assert tokenizer.decode(ids[:asked], skip_special_tokens=True) not in own
    shown = [script._EXAMPLES[name](random.Random(seed), task, bed.most) for seed in range(60)]
    if name == "planning":
        parts = [tuple(tuple(side.split("/")) for side in one.id.removeprefix("blocks:").split(">")) for one in shown]
        prompts = [task.prompt(*states) for states in parts]  # type: ignore[attr-defined]
        assert all(reward.value == 1 for reward in judge(task, prompts, [one.show for one in shown]))
    if name == "mathematics":
        asked = [Prompt(one.id, one.ask, str(eval_sum(one.ask.rstrip(":")))) for one in shown]
        rewards = [reward.value for reward in judge(task, asked, [one.show for one in shown])]
        assert 0.4 < sum(rewards) / len(rewards) < 0.8  # the others have a sign mistaken
        assert all(len(one.show.split(";")) == len(re.findall(r"\d+", one.ask)) - 1 for one in shown)


def eval_sum(text: str) -> int:
    return sum(map(int, re.findall(r"[+-]?\d+", text)))


def test_sums_are_graded_by_their_last_total() -> None:
    task = sums.Sums(train_size=60, test_size=12)
    assert {prompt.features["terms"] for prompt in task.prompts("train")} == {3, 4, 5, 6, 7, 8}
    assert not {prompt.id for prompt in task.prompts("test")} & {prompt.id for prompt in task.prompts("train")}
    for prompt in task.prompts("test"):
        numbers = list(map(int, re.findall(r"[+-]?\d+", prompt.text)))
        right = ";".join(map(str, sums.totals(numbers)))
        assert sum(numbers) == int(str(prompt.answer))
        assert task.reward(prompt, right).value == 1
        for wrong in (prompt.text, f"{right};", f"{right}1", "", f"{right}+0", "1" * 10_000):
            assert task.reward(prompt, wrong).value == 0
    with pytest.raises(ValueError, match="terms"):
        sums.Sums(terms=(1, 2))


def test_goals_lie_as_far_away_as_wanted() -> None:
    rng = random.Random(3)
    for moves in (1, 2, 3, 5):
        start = random_state(rng, 4)
        goals = script.at_distance(start, moves)
        assert len(set(goals)) == len(goals)
        assert all(len(plan(start, goal)) == moves for goal in goals)


def test_difficulties_have_their_weights() -> None:
    rng = random.Random(0)
    counts = Counter(script.difficulty(rng, 3) for _ in range(4000))
    assert counts[1] / counts[2] == pytest.approx(1 / script.DECAY, rel=0.15)
    assert counts[2] / counts[3] == pytest.approx(1 / script.DECAY, rel=0.25)
    assert set(counts) == {1, 2, 3}
