"""What the verl integration is made of, without verl: counting trajectories, naming rows, settings, the selector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dps_pyro import PromptSampler
from dps_pyro.models import SolvingProgress
from dps_pyro.trainers.verl.groups import Count, Rule, Trajectory, count
from dps_pyro.trainers.verl.rows import Rows, features
from dps_pyro.trainers.verl.selector import Selector
from dps_pyro.trainers.verl.settings import Settings
from dps_pyro.trainers.verl.versions import route


def rollout(
    uid: str, session: int, reward: float, index: int = 0, version: int | None = None, **extra: Any
) -> Trajectory:
    return Trajectory(uid, session, index, reward, extra, version)


def test_counts_rollouts_by_group_and_takes_the_last_output_of_each() -> None:
    found = count(
        [rollout("a", 0, 1.0), rollout("b", 0, 0.1), rollout("a", 1, 0.0, 0), rollout("a", 1, 1.0, 1)], Rule()
    )
    assert found == {"a": Count(2, 2, None), "b": Count(0, 1, None)}
    assert list(found) == ["a", "b"]


def test_the_newest_policy_that_finished_a_rollout_is_the_groups() -> None:
    assert count([rollout("a", 0, 1.0, version=3), rollout("a", 1, 1.0, version=5)], Rule())["a"].version == 5


@pytest.mark.parametrize(
    ("reward", "extra", "rule", "solved"),
    [
        (-1.0, {"acc": True}, Rule(), 1),  # a shaped reward; the grader's own word counts
        (1.0, {}, Rule(), 1),
        (-1.0, {}, Rule(), 0),
        (0.1, {}, Rule(), 0),  # for the format
        (1.0, {"acc": 0.0}, Rule("reward"), 1),
        (0.0, {"score": 0.9}, Rule("score", 0.8), 1),
        (0.5, {}, Rule("reward", 0.5), 1),
    ],
)
def test_what_solved_means(reward: float, extra: dict[str, Any], rule: Rule, solved: int) -> None:
    assert count([rollout("a", 0, reward, **extra)], rule)["a"].solved == solved


def test_a_metric_that_is_not_there_or_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="metric: expected one of reward, acc, got 'score'"):
        count([rollout("a", 0, 1.0, acc=True)], Rule("score"))
    with pytest.raises(ValueError, match="expected a number as the auto of a rollout, got nan"):
        count([rollout("a", 0, float("nan"))], Rule())


def table(*infos: dict[str, Any] | None, source: str = "gsm8k") -> list[dict[str, Any]]:
    return [{"data_source": source, "reward_model": {"ground_truth": "7"}, "extra_info": info} for info in infos]


def test_rows_are_named_by_what_tells_them_apart() -> None:
    assert Rows(table({"index": 4}, {"index": 2})).ids == ["4", "2"]
    two = [*table({"index": 0}), *table({"index": 0}, source="math")]
    assert Rows(two).ids == ["gsm8k/0", "math/0"]
    digests = Rows(table({"name": "x"}, {"name": "y"}))
    assert len(set(digests.ids)) == 2 and digests.alike is None
    # What a reward manager wrote into extra_info changes no name.
    assert digests.row_of(table({"name": "y", "num_turns": 2})[0]) == 1
    with pytest.raises(ValueError, match="expected rollouts of the dataset's prompts"):
        digests.row_of(table({"name": "z"})[0])


def test_rows_that_are_alike_have_numbers_and_are_refused_where_verl_must_tell_them_apart() -> None:
    rows = Rows(table(None, {"index": None}, None))
    assert rows.ids == ["0", "1", "2"]
    with pytest.raises(ValueError, match=r"rows 0 and 2 are alike; give each its own extra_info.index"):
        rows.require_distinct()


def test_features_are_columns_or_entries_of_extra_info() -> None:
    rows = table({"index": 0, "level": 3}, {"index": 1, "level": 5})
    assert features(rows, ["level", "data_source"]) == {"level": [3.0, 5.0], "data_source": ["gsm8k", "gsm8k"]}
    with pytest.raises(ValueError, match=r"expected a number or a string in every row.*got None as 'subject' in row 0"):
        features(rows, ["subject"])


def test_settings_take_from_verls_configuration_what_is_left_out() -> None:
    made = Settings.of({"seed": 7}, 16)
    assert (made.seed, made.trials, made.rule) == (7, 16, Rule("auto", 0.5))
    own = Settings.of({"seed": None, "dps_pyro": {"seed": 3, "trials": 4, "dynamics": "LogitWalk", "threshold": 1}}, 16)
    assert (own.seed, own.trials, own.threshold, own.dynamics) == (3, 4, 1.0, "LogitWalk")
    assert Settings.of({}, 8).seed == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sharpnes": 2}, "expected settings among dynamics, .*; got sharpnes .nearest: sharpness"),
        ({"sharpness": "much"}, "data.dps_pyro.sharpness: expected a finite number, got 'much'"),
        ({"trials": 0}, "data.dps_pyro.trials: expected 1 or more, got 0"),
        ({"refit_every": -1}, "data.dps_pyro.refit_every"),
        ("SolvingProgress", "data.dps_pyro: expected settings"),
    ],
)
def test_wrong_settings_say_what_was_expected(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings.of({"dps_pyro": given}, 8)


def test_settings_make_the_sampler() -> None:
    rows = table(*({"index": i, "level": i % 3} for i in range(12)))
    settings = Settings.of({"dps_pyro": {
        "dynamics": "Hierarchical", "features": ["level"], "dynamics_args": {"groups": "level"}, "acquisition": "top",
    }}, 4)  # fmt: skip
    sampler = settings.sampler(rows, Rows(rows))
    assert sampler.ids == [str(i) for i in range(12)] and sampler.trials == 4
    assert sampler.history.features == {"level": [float(i % 3) for i in range(12)]}
    with pytest.raises(ValueError, match=r"dynamics: expected one of .*got 'Nobody'"):
        Settings.of({"dps_pyro": {"dynamics": "Nobody"}}, 4).sampler(rows, Rows(rows))


def selector(seed: int = 0, prompts: int = 20, batch_size: int = 4) -> Selector:
    return Selector(PromptSampler(SolvingProgress(), prompts, trials=4, seed=seed), batch_size)


def hand_out(chosen: Selector, uids: str) -> list[int]:
    rows = [chosen.hand_out() for _ in uids]
    chosen.dispatch(list(uids))
    return rows


def test_the_selector_does_what_the_bare_verbs_do() -> None:
    chosen, bare = selector(), PromptSampler(SolvingProgress(), 20, trials=4)
    for step, uids in enumerate(("abcd", "efgh", "ijkl")):
        rows = hand_out(chosen, uids)
        expected = bare.select(4)
        assert rows == expected.tolist()
        solved = [(row + step) % 5 for row in rows]
        # As verl balances its batch: in another order.
        chosen.observe({u: Count(s, 4, step) for u, s in reversed(list(zip(uids, solved, strict=True)))}, step)
        bare.observe(expected, solved, 4)
    assert torch.equal(chosen.sampler.belief, bare.belief)


def test_prompts_in_flight_are_not_selected_again_as_long_as_there_are_others() -> None:
    chosen = selector()
    seen = [row for uids in ("abcd", "efgh", "ijkl", "mnop", "qrst") for row in hand_out(chosen, uids)]
    assert sorted(seen) == list(range(20))
    again = hand_out(chosen, "uvwx")
    assert len(set(again)) == 4  # all are in flight


def test_late_groups_are_placed_at_the_policy_that_made_them() -> None:
    chosen, bare = selector(), PromptSampler(SolvingProgress(), 20, trials=4)
    first, second = hand_out(chosen, "abcd"), hand_out(chosen, "efgh")
    chosen.observe({u: Count(1, 4, 0) for u in "abcd"}, 0)
    chosen.observe({u: Count(3, 4, 0) for u in "efgh"}, 1)
    bare.observe(first, [1] * 4, 4)
    bare.observe([], [], [], step=1)
    bare.observe(second, [3] * 4, 4, step=0)
    assert chosen.sampler.tracker.step == 2
    assert torch.allclose(chosen.sampler.belief, bare.belief)
    assert chosen.metrics()["dps_pyro/useful"] == 1.0


def test_one_prompt_in_two_groups_of_a_step_is_one_larger_group() -> None:
    chosen = selector(prompts=4)
    hand_out(chosen, "abcd")
    hand_out(chosen, "efgh")
    chosen.observe({u: Count(1, 4, None) for u in "abcdefgh"}, 0, evicted=set("abcdefg"))
    events = chosen.sampler.history.events
    assert events.trials.tolist() == [8] * 4 and events.solved.tolist() == [2.0] * 4
    assert events.trained.sum() == 1


def test_groups_dispatched_before_the_sampler_was_there_are_counted_and_left_out() -> None:
    chosen = selector()
    chosen.observe({"stranger": Count(1, 4, 0)}, 0)
    assert chosen.metrics()["dps_pyro/unknown"] == 1.0 and chosen.metrics()["dps_pyro/groups"] == 0.0
    assert chosen.sampler.tracker.step == 1


def test_a_saved_selector_goes_on_exactly(tmp_path: Path) -> None:
    chosen, other = selector(), selector(seed=9)
    hand_out(chosen, "abcd")
    chosen.observe({u: Count(2, 4, 0) for u in "abcd"}, 0)
    hand_out(chosen, "ef")
    chosen.save(tmp_path / "kept", {"token": "t"})
    assert not other.load(tmp_path / "kept", {"token": "another's"})
    assert other.load(tmp_path / "kept", {"token": "t"})
    assert hand_out(other, "ghij") == hand_out(chosen, "ghij")
    for one in (chosen, other):
        one.observe({u: Count(1, 4, 1) for u in "efghij"}, 1)
        one.keep_in_flight(())
    assert torch.equal(chosen.sampler.belief, other.sampler.belief)
    assert chosen.metrics() == other.metrics()
    with pytest.raises(ValueError, match="expected a verl selector's"):
        other.load_state_dict({})


def test_more_prompts_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="train_batch_size: expected at most 20"):
        selector(batch_size=21)
    with pytest.raises(ValueError, match="train_batch_size: expected at most 20"):
        selector().plan(21)
    with pytest.raises(ValueError, match="uids: expected one for each of 0 rows"):
        selector().dispatch(["a"])


@pytest.mark.parametrize(
    ("version", "door"),
    [
        ("0.5.0", "sampler"),
        ("0.7.1", "sampler"),
        ("0.7.0.post1", "sampler"),
        ("0.9.0", "trainer"),
        ("0.9.1", "trainer"),
    ],
)
def test_each_supported_verl_has_its_door(version: str, door: str) -> None:
    assert route(version) == door


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("0.4.1", "differ from those"),
        ("0.8.0", "has lost data.sampler.class_path"),
        ("0.10.0", "differ"),
        ("1.0", "differ"),
    ],
)
def test_another_verl_says_which_are_supported(version: str, why: str) -> None:
    with pytest.raises(ImportError, match=f"expected verl 0.5 to 0.7, and 0.9, got {version}: .*{why}"):
        route(version)
