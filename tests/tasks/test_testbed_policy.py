"""The script that warm-starts a testbed: right demonstrations, mostly easy, none of the testbed's own prompts."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from dps_pyro.tasks import judge
from dps_pyro.tasks.planning.blocks import plan, random_state
from scripts import make_testbed_policy as script
from scripts.make_task_policy import SPECS, make_tokenizer


@pytest.mark.parametrize("name", list(script.TESTBEDS))
def test_demonstrations_are_right_mostly_easy_and_fit(name: str) -> None:
    bed = script.TESTBEDS[name]
    task, spec = bed.make(), SPECS[bed.spec]
    own = {prompt.text.replace(" ", "") for split in ("train", "test") for prompt in task.prompts(split)}
    tokenizer = make_tokenizer(spec.symbols)
    rows = script.demonstrations(name, tokenizer, task, 1)
    for _ in range(15):
        ids, asked = next(rows)
        assert tokenizer.unk_token_id not in ids
        assert len(ids) - asked <= spec.max_new_tokens
        assert tokenizer.decode(ids[:asked], skip_special_tokens=True) not in own
    shown = [script._EXAMPLES[name](random.Random(seed), task, bed.most) for seed in range(15)]
    if name == "planning":
        parts = [tuple(tuple(side.split("/")) for side in one.id.removeprefix("blocks:").split(">")) for one in shown]
        prompts = [task.prompt(*states) for states in parts]  # type: ignore[attr-defined]
        assert all(reward.value == 1 for reward in judge(task, prompts, [one.show for one in shown]))


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
