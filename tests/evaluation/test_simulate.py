"""Simulated logs follow the law of the model, and the truth beside them is what they were drawn from."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.oracle import OwnLadder, binomial, brute_force, own_values
from helpers.runs.tiny import call
from torch import Tensor

from dps_pyro import Posterior, PromptSampler, RolloutHistory, Step
from dps_pyro.evaluation.replays import replay
from dps_pyro.evaluation.simulation import simulate
from dps_pyro.models import BetaBernoulli, DenseReward, LogitWalk, PaperDPS, SolvingProgress, Trained

VALUES = {
    "gaps": torch.tensor([0.1, 0.4, 0.3, 0.2]),  # rates 0.1, 0.5, 0.8
    "initial": torch.tensor([0.5, 0.3, 0.2]),
    "transition": torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]]),
}
STUCK = {
    "gaps": torch.tensor([1e-6, 0.5 - 1e-6, 0.5 - 1e-6, 1e-6]),  # groups show their state
    "initial": torch.tensor([0.6, 0.1, 0.3]),
    "transition": torch.eye(3).clamp(1e-9, 1 - 2e-9),
}


def outcomes(log: RolloutHistory) -> Tensor:
    solved = log.dense().solved
    assert solved is not None
    return solved


def test_groups_follow_the_brute_force_law() -> None:
    num_prompts, trials = 8000, 2
    log, _, _ = simulate(SolvingProgress(), num_prompts, 3, trials, values=VALUES, seed=1)
    counts = torch.unique(outcomes(log).long() @ torch.tensor([9, 3, 1]), return_counts=True)
    seen = dict(zip(counts[0].tolist(), counts[1].tolist(), strict=True))
    chi_square = 0.0
    for place, path in enumerate(itertools.product(range(3), repeat=3)):
        likelihoods = [binomial(solved, trials, (0.1, 0.5, 0.8)) for solved in path]
        evidence, _ = brute_force(VALUES["initial"], VALUES["transition"].expand(3, 3, 3), likelihoods)
        expected = num_prompts * np.exp(evidence)
        chi_square += (seen.get(place, 0) - expected) ** 2 / expected
    assert chi_square < 55  # 26 degrees of freedom: 54 is passed once in a thousand times


def test_a_shift_starts_some_prompts_anew() -> None:
    log, truth, shifted = simulate(SolvingProgress(), 4000, 6, values=STUCK, shift_at=4, shift_share=0.25, seed=3)
    states = (outcomes(log) > 0).long() + (outcomes(log) == 8).long()
    assert len(shifted) == 1000
    stayed = torch.ones(4000, dtype=torch.bool)
    stayed[shifted] = False
    plainly = (outcomes(log) != 0) & (outcomes(log) != 8)
    mixed = plainly.any(1)  # a state of rate a half shows all wrong once in 256 times
    still = states[~mixed]
    assert bool((still == still[:, :1])[stayed[~mixed]].all())
    assert bool((still[:, :4] == still[:, :1]).all())
    before, after = states[shifted, 0], states[shifted, 4]
    shares = torch.bincount(after, minlength=3) / len(after)
    assert shares.tolist() == pytest.approx([0.6, 0.1, 0.3], abs=0.06)
    # Drawn anew, not moved: what came before tells nothing.
    for state in (0, 2):
        assert float((after[before == state] == 0).double().mean()) == pytest.approx(0.6, abs=0.08)
    assert (truth.about["shift_at"], truth.about["shifted"]) == (4, 1000)


def test_the_same_seed_the_same_log_and_no_other_randomness_touched() -> None:
    state = torch.random.get_rng_state()
    one, two, other = (simulate(LogitWalk(), 20, 5, observed=0.5, shift_at=2, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.log.events[:4], two.log.events[:4], strict=True))
    assert torch.equal(one.shifted, two.shifted)
    assert any(not torch.equal(one.truth.point[name], other.truth.point[name]) for name in one.truth.point)


def test_values_that_are_given_are_the_truth() -> None:
    given = {"initial": VALUES["initial"]}
    drawn = simulate(SolvingProgress(), 5, 2, values=given).truth
    centre = simulate(SolvingProgress(), 5, 2, values=given, centre=True).truth
    theta = SolvingProgress().parameters(5, given)
    assert drawn.point.keys() == centre.point.keys() == VALUES.keys()
    assert torch.equal(drawn.point["initial"], VALUES["initial"])
    assert torch.equal(centre.point["transition"], theta.matrix)
    assert torch.equal(centre.point["gaps"].cumsum(-1)[:-1], theta.rates)
    assert not torch.equal(drawn.point["transition"], theta.matrix)
    assert torch.equal(drawn.draws["initial"], VALUES["initial"].unsqueeze(0))


def test_prompts_keep_their_own_parameters() -> None:
    values = own_values(6, 3)
    truth = simulate(OwnLadder(3), 6, 4, values={"own.rates": values["own.rates"]}).truth
    assert torch.equal(truth.point["own.rates"], values["own.rates"])
    assert sorted(truth.about["per_prompt"]) == sorted(values)
    assert {name: value.shape for name, value in truth.point.items()} == {n: v.shape for n, v in values.items()}
    PromptSampler(OwnLadder(3), 6, posterior=truth)


def test_sparse_logs_and_what_was_trained_on() -> None:
    progress = torch.linspace(0.2, 0.6, 30)
    log, _, _ = simulate(Trained(), [f"p{k}" for k in range(100)], 30, 4, observed=0.1, trained=0.3, progress=progress,
                         features={"label": ["a", "b"] * 50}, seed=2)  # fmt: skip
    assert len(log) == pytest.approx(300, abs=60)
    assert set(log.events.trials.tolist()) == {4}
    assert float(log.events.trained.double().mean()) == pytest.approx(0.3, abs=0.1)
    assert log.progress().tolist() == pytest.approx(progress.tolist())
    assert log.num_steps == 30
    assert (log.ids or [])[7] == "p7"
    assert log.features == {"label": ["a", "b"] * 50}


def test_what_it_was_trained_on_moves_a_prompt() -> None:
    # Up only where the policy was updated on the prompt.
    values = {
        "initial": torch.tensor([1.0, 0.0, 0.0]),
        "gaps": STUCK["gaps"],
        "up": torch.tensor([-12.0, -12.0]),
        "down": torch.tensor([-12.0, -12.0]),
        "trained": torch.tensor([14.0, 0.0]),
        "slope": torch.zeros(2),
    }
    log, _, _ = simulate(Trained(), 500, 2, values=values, trained=0.5, seed=1)
    rose = outcomes(log)[:, 1] > 0
    assert float((rose == log.dense().trained[:, 0]).double().mean()) > 0.8


@pytest.mark.parametrize("make", [SolvingProgress, LogitWalk, PaperDPS])
def test_the_truth_predicts_its_own_log_best(make: Any) -> None:
    log, truth, _ = simulate(make(), 200, 25, seed=7)
    posterior = None if make is PaperDPS else truth  # it takes no values: what it does is count
    scores = [
        replay(log, PromptSampler(make(), 200, posterior=prior), selection="uniform", progress=False).quality()
        for prior in (posterior, None)
    ]
    assert scores[0].log_score >= scores[1].log_score
    if posterior is not None:
        assert scores[0].ece < 0.05


def test_sums_of_rewards_stay_within_the_group() -> None:
    log, _, _ = simulate(DenseReward("gaussian", spread=0.4), 200, 5, 2)
    solved = log.events.solved
    assert bool(((solved >= 0) & (solved <= 2)).all())
    assert len(solved.unique()) > 100  # of fractions
    assert bool((solved == 0).any() or (solved == 2).any())


@pytest.mark.parametrize("family", ["gaussian", "beta"])
def test_useful_groups_of_graded_rewards_are_those_whose_rewards_differ(family: Any) -> None:
    """As often as the model says in each state, though every sum lies well within 0..trials."""
    model = DenseReward(family, tolerance=0.3)
    spread = (
        {"sd": torch.tensor([0.02, 0.12, 0.3])} if family == "gaussian" else {"share": torch.tensor([0.001, 0.05, 0.3])}
    )
    values = {
        "gaps": torch.tensor([0.4, 0.1, 0.1, 0.4]),
        "initial": torch.full((3,), 1 / 3),
        "transition": torch.eye(3).clamp(1e-9, 1 - 2e-9),
        **spread,
    }
    log, _, _ = simulate(model, 6000, 1, 4, values=values, seed=2)
    events = log.events
    assert float(((events.solved > 0.3) & (events.solved < 3.7)).double().mean()) > 0.95  # useful by their sums
    theta = model.parameters(6000, values)
    chances = model.informative(theta, Step(torch.tensor([4])))[0]
    assert float(events.useful.double().mean()) == pytest.approx(float(chances.mean()), abs=0.025)
    law = model.emission(theta, Step(torch.tensor([4])))
    mean, square = law.mean[0].mean(), (law.variance + law.mean.square())[0].mean()
    assert float(events.solved.mean()) == pytest.approx(float(mean), abs=0.03)
    assert float(events.solved.square().mean()) == pytest.approx(float(square), abs=0.15)
    still, _, _ = simulate(model, 500, 1, 4, values=values | {"initial": torch.tensor([1.0, 0.0, 0.0])}, seed=3)
    assert float(still.events.useful.double().mean()) < 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dynamics": BetaBernoulli()}, "dynamics: expected an instance of Dynamics"),
        ({"prompts": -1}, "prompts: expected a whole number"),
        ({"num_steps": 0}, "num_steps: expected a whole number of at least 1, got 0"),
        ({"trials": 0}, "trials: expected"),
        ({"observed": 0.0}, "observed: expected a number above 0"),
        ({"observed": 1.5}, "observed: expected a share of at most 1, got 1.5"),
        ({"trained": -0.1}, "trained: expected a number of at least 0"),
        ({"progress": [0.1]}, "progress: expected 3 numbers, one per step, got 1"),
        ({"shift_at": 3}, r"shift_at: expected a whole number in 1\.\.2, got 3"),
        ({"shift_share": 0}, "shift_share: expected a number above 0"),
        ({"values": {"gasp": torch.ones(4)}}, "values: expected sites of SolvingProgress .*, got 'gasp'"),
        ({"values": {"gaps": torch.ones(3)}}, "values: expected 'gaps' of shape"),
    ],
)
def test_what_cannot_be_simulated_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"dynamics": SolvingProgress(), "prompts": 4, "num_steps": 3} | change
    with pytest.raises(ValueError, match=message):
        simulate(**arguments)


# ---------------------------------------------------------------------------------------------------- the command line


def test_the_command_draws_a_log_to_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "drawn.parquet"
    status, text, _ = call(
        capsys, "simulate", "--out", str(out), "--model", "Covariate", "--groups", "3", "--prompts", "30", "--steps",
        "9", "--trials", "4", "--shift-at", "5", "--shift-share", "0.2", "--progress", "0.1", "0.5", "--seed", "1",
    )  # fmt: skip
    assert status == 0
    assert "270 groups of 30 prompts" in text
    assert "6 prompts shifted at step 5" in text
    log, truth = RolloutHistory.from_parquet(out), Posterior.load(tmp_path / "drawn-truth")
    assert log.features == {"group": ["0", "1", "2"] * 10}
    assert log.progress().tolist() == pytest.approx(torch.linspace(0.1, 0.5, 9).tolist())
    assert truth.about["model"] == "Covariate"
    again = simulate_again(out, tmp_path, capsys)
    assert torch.equal(again.events.prompt, log.events.prompt)
    assert call(capsys, "replay", "--log", str(out), "--out", str(tmp_path / "r"), "--models", "Covariate", "--prior",
                str(tmp_path / "drawn-truth"), "--batch-size", "4", "--shift-at", "5")[0] == 0  # fmt: skip


def simulate_again(like: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> RolloutHistory:
    """Another log of the same prompts, at the first one's parameters."""
    out = folder / "again.parquet"
    status, _, _ = call(
        capsys, "simulate", "--out", str(out), "--model", "Covariate", "--like", str(like), "--steps", "9",
        "--values", str(folder / "drawn-truth"), "--seed", "2",
    )  # fmt: skip
    assert status == 0
    truths = [Posterior.load(folder / name).point for name in ("drawn-truth", "again-truth")]
    assert all(torch.equal(truths[0][name], truths[1][name]) for name in truths[0])
    return RolloutHistory.from_parquet(out)


def test_the_command_says_what_it_expected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--model", "BetaBernoulli"], "model: expected one that draws outcomes, got BetaBernoulli"),
        (["--prompts", "0"], "prompts: expected a whole number of at least 1, got 0"),
        (["--observed", "2"], "observed: expected a share of at most 1"),
    ):
        status, _, err = call(capsys, "simulate", "--out", str(tmp_path / "x.parquet"), *options)
        assert (status, err.count("\n")) == (2, 1)
        assert message in err
    assert not list(tmp_path.iterdir())
