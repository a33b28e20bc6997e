"""Transitions that know what the step did: exact with moves that change, and effects found only where there are any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from helpers import oracle
from helpers.fits import BY_DEFAULT_AND_BY_SVI, fitted
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

from dps_pyro import Progress, PromptSampler, RolloutHistory, Step
from dps_pyro.inference.posterior import Posterior
from dps_pyro.models import Trained

RATES = np.array([0.1, 0.45, 0.9])
ACCURACY = [0.125, 0.25, 0.25, 0.5, 0.75, 0.625]


def values_at(seed: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    values = {
        "gaps": np.diff([0, *RATES, 1]),
        "initial": rng.dirichlet(np.ones(3)),
        "up": rng.normal(-1, 1, 2),
        "down": rng.normal(-1, 1, 2),
        "trained": rng.normal(0, 2, 2),
        "slope": rng.normal(0, 2, 2),
    }
    return {name: torch.tensor(value, dtype=torch.get_default_dtype()) for name, value in values.items()}


def matrix_by_hand(values: dict[str, Tensor], trained: bool, progress: float) -> np.ndarray:
    """[3, 3], from the equations."""
    up, down, effect, slope = (values[name].double().numpy() for name in ("up", "down", "trained", "slope"))
    u = np.exp(up + effect[0] * trained + slope[0] * progress)
    d = np.exp(down + effect[1] * trained + slope[1] * progress)
    odds = np.array([[1, u[0], 0], [d[0], 1, u[1]], [0, d[1], 1]])
    return odds / odds.sum(1, keepdims=True)


def history_of(solved: Tensor, trials: Tensor, trained: Tensor | None, accuracy: list[float] | None) -> RolloutHistory:
    history = RolloutHistory(len(solved), num_steps=solved.shape[1])
    for t in range(solved.shape[1]):
        rows = trials[:, t].nonzero()[:, 0]
        columns = {"solved": solved[rows, t], "trials": trials[rows, t]}
        updated = None if trained is None else trained[rows, t]
        history.append(rows, step=t, **columns, trained=updated, progress=None if accuracy is None else accuracy[t])
    return history


def fixed(model: Any, values: dict[str, Tensor]) -> Any:
    """The model at given parameters, their own densities left out."""
    return poutine.block(poutine.condition(model, data=values), hide=list(values))


def no_guide(*_: Any) -> None: ...


@pytest.mark.parametrize("says", ["both", "trained", "progress", "nothing"])
def test_likelihood_and_beliefs_equal_brute_force_with_moves_that_change(says: str) -> None:
    torch.set_default_dtype(torch.float64)
    solved, trials = oracle.random_groups(4, 6, seed=1)
    trials[:, 0] = trials[:, 0].clamp_min(1)  # progress is known from the first step on
    trained = (trials > 0) & (torch.rand(4, 6) < 0.5) if says in ("both", "trained") else None
    accuracy = ACCURACY if says in ("both", "progress") else None
    model, values = Trained(), values_at(1)
    expected = []
    for row in range(4):
        likelihood = [oracle.binomial(y, n, RATES) for y, n in zip(solved[row], trials[row], strict=True)]
        learned = trials[row] > 0 if trained is None else trained[row]
        moves = [matrix_by_hand(values, bool(learned[t]), 0.0 if accuracy is None else accuracy[t]) for t in range(6)]
        expected.append(oracle.brute_force(values["initial"].numpy(), moves, likelihood))
    evidence = np.array([one for one, _ in expected])
    beliefs = np.stack([path for _, path in expected], 1)  # [T + 1, N, 3]

    theta = model.parameters(4, values)
    progress = None if accuracy is None else torch.tensor([accuracy])
    np.testing.assert_allclose(Progress(model, theta, Step(trials, trained, progress)).log_prob(solved), evidence)
    history = history_of(solved, trials, trained, accuracy)
    for elbo, method in ((TraceEnum_ELBO, model.enumerated_model), (Trace_ELBO, model.model)):
        loss = elbo(max_plate_nesting=1).loss(fixed(method, values), no_guide, history)
        assert -loss == pytest.approx(evidence.sum(), abs=1e-9)
    posterior = Posterior({}, values, torch.zeros(0), True)
    online, late = (PromptSampler(model, 4, posterior=posterior) for _ in range(2))
    for t in range(6):
        np.testing.assert_allclose(online.belief, beliefs[t], atol=1e-9)
        one = None if trained is None else trained[:, t]
        known = None if accuracy is None else accuracy[t]
        online.observe(range(4), solved[:, t], trials[:, t], trained=one, progress=known)
        # Half of the prompts come later, and are trained on in the step to which they belong
        late.observe([0, 1], solved[:2, t], trials[:2, t], trained=None if one is None else one[:2], progress=known)
    np.testing.assert_allclose(online.belief, beliefs[6], atol=1e-9)
    for t in (3, 0, 5, 1, 2, 4):
        one = None if trained is None else trained[2:, t]
        late.observe([2, 3], solved[2:, t], trials[2:, t], step=t, trained=one)
    np.testing.assert_allclose(late.belief, beliefs[6], atol=1e-9)


@pytest.mark.parametrize("num_steps", [4, 5])  # 4: as many as there are samples, so that no axis can hide
def test_sample_dimensions_on_the_parameters(num_steps: int) -> None:
    solved, trials = oracle.random_groups(3, num_steps, seed=2)
    model = Trained()
    many = [values_at(seed) for seed in range(4)]
    accuracy = torch.tensor([ACCURACY[:num_steps]])
    trained = (trials > 0) & (torch.rand(3, num_steps) < 0.5)
    steps = (Step(trials), Step(trials, trained), Step(trials, trained, accuracy), Step(trials, None, accuracy),
             Step(trials, trained[:1], accuracy))  # fmt: skip
    for step in steps:
        alone = torch.stack([Progress(model, model.parameters(3, one), step).log_prob(solved.float()) for one in many])
        stacked = {name: torch.stack([one[name] for one in many]).unsqueeze(1) for name in many[0]}  # [S, 1, ...]
        with pyro.plate("particles", 4, dim=-2):
            theta = poutine.condition(model.prior, data=stacked)(pyro.plate("prompts", 3, dim=-1))
        law = Progress(model, theta, step)
        torch.testing.assert_close(law.log_prob(solved.float()), alone)
        assert law.sample((6,)).shape == (6, 4, 3, num_steps)
    history = history_of(solved, trials, trained, ACCURACY)
    losses = [
        Trace_ELBO(num_particles=3, vectorize_particles=flag, max_plate_nesting=1).loss(
            model.model, AutoDelta(model.model), history
        )
        for flag in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for parallel in (False, True):
        drawn = Predictive(model.model, num_samples=6, parallel=parallel)(history.schedule())["outcomes"]
        assert drawn.shape == (6, 3, num_steps)
        assert bool(((drawn >= 0) & (drawn <= trials)).all())


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.floats(0, 1))
def test_states_stay_ordered_whatever_the_prior_draws(seed: int, progress: float) -> None:
    torch.manual_seed(seed)
    gaps = torch.tensor([1.0, 24.0, 24.0, 1.0]) if seed % 2 else torch.full((4,), 0.3)
    model = Trained(gaps, base=5.0, effect=10.0, slope=20.0)  # so wide that chances are 0.0 and 1.0
    theta = model.prior(pyro.plate("prompts", 2, dim=-1))
    assert bool((theta.rates.diff() >= 0).all() and (theta.rates >= 0).all() and (theta.rates <= 1).all())
    step = Step(torch.tensor([8, 0]), None, torch.tensor([progress]))
    moves = model.transition(theta, step).probs
    assert moves.shape == (2, 3, 3)
    torch.testing.assert_close(moves.sum(-1), torch.ones(2, 3))
    assert bool((moves >= 0).all() and (moves[:, 0, 2] == 0).all() and (moves[:, 2, 0] == 0).all())


def test_unfitted_it_is_as_sticky_as_the_reference_whatever_the_step() -> None:
    model = Trained()
    theta = model.parameters(4)
    expected = torch.tensor([[0.99, 0.01, 0], [0.005, 0.99, 0.005], [0, 0.01, 0.99]])
    for step in (Step(torch.tensor([8, 0, 8, 1])), Step(torch.ones(4).long(), None, torch.tensor([0.5]))):
        moves = model.transition(theta, step).probs
        torch.testing.assert_close(moves, expected.expand(4, 3, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(theta.rates, torch.tensor([0.02, 0.5, 0.98]))
    torch.testing.assert_close(PromptSampler(model, 10).belief, torch.full((10, 3), 1 / 3))


def test_a_prompt_trained_on_moves_up_sooner_where_training_helps() -> None:
    values = {"trained": torch.tensor([2.0, 0.0])}
    sampler = PromptSampler(Trained(), 3, posterior=Posterior({}, values, torch.zeros(0), True))
    for _ in range(4):  # rolled out and trained on, rolled out, left alone
        sampler.observe([0, 1], [0, 0], 8, trained=[True, False])
    belief = sampler.belief
    assert float(belief[0, 1]) > 3 * float(belief[1, 1])


# ------------------------------------------------------------------------------------------------------------- fits


def simulated(trained: tuple[float, float], slope: tuple[float, float]) -> tuple[dict[str, Tensor], RolloutHistory]:
    """300 prompts, 24 steps; by a coin, half of the groups are rolled out and half of those trained on; the policy gets
    better."""
    values = {
        "gaps": torch.tensor([0.05, 0.4, 0.5, 0.05]),
        "initial": torch.tensor([0.5, 0.3, 0.2]),
        "up": torch.tensor([-2.5, -2.5]),
        "down": torch.tensor([-3.0, -3.0]),
        "trained": torch.tensor(trained),
        "slope": torch.tensor(slope),
    }
    model = Trained()
    trials = 8 * (torch.rand(300, 24) < 0.5)
    learned = (trials > 0) & (torch.rand(300, 24) < 0.5)
    accuracy = torch.linspace(0, 0.9, 24)
    step = Step(trials, learned, accuracy.unsqueeze(0))
    solved = Progress(model, model.parameters(300, values), step).sample()
    return values, history_of(solved, trials, learned, accuracy.tolist())


@pytest.mark.parametrize("method", BY_DEFAULT_AND_BY_SVI)
@pytest.mark.parametrize(("trained", "slope"), [((1.5, -1.0), (1.5, -1.5)), ((0.0, 0.0), (0.0, 0.0))], ids=str)
def test_a_fit_finds_effects_where_there_are_some_and_none_where_there_are_none(
    trained: tuple[float, float], slope: tuple[float, float], method: str | None
) -> None:
    torch.manual_seed(3)
    values, history = simulated(trained, slope)
    posterior = fitted(Trained(), history, method, steps=400, learning_rate=0.1, draws=50)
    found = posterior.point
    # Falls are seen less often than rises, and the less is known of them.
    for name, far in (("trained", [0.25, 0.5]), ("slope", [0.6, 0.8])):
        assert bool(((found[name] - values[name]).abs() < torch.tensor(far)).all()), (name, found[name])
    torch.testing.assert_close(found["gaps"], values["gaps"], atol=0.02, rtol=0)
    # The effects as moves: a prompt trained on in the middle of the run
    step = Step(torch.ones(1).long(), torch.tensor([True]), torch.tensor([0.45]))
    model = Trained()
    moves = [model.transition(model.parameters(1, at), step).probs for at in (found, values)]
    torch.testing.assert_close(*moves, atol=0.06, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [{"rate_gaps": [1.0, 1.0]}, {"initial": [1.0, 0.0, 1.0]}, {"leave": 1.0}, {"leave": 0.0}, {"base": -1.0},
     {"effect": float("nan")}, {"slope": 0.0}],
    ids=str,
)  # fmt: skip
def test_arguments_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        Trained(**wrong)
