from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dps_pyro.rollouts.seeds import seed_for
from dps_pyro.trainers.step.bookkeeping import Clock, DrySpell, Ledger, Means, Reasons


def test_every_purpose_has_its_seed() -> None:
    purposes = [("rollout", step, part) for step in range(50) for part in range(0, 128, 32)]
    seeds = {seed_for(seed, *purpose) for seed in range(5) for purpose in purposes}
    assert len(seeds) == 5 * len(purposes)
    assert seed_for(0, "rollout", 1, 23) != seed_for(0, "rollout", 12, 3)
    assert seed_for(7, "evaluate") == seed_for(7, "evaluate")
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_the_clock_adds_up_the_parts_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([0.0, 1.0, 5.0, 7.0, 7.0, 8.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(told))
    clock = Clock()
    for _ in range(2):
        with clock("rollout"):
            pass
    with pytest.raises(RuntimeError), clock("update"):
        raise RuntimeError
    assert clock.seconds == {"seconds/rollout": 3.0, "seconds/update": 1.0}
    assert clock.share("rollout", "update", "never timed") == pytest.approx(1)
    assert clock.share("rollout") == pytest.approx(0.75)
    assert Clock().share("rollout") == 0


def test_shares_add_up_within_an_optimizer_step_and_average_over_steps() -> None:
    means = Means("loss", "grad_norm")
    for step in ([1.0, 2.0], [5.0]):
        for share in step:
            means.add({"loss": torch.tensor(share)})
        means.add({"grad_norm": 10.0})
        means.close()
    assert means.values() == {"loss": 4.0, "grad_norm": 10.0}


def test_without_an_optimizer_step_there_are_no_means() -> None:
    assert Means("loss", "kl").values() == {"loss": None, "kl": None}


def test_saved_is_what_dynamic_sampling_would_have_spent_more() -> None:
    ledger = Ledger(4)
    mixed, wrong, right = [1.0, 0.0, 0.0, 1.0], [0.0] * 4, [1.0] * 4
    ledger.book(torch.tensor([mixed, mixed, wrong]), pool=0.25)
    # Two useful groups where a quarter are useful: 8 groups of 4, 32 rollouts; 12 were spent.
    assert ledger.metrics() == {
        "rollouts": 12,
        "reward": pytest.approx(1 / 3),
        "useful": pytest.approx(2 / 3),
        "saved": 20,
    }
    ledger.book(torch.tensor([mixed, right, right]), pool=0.5)
    assert ledger.metrics() == {
        "rollouts": 24,
        "reward": pytest.approx(5 / 6),
        "useful": pytest.approx(1 / 3),
        "saved": 16,
    }
    assert ledger.step == 2


def test_a_tracker_that_expects_nothing_useful_is_no_division_by_zero() -> None:
    ledger = Ledger(2)
    ledger.book(torch.tensor([[0.0, 1.0]]), pool=0.0)
    assert ledger.metrics()["saved"] == 1998  # at most a thousand times the rollouts


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.floats(0, 1)), min_size=1, max_size=6)
)
def test_a_loaded_ledger_goes_on_like_the_saved_one(steps: list[tuple[list[int], float]]) -> None:
    """Each step: how many of 4 solved, a group, and the pool's useful share."""
    straight, first = Ledger(4), Ledger(4)
    for at, (groups, pool) in enumerate(steps):
        rewards = (torch.arange(4) < torch.tensor(groups)[:, None]).float()
        straight.book(rewards, pool)
        if at == len(steps) // 2:
            resumed = Ledger(4)
            resumed.load_state_dict(first.state_dict())
            first = resumed
        first.book(rewards, pool)
    assert first.metrics() == straight.metrics()
    assert first.state_dict() == straight.state_dict()


def test_reasons_are_counted() -> None:
    shares = Reasons().shares(["wrong value", "correct", "wrong value", "not an expression"])
    assert shares == {"reason/correct": 0.25, "reason/not_an_expression": 0.25, "reason/wrong_value": 0.5}
    assert list(shares) == sorted(shares)


def test_reasons_of_their_own_each_are_few_metrics() -> None:
    """And the same few in a run that is continued."""
    straight, lines = Reasons(), []
    words = ["".join(chr(97 + int(digit)) for digit in str(number)) for number in range(1000)]
    for start in range(0, 600, 60):
        lines.append(straight.shares([f"got {word}" for word in words[start : start + 60]]))
        assert sum(lines[-1].values()) == pytest.approx(1)
    assert len({name for line in lines for name in line}) == Reasons.MOST + 1
    assert lines[3] == {"reason/other": pytest.approx(1)}
    resumed = Reasons(lines[:5])
    assert resumed.shares([f"got {word}" for word in words[0:90]]) == straight.shares(
        [f"got {word}" for word in words[0:90]]
    )


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        ("got 17, not 23.5", "reason/got_N_not_N"),
        ("half a pair \ud800", "reason/half_a_pair"),
        ("[bold]x[/bold]", "reason/bold_x_/bold"),
        ("x" * 1000, "reason/" + "x" * 60),
        ("", "reason/none"),
        ("\n\t", "reason/none"),
        ("größer", "reason/größer"),
    ],
)
def test_the_name_of_a_reason_s_metric(reason: str, name: str) -> None:
    assert Reasons().shares([reason]) == {name: 1.0}


def test_a_dry_spell_is_told_once_with_what_to_look_at() -> None:
    spell = DrySpell(patience=3)
    dry = {"useful": 0.0, "truncated": 0.5, "reason/unclosed_answer": 0.75, "reason/wrong_value": 0.25}
    good = {"useful": 0.5, "truncated": 0.0, "reason/correct": 1.0}
    for line in (dry, dry, good, dry, dry):
        assert spell.warning(line) is None
    told = spell.warning({**dry, "reason/unclosed_answer": 0.0, "reason/wrong_value": 1.0})
    assert told is not None
    assert "in the last 3 steps no group was useful" in told
    assert "unclosed answer 50%, wrong value 50%; 50% of the completions were cut off at --max-new-tokens" in told
    assert [spell.warning(line) for line in (dry, good, dry, dry, dry, dry)] == [None] * 6
