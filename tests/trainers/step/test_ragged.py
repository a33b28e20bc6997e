"""Groups of different sizes, groups drawn in two parts, and the belief's baseline, in real training runs."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from helpers.runs.tiny import metrics, tiny

from dps_pyro.history.log import RolloutHistory
from dps_pyro.rollouts.transformers import TransformersEngine
from dps_pyro.tasks import Prompt
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.parts import make_task
from dps_pyro.trainers.policy.load import load_policy
from dps_pyro.trainers.step.bookkeeping import Clock
from dps_pyro.trainers.step.groups import Groups, Source, go_on, judged, merged, roll_out
from dps_pyro.trainers.step.policy_update import advantages_of, update, update_batch

TWO = {"train_size": 32, "test_size": 8, "operands": {2: 1.0}}


def test_each_prompt_gets_a_size_of_its_own_under_a_total(tmp_path: Path) -> None:
    config = tiny(
        tmp_path / "run", group_sizes=(2, 3, 8), steps=4, dynamics="LogitWalk", task_args=TWO | {"train_size": 6}
    )
    train(config)
    lines = [line for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    assert [line["rollouts"] for line in lines] == [16, 32, 48, 64]
    events = RolloutHistory.from_parquet(tmp_path / "run/history.parquet").events
    totals = torch.zeros(4, dtype=torch.long).index_add(0, events.step, events.trials)
    assert totals.tolist() == [16] * 4
    assert len(events.trials.unique()) > 1


def test_the_second_part_spends_no_more_than_the_rest(tmp_path: Path) -> None:
    config = tiny(tmp_path / "run", first_rollouts=2, steps=4, group_size=8, dynamics="LogitWalk", task_args=TWO)
    train(config)
    lines = [line for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    totals = [0, *(line["rollouts"] for line in lines)]
    spent = [after - before for before, after in itertools.pairwise(totals)]
    assert all(16 <= one <= 32 for one in spent)  # half of 4 * 8 first: 8 prompts with 2 each
    events = RolloutHistory.from_parquet(tmp_path / "run/history.parquet").events
    assert (events.step.bincount() == 8).all()
    assert int(events.trials.sum()) == lines[-1]["rollouts"]
    assert events.trials.min() == 2
    assert events.trials.max() > 2


@pytest.mark.parametrize("scale", ["auto", "none", "centred", "group", "batch"])
def test_the_beliefs_baseline_trains_groups_of_one(tmp_path: Path, scale: str) -> None:
    """Groups of one have no signal over themselves; over what was expected of them they all have."""
    config = tiny(tmp_path / "run", group_size=1, batch_size=8, baseline_scale=scale, steps=2, loss="dr_grpo")
    assert config.by_belief  # "auto", the default: there is no company to compare with
    train(config)
    lines = [line for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    assert [line["rollouts"] for line in lines] == [8, 16]
    trained = RolloutHistory.from_parquet(tmp_path / "run/history.parquet").events.trained.view(2, 8)
    # Over the batch's own mean a step has a signal only where its rollouts differ.
    several = trained.any(1) if scale in ("auto", "centred", "batch") else torch.tensor([True, True])
    assert trained.all(1).tolist() == several.tolist()
    assert [line["loss"] is not None for line in lines] == several.tolist()


def test_the_baseline_is_what_was_believed_before_the_step(tmp_path: Path) -> None:
    """The run's first step: advantages logged beside the completions are those over the prior."""
    import pandas

    from dps_pyro import PromptSampler
    from dps_pyro.models import BetaBernoulli

    config = tiny(
        tmp_path / "run", baseline="belief", loss="rloo", dynamics="BetaBernoulli", log_completions=1, task_args=TWO
    )
    train(config)
    table = pandas.read_parquet(tmp_path / "run/completions")
    sampler = PromptSampler(BetaBernoulli(), 1)
    for _, group in table.groupby("prompt_id"):
        rewards = torch.tensor(group.reward.to_numpy(), dtype=torch.float64)[None]
        expected = (rewards - sampler.baseline([0], rewards))[0]
        assert group.advantage.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_an_interrupted_ragged_run_goes_on_as_it_would_have(tmp_path: Path) -> None:
    shared = {"group_sizes": (2, 4), "baseline": "belief", "async_rollouts": True, "checkpoint_every": 2}
    train(tiny(tmp_path / "whole", steps=4, **shared))
    train(tiny(tmp_path / "parts", steps=2, **shared))
    train(tiny(tmp_path / "parts", steps=4, resume=True, **shared))
    whole, parts = (metrics(tmp_path / name) for name in ("whole", "parts"))
    last = [next(line for line in reversed(lines) if line["kind"] == "train") for lines in (whole, parts)]
    assert last[0]["step"] == 3
    # A run that ends at step 2 draws nothing ahead for step 3, so that only what was chosen is compared.
    assert last[0]["rollouts"] == last[1]["rollouts"] == 64


@pytest.fixture(scope="module")
def judged_parts() -> tuple[Groups, Groups, list[Prompt]]:
    config = tiny(Path(), batch_size=4, group_size=2, task_args=TWO)
    policy, tokenizer = load_policy(config)
    task = make_task(config, tokenizer)
    prompts = [task.prompts("train")[row] for row in range(4)]
    source = Source(TransformersEngine(policy, tokenizer), tokenizer, task, config)
    first = roll_out(source, prompts, 0, Clock(), sizes=torch.tensor([2, 1, 2, 3]))
    whole = go_on(source, first, torch.tensor([0, 3, 1, 0]), prompts, 0, Clock())
    return first, whole, prompts


def test_parts_are_joined_group_by_group(judged_parts: tuple[Groups, Groups, list[Prompt]]) -> None:
    first, whole, prompts = judged_parts
    assert first.sizes.tolist() == [2, 1, 2, 3]
    assert whole.sizes.tolist() == [2, 4, 3, 3]
    starts = {row: sum(whole.sizes[:row].tolist()) for row in range(4)}
    before = {row: sum(first.sizes[:row].tolist()) for row in range(4)}
    for row in range(4):
        size = int(first.sizes[row])
        kept = whole.rollouts.texts[starts[row] : starts[row] + size]
        assert kept == first.rollouts.texts[before[row] : before[row] + size]
    # Each completion stands behind its own prompt, and is judged for it.
    config = tiny(Path(), task_args=TWO)
    source = Source(None, None, make_task(config), config)  # type: ignore[arg-type] - nothing is drawn
    again = judged(source, prompts, whole.rollouts, Clock(), whole.sizes)
    torch.testing.assert_close(again.rewards, whole.rewards, equal_nan=True)
    assert again.reasons == whole.reasons


def test_ragged_groups_are_learned_from_as_they_would_be_alone(
    judged_parts: tuple[Groups, Groups, list[Prompt]],
) -> None:
    _, whole, _ = judged_parts
    rewards = whole.rewards.clone()
    rewards[whole.there] = torch.tensor([1.0, 0.0] * 6)  # as if every other one had been right
    groups = whole._replace(rewards=rewards)
    config = tiny(Path(), group_sizes=(2, 3, 4), batch_size=2, loss="dapo")
    assert update_batch(groups, config, 0).groups.all()  # more than batch_size of them: no batch is filled here
    values = advantages_of(groups, config)
    assert (values[~groups.there] == 0).all()
    policy, _ = load_policy(config)
    learned = update(policy, None, torch.optim.SGD(policy.parameters(), lr=0.1), groups, config, seed=0)
    assert learned["grad_norm"] > 0
    # Groups that add nothing change nothing.
    more = merged(
        groups,
        groups._replace(rewards=groups.rewards[:0], reasons=[], rollouts=groups.rollouts.select(torch.arange(0))),
        torch.arange(0),
    )
    torch.testing.assert_close(more.rewards, groups.rewards, equal_nan=True)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"group_size": 1, "baseline": "group"}, "group_size: expected 2 or more, got 1"),
        ({"group_sizes": (1, 4), "baseline": "group"}, "group_sizes: expected 2 or more, got 1"),
        ({"group_sizes": (2, 4), "dynamic_sampling": 2}, "dynamic_sampling"),
        ({"first_rollouts": 2, "group_sizes": (2, 4)}, "first_rollouts"),
        ({"first_rollouts": 9}, "first_rollouts: expected at most half"),
        ({"group_sizes": (32,)}, "group_sizes: expected one within"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        tiny(Path(), **settings)
