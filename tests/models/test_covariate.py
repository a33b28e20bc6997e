"""Regression on features: exact, and of use for prompts that nobody has rolled out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from helpers import oracle
from helpers.fits import svi
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

from dps_pyro import Laplace, Progress, PromptSampler, RolloutHistory, Step, fit
from dps_pyro.dynamics.features import design_matrix
from dps_pyro.inference.posterior import Posterior
from dps_pyro.models import Covariate

TABLE: dict[str, Any] = {"length": [1.0, 2.5, float("nan"), 7.0], "subject": ["a", "b", "a", "c"]}
RATES = np.array([0.1, 0.45, 0.9])


def values_at(seed: int, columns: int = 4) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    values = {
        "gaps": np.diff([0, *RATES, 1]),
        "initial": rng.dirichlet(np.ones(3)),
        "up": rng.normal(-1, 1, 2),
        "down": rng.normal(-1, 1, 2),
        "scale": np.ones(3),
        "weights": rng.normal(0, 1, (3, columns)),
    }
    return {name: torch.tensor(value, dtype=torch.get_default_dtype()) for name, value in values.items()}


def by_hand(values: dict[str, Tensor], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One prompt's initial distribution [3] and transition matrix [3, 3], from the equations."""
    initial, up, down, weights = (values[name].double().numpy() for name in ("initial", "up", "down", "weights"))
    easier, more_up, more_down = weights @ x
    below = initial.cumsum()[:2]
    at_most = 1 / (1 + np.exp(easier - np.log(below / (1 - below))))
    start = np.diff([0, *at_most, 1])
    u, d = np.exp(up + more_up), np.exp(down + more_down)
    odds = np.array([[1, u[0], 0], [d[0], 1, u[1]], [0, d[1], 1]])
    return start, odds / odds.sum(1, keepdims=True)


def test_of_more_levels_it_is_the_same_regression() -> None:
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    model, levels = Covariate(TABLE), 7
    assert model.states[0] == "level 1 of 7"
    rates = (np.arange(levels) + 0.5) / levels
    values = {
        "gaps": np.diff([0, *rates, 1]),
        "initial": rng.dirichlet(np.ones(levels)),
        "up": rng.normal(-1, 1, levels - 1),
        "down": rng.normal(-1, 1, levels - 1),
        "scale": np.ones(3),
        "weights": rng.normal(0, 1, (3, 4)),
    }
    theta = model.parameters(4, {name: torch.tensor(value) for name, value in values.items()})
    starts, moves = model.initial(theta).probs, model.transition(theta, Step(torch.ones(4))).probs
    for row, x in enumerate(design_matrix(TABLE).matrix.numpy()):
        easier, more_up, more_down = values["weights"] @ x
        below = values["initial"].cumsum()[:-1]
        at_most = 1 / (1 + np.exp(easier - np.log(below / (1 - below))))
        np.testing.assert_allclose(starts[row], np.diff([0, *at_most, 1]), atol=1e-12)
        odds = np.eye(levels)
        odds += np.diag(np.exp(values["up"] + more_up), 1) + np.diag(np.exp(values["down"] + more_down), -1)
        np.testing.assert_allclose(moves[row], odds / odds.sum(1, keepdims=True), atol=1e-12)


def fixed(model: Any, values: dict[str, Tensor]) -> Any:
    """The model at given parameters, their own densities left out."""
    return poutine.block(poutine.condition(model, data=values), hide=list(values))


def no_guide(*_: Any) -> None: ...


@pytest.mark.parametrize("seed", [0, 1])
def test_likelihood_and_beliefs_equal_brute_force_over_all_paths(seed: int) -> None:
    torch.set_default_dtype(torch.float64)
    solved, trials = oracle.random_groups(4, 5, seed)
    model, values = Covariate(TABLE, levels=3), values_at(seed)
    history = RolloutHistory.from_dense(solved, trials)
    expected = []
    for row, x in enumerate(design_matrix(TABLE).matrix.numpy()):
        start, matrix = by_hand(values, x)
        likelihood = [oracle.binomial(y, n, RATES) for y, n in zip(solved[row], trials[row], strict=True)]
        expected.append(oracle.brute_force(start, [matrix] * 5, likelihood))
    evidence = np.array([one for one, _ in expected])
    beliefs = np.stack([path for _, path in expected], 1)  # [T + 1, N, 3]
    law = Progress(model, model.parameters(4, values), Step(trials))
    np.testing.assert_allclose(law.log_prob(solved), evidence, atol=1e-9)
    for elbo, method in ((TraceEnum_ELBO, model.enumerated_model), (Trace_ELBO, model.model)):
        loss = elbo(max_plate_nesting=1).loss(fixed(method, values), no_guide, history)
        assert -loss == pytest.approx(evidence.sum(), abs=1e-9)
    posterior = Posterior({}, values, torch.zeros(0), True)
    online, late = (PromptSampler(model, 4, posterior=posterior) for _ in range(2))
    for t in range(5):
        np.testing.assert_allclose(online.belief, beliefs[t], atol=1e-9)
        online.observe(range(4), solved[:, t], trials[:, t])
    for t in (1, 4, 0, 3, 2):  # some of the steps come late
        late.observe(range(4), solved[:, t], trials[:, t], step=t)
    np.testing.assert_allclose(online.belief, beliefs[5], atol=1e-9)
    np.testing.assert_allclose(late.belief, beliefs[5], atol=1e-9)


def test_a_mini_batch_and_a_shorter_pool_have_their_own_prompts_features() -> None:
    model, values = Covariate(TABLE, levels=3), values_at(0)
    every = model.parameters(4, values)
    for num_prompts, rows in ((4, [3, 1]), (3, [0, 1, 2]), (3, [2])):
        theta = model.parameters(num_prompts, values, torch.tensor(rows))
        torch.testing.assert_close(theta.effects, every.effects[rows])
    with pytest.raises(ValueError, match="features: expected those of 5 prompts, got those of 4"):
        model.parameters(5)
    sampler = PromptSampler(model, 3)
    sampler.observe([0], [0], 8)
    sampler.add(1)  # whose features the model has
    assert sampler.belief.shape == (4, 3)
    with pytest.raises(ValueError, match="expected those of 5 prompts"):
        sampler.add(1)


def test_sample_dimensions_on_the_parameters() -> None:
    solved, trials = oracle.random_groups(4, 5, seed=2)
    model = Covariate(TABLE, levels=3)
    many = [values_at(seed) for seed in range(4)]
    step = Step(trials)
    alone = torch.stack([Progress(model, model.parameters(4, one), step).log_prob(solved.float()) for one in many])
    stacked = {name: torch.stack([one[name] for one in many]).unsqueeze(1) for name in many[0]}  # [S, 1, ...]
    with pyro.plate("particles", 4, dim=-2):
        theta = poutine.condition(model.prior, data=stacked)(pyro.plate("prompts", 4, dim=-1))
    assert theta.effects.shape == (4, 4, 3)
    torch.testing.assert_close(Progress(model, theta, step).log_prob(solved.float()), alone)
    history = RolloutHistory.from_dense(solved, trials)
    losses = [
        Trace_ELBO(num_particles=3, vectorize_particles=flag, max_plate_nesting=1).loss(
            model.model, AutoDelta(model.model), history
        )
        for flag in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for parallel in (False, True):
        drawn = Predictive(model.model, num_samples=6, parallel=parallel)(history.schedule())["outcomes"]
        assert drawn.shape == (6, 4, 5)
        assert bool(((drawn >= 0) & (drawn <= trials)).all())


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_states_stay_ordered_and_easier_is_easier_whatever_the_prior_draws(seed: int) -> None:
    torch.manual_seed(seed)
    gaps = torch.tensor([1.0, 24.0, 24.0, 1.0]) if seed % 2 else torch.full((4,), 0.3)
    # A wide prior, so that predictors saturate: 0.0 and 1.0 are among the chances.
    model = Covariate({"x": torch.linspace(-3, 3, 9).tolist()}, levels=3, rate_gaps=gaps, effect=20.0, base=5.0)
    theta = model.prior(pyro.plate("prompts", 9, dim=-1))
    assert bool((theta.rates.diff() >= 0).all() and (theta.rates >= 0).all() and (theta.rates <= 1).all())
    start = model.initial(theta).probs
    moves = model.transition(theta, Step(torch.ones(9, dtype=torch.long))).probs
    for chances in (start, moves):
        assert bool(((chances >= 0) & (chances <= 1)).all())
        torch.testing.assert_close(chances.sum(-1), torch.ones(chances.shape[:-1]))
    at_most = start.cumsum(-1)[theta.effects[:, 0].argsort()]
    assert bool((at_most.diff(dim=0) <= 1e-6).all())  # the easier the prompt, the less likely a state below
    assert bool((moves[:, 0, 2] == 0).all() and (moves[:, 2, 0] == 0).all())


def test_unfitted_it_is_as_sticky_as_the_reference_and_knows_nothing_of_features() -> None:
    model = Covariate(TABLE, levels=3)
    theta = model.parameters(4)
    torch.testing.assert_close(model.initial(theta).probs, torch.full((4, 3), 1 / 3))
    moves = model.transition(theta, Step(torch.ones(4, dtype=torch.long))).probs
    expected = torch.tensor([[0.99, 0.01, 0], [0.005, 0.99, 0.005], [0, 0.01, 0.99]])
    torch.testing.assert_close(moves, expected.expand(4, 3, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(theta.rates, torch.tensor([0.02, 0.5, 0.98]))


# ------------------------------------------------------------------------------------------------------------- fits

TRUTH = {
    "gaps": torch.tensor([0.05, 0.4, 0.5, 0.05]),
    "initial": torch.tensor([0.4, 0.3, 0.3]),
    "up": torch.tensor([-2.2, -2.2]),
    "down": torch.tensor([-3.5, -3.5]),
    "scale": torch.ones(3),
}


def simulated(table: dict[str, Any], weights: Tensor, num_prompts: int, num_steps: int) -> RolloutHistory:
    """A third of the groups of the first `num_prompts` prompts."""
    model = Covariate(table, levels=3)
    theta = model.parameters(num_prompts, {**TRUTH, "weights": weights})
    trials = 8 * (torch.rand(num_prompts, num_steps) < 1 / 3)
    return RolloutHistory.from_dense(Progress(model, theta, Step(trials)).sample(), trials)


@pytest.fixture(scope="module")
def fitted() -> tuple[dict[str, Any], Tensor, Posterior]:
    """400 prompts of two numbers, one of no use, and three subjects; the posterior of the first 300."""
    torch.manual_seed(1)
    pick = torch.arange(400) % 3
    table = {
        "length": torch.randn(400).tolist(),
        "noise": torch.randn(400).tolist(),
        "subject": [("easy", "hard", "middling")[k] for k in pick.tolist()],
    }
    weights = torch.tensor(
        [
            [0.0, 0.0, 3.0, -3.0, 0.0],  # the start: by subject
            [-1.2, 0.0, 0.0, 0.0, 0.0],  # ups: fewer for long prompts
            [0.0, 0.0, 0.0, 0.0, 0.0],  # falls: as they come
        ]
    )
    history = simulated(table, weights, 300, 16)
    return table, weights, fit(Covariate(table, levels=3), history, Laplace(draws=400), progress=False)


def test_a_fit_finds_the_effects_and_shrinks_the_useless(fitted: tuple[dict[str, Any], Tensor, Posterior]) -> None:
    _, truth, posterior = fitted
    found, sure = posterior.point["weights"], posterior.draws["weights"].std(0)
    assert bool(((found - truth).abs() < 4 * sure + 0.1).all()), (found, sure)
    torch.testing.assert_close(found[0, 2:4], truth[0, 2:4], atol=1.0, rtol=0)
    torch.testing.assert_close(found[1, 0], truth[1, 0], atol=0.4, rtol=0)
    assert float(found[truth == 0].abs().max()) < 0.6, found
    scale = posterior.point["scale"]
    assert float(scale[2]) < 0.4 * float(scale[0]), scale  # nothing of use for falls
    for name, far in (("gaps", 0.03), ("initial", 0.1), ("up", 0.5)):  # three standard deviations and more
        torch.testing.assert_close(posterior.point[name], TRUTH[name], atol=far, rtol=0)


def test_prompts_never_rolled_out_have_correct_beliefs(fitted: tuple[dict[str, Any], Tensor, Posterior]) -> None:
    table, weights, posterior = fitted
    model = Covariate(table, levels=3)
    truth = model.initial(model.parameters(400, {**TRUTH, "weights": weights})).probs
    sampler = PromptSampler(model, 400, posterior=posterior)
    unseen = sampler.belief[300:]
    assert float((unseen - truth[300:]).abs().mean()) < 0.05
    easy, hard, _ = (unseen[[name == table["subject"][300 + k] for k in range(100)]] for name in
                     ("easy", "hard", "middling"))  # fmt: skip
    assert float(easy[:, 2].min()) > 0.7 and float(hard[:, 0].min()) > 0.7
    # A short hard prompt gets solved sooner, and nobody has rolled out either.
    length = torch.tensor(table["length"])
    is_hard = torch.tensor([name == "hard" for name in table["subject"]])
    is_hard[:300] = False
    short, long = (is_hard & (length < -0.7)).nonzero()[:, 0], (is_hard & (length > 0.7)).nonzero()[:, 0]
    sampler.observe([0], [8], 8, step=9)
    assert float(sampler.belief[short, 0].max()) < float(sampler.belief[long, 0].min())


def test_a_posterior_holds_for_another_run_with_its_reference(
    fitted: tuple[dict[str, Any], Tensor, Posterior],
) -> None:
    table, _, posterior = fitted
    model = Covariate(table, levels=3)
    rows = [k for k in range(400) if table["length"][k] > 0 and table["subject"][k] != "easy"]
    other = {name: [column[k] for k in rows] for name, column in table.items()}
    expected = PromptSampler(model, 400, posterior=posterior).belief[rows]
    for reference in (model.design, table):
        belief = PromptSampler(Covariate(other, reference=reference, levels=3), len(rows), posterior=posterior).belief
        torch.testing.assert_close(belief, expected)
    with pytest.raises(ValueError, match="posterior: expected one fitted with the same reference"):  # not silent
        PromptSampler(Covariate(other, levels=3), len(rows), posterior=posterior)


def test_an_embedding_will_do() -> None:
    embedding = torch.randn(120, 16)
    table = {str(column): embedding[:, column].tolist() for column in range(16)}
    weights = torch.zeros(3, 16)
    weights[0, 3] = 4.0
    history = simulated(table, weights, 100, 6)
    model = Covariate(embedding, levels=3)
    posterior = svi(model, history, steps=120, batch_size=50, progress=False)
    found = posterior.point["weights"][0]
    assert int(found.argmax()) == 3
    assert float(found[3]) > 4 * float(torch.cat([found[:3], found[4:]]).abs().max())


@pytest.mark.parametrize(
    "wrong",
    [{"rate_gaps": [1.0, 1.0]}, {"initial": [1.0, 0.0, 1.0]}, {"leave": 1.0}, {"leave": 0.0}, {"levels": 2},
     {"base": -1.0}, {"effect": float("nan")}, {"features": {}}, {"reference": {"other": [1.0]}}],
    ids=str,
)  # fmt: skip
def test_arguments_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{'features' if 'reference' in wrong else next(iter(wrong))}: expected"):
        Covariate(**{"features": TABLE, "levels": 3, **wrong})


def test_a_known_pass_rate_starts_the_beliefs() -> None:
    rates = {"rate": [0.0, 0.25, 0.5, 0.75, 1.0], "length": [3.0, 1.0, 4.0, 1.0, 5.0]}

    def first(**settings: Any) -> list[float]:
        sampler = PromptSampler(Covariate(rates, **settings), 5)
        levels = torch.arange(sampler.belief.shape[1], dtype=sampler.belief.dtype)
        return (sampler.belief @ levels).tolist()

    even, started = first(), first(easier=["rate"])
    assert max(even) - min(even) < 1e-5
    assert started == sorted(started) and started[-1] - started[0] > 2
    with pytest.raises(ValueError, match="easier: expected features of numbers among rate, length, got 'pass'"):
        Covariate(rates, easier=["pass"])
