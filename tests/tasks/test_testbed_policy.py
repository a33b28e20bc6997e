"""The script that warm-starts a testbed: demonstrations mostly right and easy, none of the testbed's own prompts."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import sympy

from benchmarks.learning.testbeds.formulas import LETTERS
from dps_pyro.tasks import judge
from dps_pyro.tasks.planning.blocks import plan, random_state
from scripts import make_testbed_policy as script
from scripts.make_task_policy import make_tokenizer


def solves(question: str, answer: str) -> bool:
    """Whether a formula holds with the answer in place of x, tried on numbers as floats."""
    left, right = question.replace("x", f"({answer})").split("=")
    values = dict(zip(LETTERS, (3.1, 7.3, 1.7, 9.2, 2.3, 5.9, 8.1, 4.7, 6.1, 1.3), strict=True))

    def value(text: str) -> float:
        found: float = sympy.sympify(text, locals={name: sympy.Symbol(name) for name in LETTERS}).evalf(subs=values)
        return found

    return bool(abs(value(left) - value(right)) < 1e-6 * max(1.0, abs(value(right))))


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
        assert len(ids) <= bed.positions
        assert tokenizer.decode(ids[:asked], skip_special_tokens=True) not in own
    shown = [spec.example(random.Random(seed), task) for seed in range(60)]
    if name == "planning":
        parts = [tuple(tuple(side.split("/")) for side in one.id.removeprefix("blocks:").split(">")) for one in shown]
        prompts = [task.prompt(*states) for states in parts]  # type: ignore[attr-defined]
        assert all(reward.value == 1 for reward in judge(task, prompts, [one.show for one in shown]))
    if name == "formulas":
        right = [solves(one.ask.removesuffix(":"), one.show) for one in shown]
        assert 0.6 < sum(right) / len(right) < 0.95


def test_goals_lie_as_far_away_as_wanted() -> None:
    rng = random.Random(3)
    for moves in (1, 2, 3, 5):
        start = random_state(rng, 4)
        goals = script.at_distance(start, moves)
        assert len(set(goals)) == len(goals)
        assert all(len(plan(start, goal)) == moves for goal in goals)


def test_difficulties_have_their_weights() -> None:
    rng, bed = random.Random(0), script.TESTBEDS["planning"]._replace(most=3)
    counts = Counter(bed.difficulty(rng) for _ in range(4000))
    assert counts[1] / counts[2] == pytest.approx(1 / bed.decay, rel=0.15)
    assert counts[2] / counts[3] == pytest.approx(1 / bed.decay, rel=0.25)
    assert set(counts) == {1, 2, 3}
