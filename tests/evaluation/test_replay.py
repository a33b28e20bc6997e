"""A replay shows a sampler what it may know, no more, and scores it on everything."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers.oracle import OwnLadder, binomial, own_brute_force, own_values
from helpers.replays import QUIET, full
from helpers.samplers import MODEL

from dps_pyro import Posterior, PromptSampler, RolloutHistory
from dps_pyro.evaluation.replays import Replay, replay
from dps_pyro.evaluation.simulation import simulate
from dps_pyro.models import LogitWalk, PaperDPS, SolvingProgress
from dps_pyro.storage import strict_json


def recorded(num_prompts: int = 12, num_steps: int = 6) -> RolloutHistory:
    """A full log with batches of two that the run chose, of which it was trained on the first."""
    log, rng = RolloutHistory(num_prompts), np.random.default_rng(1)
    for step in range(num_steps):
        rows = torch.tensor(rng.permutation(num_prompts))
        chance = torch.full([num_prompts], math.nan)
        chance[:2] = 0.5
        learned = torch.arange(num_prompts) == 0
        solved = torch.tensor(rng.integers(0, 5, num_prompts))
        log.append(rows, step=step, solved=solved, trials=4, predicted=chance, trained=learned, progress=0.1 * step)
    return log


def made(chance: Any, useful: Any, chosen: Any, trials: int = 8) -> Replay:
    useful = torch.tensor(useful, dtype=torch.bool)
    return Replay(
        torch.tensor(chance, dtype=torch.float64), useful, torch.tensor(chosen, dtype=torch.bool),
        torch.full(useful.shape, trials),
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------- what is played


def test_predictions_are_those_of_what_was_shown() -> None:
    num_prompts, num_steps, trials = 5, 4, 4
    values = own_values(num_prompts, 3)
    log = full(num_prompts, num_steps, trials)
    posterior = Posterior(draws={}, point=values, losses=torch.zeros(0), converged=True)
    sampler = PromptSampler(OwnLadder(3), num_prompts, posterior=posterior, dtype=torch.float64)
    result = replay(log, sampler, selection="uniform", batch_size=2, **QUIET)
    outcomes = log.dense()
    shown = torch.where(result.chosen.mT, outcomes.trials, 0)
    assert outcomes.solved is not None
    _, beliefs = own_brute_force(values, outcomes.solved * (shown > 0), shown)
    rates = values["own.rates"].double().numpy()
    for row, step in itertools.product(range(num_prompts), range(num_steps)):
        useless = binomial(0, trials, rates[row]) + binomial(trials, trials, rates[row])
        assert float(result.chance[step, row]) == pytest.approx(float(beliefs[row, step] @ (1 - useless)), abs=1e-5)
    assert result.chosen.sum(1).tolist() == [2] * num_steps
    assert torch.equal(result.useful.mT, (outcomes.solved > 0) & (outcomes.solved < trials))


@MODEL
@pytest.mark.parametrize("selection", ["own", "uniform"])
def test_nothing_is_known_of_what_was_not_shown(make: Any, selection: Any) -> None:
    log = full(20, 8)
    first = replay(log, PromptSampler(make(), 20, seed=3), selection=selection, batch_size=4, **QUIET)
    solved, shown = log.dense().solved, first.chosen.mT
    other = RolloutHistory.from_dense(torch.where(shown, solved, 4 - solved), 4)
    second = replay(other, PromptSampler(make(), 20, seed=3), selection=selection, batch_size=4, **QUIET)
    assert torch.equal(first.chance, second.chance)
    assert torch.equal(first.chosen, second.chosen)
    # Nor of the step itself before it is predicted.
    later = solved.clone()
    later[:, 5:] = (later[:, 5:] + 2) % 5
    third = replay(
        RolloutHistory.from_dense(later, 4),
        PromptSampler(make(), 20, seed=3),
        selection=selection,
        batch_size=4,
        **QUIET,
    )
    assert torch.equal(first.chance[:6], third.chance[:6])
    assert not torch.equal(first.chance[6:], third.chance[6:])


def test_own_selections_are_those_of_a_loop_by_hand() -> None:
    log = full(30, 7)
    solved = log.dense().solved
    assert solved is not None
    result = replay(log, PromptSampler(LogitWalk(), 30, acquisition="thompson", seed=5), batch_size=6, **QUIET)
    by_hand = PromptSampler(LogitWalk(), 30, acquisition="thompson", seed=5)
    for step in range(7):
        assert torch.allclose(by_hand.informative(4).double(), result.chance[step])
        rows = by_hand.select(6)
        assert rows.sort().values.tolist() == result.chosen[step].nonzero().squeeze(-1).tolist()
        by_hand.observe(rows, solved[rows, step], 4)


def test_uniform_batches_are_the_same_for_everybody() -> None:
    log = full(30, 7)
    one, two, other = (
        replay(log, PromptSampler(make(), 30, seed=own), selection="uniform", batch_size=5, seed=seed, **QUIET).chosen
        for make, own, seed in ((SolvingProgress, 0, 0), (PaperDPS, 9, 0), (SolvingProgress, 0, 1))
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.sum(1).tolist() == [5] * 7


def test_recorded_batches_come_with_what_the_run_knew() -> None:
    log = recorded()
    sampler = PromptSampler(SolvingProgress(), 12)
    result = replay(log, sampler, selection="recorded", **QUIET)
    picked = log.where(~log.events.predicted.isnan())
    assert torch.equal(result.chosen.mT, picked.dense().trials > 0)
    told, events = sampler.history.events, picked.events
    for name in ("prompt", "step", "solved", "trials", "trained", "progress"):
        assert torch.equal(getattr(told, name), getattr(events, name)), name
    assert 0 < int(told.trained.sum()) < len(told.trained)


def test_groups_of_several_sizes_are_predicted_at_their_own() -> None:
    trials = torch.tensor([[2, 8], [8, 2], [1, 16]])
    log = RolloutHistory.from_dense(torch.ones(3, 2), trials)
    result = replay(log, PromptSampler(SolvingProgress(), 3), batch_size=1, **QUIET)
    before = PromptSampler(SolvingProgress(), 3)
    assert result.chance[0].tolist() == pytest.approx([float(before.informative(n)[0]) for n in (2, 8, 1)])
    assert result.chance[0, 2] == 0  # of one rollout no group is useful
    assert result.useful.tolist() == [[True, True, False], [True, True, True]]
    assert result.trials.tolist() == trials.mT.tolist()


def test_partial_rewards_are_useful_as_far_as_their_sum_tells() -> None:
    log = RolloutHistory.from_dense(torch.tensor([[0.05], [0.2], [2.0], [3.95]]), 4)
    result = replay(log, PromptSampler(SolvingProgress(), 4), batch_size=1, tolerance=0.1, **QUIET)
    assert result.useful.tolist() == [[False, True, True, False]]


# --------------------------------------------------------------------------------------------------------- the numbers


def test_unvisited_are_those_never_shown_before() -> None:
    chosen = [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    result = made(torch.full([3, 3], 0.5).tolist(), [[0] * 3] * 3, chosen)
    assert result.unvisited.tolist() == [[True, True, True], [False, True, True], [False, False, True]]
    assert result.summary()["unvisited"]["size"] == 6
    assert result.summary()["visited"] == 1


def test_useful_of_the_top_is_what_a_fair_choice_among_ties_expects() -> None:
    chance = [[0.9, 0.5, 0.5, 0.5, 0.1], [0.2, 0.2, 0.2, 0.2, 0.2]]
    useful = [[0, 1, 1, 0, 1], [1, 0, 0, 0, 1]]
    result = made(chance, useful, [[1, 1, 0, 0, 0], [1, 0, 1, 1, 0]])
    top = []
    for p, u, size in zip(chance, useful, (2, 3), strict=True):
        # All choices of the best that respect the order, each alike.
        sets = list(itertools.combinations(range(5), size))
        most = max(sum(p[i] for i in one) for one in sets)
        fair = [sum(u[i] for i in one) / size for one in sets if sum(p[i] for i in one) > most - 1e-9]
        top.append(sum(fair) / len(fair))
    assert result.useful_top.tolist() == pytest.approx(top)
    assert result.useful_chosen.tolist() == pytest.approx([1 / 2, 1 / 3])


def test_rollouts_to_a_number_of_useful_groups() -> None:
    result = made(
        torch.full([3, 4], 0.5).tolist(),
        [[1, 0, 0, 0], [1, 1, 0, 1], [0, 0, 1, 1]],
        [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]],
    )
    assert [result.rollouts_to(count) for count in (1, 2, 3, 4, 5)] == [16, 32, 48, 48, None]
    summary = result.summary()
    assert (summary["target"], summary["rollouts_to_target"], summary["rollouts"]) == (1, 16, 48)
    assert result.summary(target=3)["rollouts_to_target"] == 48


def test_parts_of_the_log_are_scored_apart() -> None:
    chance = torch.linspace(0.1, 0.9, 70, dtype=torch.float64).reshape(7, 10)
    useful = torch.rand(7, 10) < 0.5
    result = Replay(chance, useful, torch.ones(7, 10, dtype=torch.bool), torch.full((7, 10), 8))
    summary = result.summary(first=3)
    by_step = result.log_score
    assert summary["log_score"] == pytest.approx(float(by_step.mean()))
    assert summary["first"]["log_score"] == pytest.approx(float(by_step[:3].mean()))
    assert [part["size"] for part in summary["thirds"]] == [20, 30, 20]
    assert summary["thirds"][1]["log_score"] == pytest.approx(float(by_step[2:5].mean()))
    assert summary["brier"] == pytest.approx(float(result.brier.mean()))


@pytest.mark.parametrize(("fall", "back"), [(0, 0), (1, 4), (6, 10), (30, None)])
def test_recovery_is_counted_from_the_shift(fall: int, back: int | None) -> None:
    # Before and after chances of 0.9 for what happens; after the shift `fall` steps of 0.4, then up again.
    chance = torch.full([40, 5], 0.9, dtype=torch.float64)
    chance[20 : 20 + fall] = 0.4
    result = made(chance.tolist(), torch.ones(40, 5).tolist(), torch.ones(40, 5).tolist())
    found = result.recovery(20, window=10, tolerance=0.02, smooth=1 if fall == 0 else 5)
    assert found.before == pytest.approx(math.log(0.9))
    low = min(fall, 10) / 10
    assert found.after == pytest.approx(low * math.log(0.4) + (1 - low) * math.log(0.9))
    # Five steps must be back together: the first such run begins where the fall ends.
    assert found.steps == (None if back is None else fall)
    with pytest.raises(ValueError, match=r"shift: expected a whole number in 1\.\.39, got 40"):
        result.recovery(40)


def test_a_shift_shows_in_a_simulated_log() -> None:
    model = SolvingProgress()
    log, truth, _ = simulate(model, 300, 60, shift_at=30, shift_share=1.0, centre=True, seed=2)
    sampler = PromptSampler(model, 300, posterior=truth)
    found = replay(log, sampler, selection="uniform", batch_size=100, **QUIET).recovery(30)
    assert found.after < found.before - 0.1
    assert found.steps is not None and found.steps > 2


def test_a_result_is_json() -> None:
    result = replay(full(10, 6), PromptSampler(PaperDPS(), 10), batch_size=9, **QUIET)
    kept = json.loads(strict_json(result.to_dict(shift=3)))
    assert kept["about"]["model"] == "PaperDPS"
    assert len(kept["steps"]["log_score"]) == 6
    assert kept["summary"]["recovery"]["before"] == pytest.approx(float(result.log_score[:3].mean()))
    assert sum(kept["calibration"]["width"]["size"]) == 60
    assert kept["steps"]["unvisited"][-1] == 0
    assert kept["steps"]["log_score_unvisited"][-1] is None  # nobody was left


# ----------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log": full(4, 3).where(torch.arange(12) != 5)},
         r"every step, 4 prompts x 3 steps, got 11 groups, 1 missing \(prompt 1 not at step 1"),
        ({"log": RolloutHistory(4)}, "4 prompts x 0 steps, got 0 groups"),
        ({"log": full(4, 3).schedule()}, "log: expected outcomes, got a schedule"),
        ({"log": full(5, 3)}, "sampler: expected one of the log's 5 prompts, got one of 4"),
        ({"selection": "mine"}, "selection: expected 'own', 'recorded' or 'uniform', got 'mine'"),
        ({"selection": "recorded"}, "expected recorded batches .* at every step, got none at step 0"),
        ({"batch_size": 5}, r"batch_size: expected a whole number in 1\.\.4, got 5"),
        ({"sampler": "a sampler"}, "sampler: expected an instance of PromptSampler"),
        ({"tolerance": -1.0}, "tolerance: expected a number of at least 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_replayed_is_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"log": full(4, 3), "sampler": PromptSampler(SolvingProgress(), 4), "batch_size": 2, **QUIET} | change
    with pytest.raises(ValueError, match=message):
        replay(**arguments)


def test_a_sampler_that_has_seen_something_is_refused() -> None:
    sampler = PromptSampler(SolvingProgress(), 4)
    sampler.observe([0], [1], 4)
    with pytest.raises(ValueError, match="sampler: expected a new one, got one that has observed 1 step"):
        replay(full(4, 3), sampler, **QUIET)
    strangers = PromptSampler(SolvingProgress(), ["a", "b"])
    log = RolloutHistory.from_dense(torch.ones(2, 3), 4, ids=["b", "a"])
    with pytest.raises(ValueError, match="got one of 2 others"):
        replay(log, strangers, **QUIET)


# ---------------------------------------------------------------------------------------------------- the command line
