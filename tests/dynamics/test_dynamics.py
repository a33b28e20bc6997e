"""The likelihood and the Pyro models made of a dynamics model, against brute force and plain Pyro."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import oracle
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceEnum_ELBO, infer_discrete
from pyro.infer.autoguide import AutoDelta, AutoNormal
from scipy.stats import chisquare
from torch import Tensor

from dps_pyro import Dynamics, RolloutHistory, Step, track
from dps_pyro.dynamics.progress import Progress
from dps_pyro.models import PaperDPS, SolvingProgress


def no_guide(*_: Any) -> None: ...


def history_of(solved: Tensor, trials: Tensor) -> RolloutHistory:
    return RolloutHistory.from_dense(solved, trials)


def fixed(model: Any, values: dict[str, Tensor]) -> Any:
    """The model at given parameters, their own densities left out."""
    return poutine.block(poutine.condition(model, data=values), hide=list(values))


# ---------------------------------------------------------------------------------------------------- the likelihood


@pytest.mark.parametrize("num_states", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_progress_equals_brute_force_over_all_paths_in_float32(num_states: int, seed: int) -> None:
    solved, trials = oracle.random_groups(6, 4, seed)
    model, values = oracle.OwnLadder(num_states), oracle.own_values(6, num_states, seed)
    theta = model.parameters(6, values)
    ours = Progress(model, theta, Step(trials)).log_prob(solved.float())
    assert ours.dtype == torch.float32
    exact, _ = oracle.own_brute_force(values, solved, trials)
    np.testing.assert_allclose(ours.numpy(), exact, atol=1e-5)
    for elbo, method in ((TraceEnum_ELBO, model.enumerated_model), (Trace_ELBO, model.model)):
        loss = elbo(max_plate_nesting=1).loss(fixed(method, values), no_guide, history_of(solved, trials))
        assert -loss == pytest.approx(exact.sum(), abs=1e-5 * 6)


def test_progress_equals_a_hand_written_pyro_model() -> None:
    solved, trials = oracle.random_groups(5, 7, seed=3)
    model = SolvingProgress()
    theta = model.parameters(5, {"initial": torch.tensor([0.5, 0.3, 0.2]), "gaps": torch.tensor([0.1, 0.3, 0.4, 0.2])})
    ours = Progress(model, theta, Step(trials)).log_prob(solved.float())
    for row in range(5):
        groups = solved[row : row + 1], trials[row : row + 1]
        loss = TraceEnum_ELBO(max_plate_nesting=1).loss(
            oracle.unrolled, no_guide, theta.initial, theta.matrix, theta.rates, *groups
        )
        assert float(ours[row]) == pytest.approx(-loss, abs=1e-5)


def test_a_step_may_say_by_itself_whether_the_prompt_was_trained_on() -> None:
    solved, trials = oracle.random_groups(3, 4)
    model, values = oracle.OwnLadder(3), oracle.own_values(3, 3)
    theta = model.parameters(3, values)
    never = Progress(model, theta, Step(trials, trained=torch.zeros(1, 4, dtype=torch.bool)))
    still = {**values, "own.moves": values["own.moves"][:, :1].expand(-1, 2, -1, -1)}
    exact, _ = oracle.own_brute_force(still, solved, trials)
    np.testing.assert_allclose(never.log_prob(solved.float()).numpy(), exact, atol=1e-5)


@pytest.mark.parametrize("num_steps", [4, 5])  # 5: as many as there are samples, so that no axis can hide
@pytest.mark.parametrize("make", [SolvingProgress, PaperDPS, lambda: oracle.OwnLadder(2)])
def test_sample_dimensions_may_be_on_the_parameters_the_outcomes_or_both(make: Any, num_steps: int) -> None:
    model: Dynamics[Any] = make()
    solved, trials = oracle.random_groups(3, num_steps, seed=2)
    trials = trials.clamp_min(2) * (trials > 0)  # one rollout cannot be mixed, as PaperDPS would have it
    draws = [prior_theta(model, 3) for _ in range(5)]
    stacked = type(draws[0])(*(torch.stack(parts) for parts in zip(*draws, strict=True)))
    if isinstance(model, SolvingProgress):  # shared parameters: [5, 1, ...], as in a vectorised plate
        stacked = type(stacked)(*(part.unsqueeze(1) for part in stacked))
    many = Progress(model, stacked, Step(trials))
    one = Progress(model, draws[2], Step(trials))
    value = solved.float()
    alone = torch.stack([Progress(model, theta, Step(trials)).log_prob(value) for theta in draws])
    torch.testing.assert_close(many.log_prob(value), alone)
    torch.testing.assert_close(many.log_prob(value.expand(5, 3, num_steps)), alone)
    torch.testing.assert_close(many.expand([7, 5, 3]).log_prob(value), alone.expand(7, 5, 3))
    values = torch.stack([value, value.flip(0) * 0, trials.float()])
    apart = torch.stack([one.log_prob(v) for v in values])
    torch.testing.assert_close(one.log_prob(values), apart)
    torch.testing.assert_close(one.expand([3, 3]).log_prob(values), apart)
    assert many.sample((6,)).shape == (6, 5, 3, num_steps)
    assert one.expand([7, 3]).sample((6,)).shape == (6, 7, 3, num_steps)
    assert bool((many.sample() <= trials).all())


def prior_theta(model: Dynamics[Any], num_prompts: int) -> Any:
    return model.prior(pyro.plate("prompts", num_prompts, dim=-1))


class Grades(Dynamics[Tensor]):
    """Scores instead of counts: an emission that does not depend on the step, [K] or with sample dimensions."""

    states = ("low", "high")

    def prior(self, prompts: pyro.plate) -> Tensor:
        value: Tensor = pyro.sample("spread", dist.LogNormal(0.0, 0.3))
        return value

    def initial(self, theta: Tensor) -> dist.Categorical:
        return dist.Categorical(torch.tensor([0.7, 0.3]))

    def transition(self, theta: Tensor, step: Step) -> dist.Categorical:
        return dist.Categorical(torch.tensor([[0.9, 0.1], [0.2, 0.8]]))

    def emission(self, theta: Tensor, step: Step) -> dist.Normal:
        return dist.Normal(torch.tensor([0.0, 1.0]), theta.unsqueeze(-1))


def test_an_emission_need_not_depend_on_the_step() -> None:
    values = torch.randn(3, 4)
    trials = torch.ones(3, 4, dtype=torch.long)
    spreads = torch.tensor([0.5, 1.0, 2.0, 3.0])
    together = Progress(Grades(), spreads.unsqueeze(-1), Step(trials))  # [4, 1]
    for s, spread in enumerate(spreads):
        alone = Progress(Grades(), spread, Step(trials)).log_prob(values)
        likelihood = dist.Normal(torch.tensor([0.0, 1.0]), spread).log_prob(values.unsqueeze(-1)).exp()
        for row in range(3):
            moves = [[[0.9, 0.1], [0.2, 0.8]]] * 4
            exact, _ = oracle.brute_force([0.7, 0.3], moves, likelihood[row].numpy())
            assert float(alone[row]) == pytest.approx(exact, abs=1e-5)
        torch.testing.assert_close(together.log_prob(values)[s], alone)
    assert together.sample((5,)).shape == (5, 4, 3, 4)


@pytest.mark.parametrize("make", [SolvingProgress, PaperDPS, lambda: oracle.OwnLadder(3)])
def test_the_chances_of_all_outcomes_add_up_to_one(make: Any) -> None:
    model = make()
    trials = torch.tensor([[3, 0, 2, 4]])
    outcomes = torch.tensor(list(itertools.product(*(range(n + 1) for n in trials[0].tolist())))).float()
    law = Progress(model, prior_theta(model, 1), Step(trials))
    assert float(law.log_prob(outcomes.unsqueeze(1)).exp().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("make", [SolvingProgress, PaperDPS, lambda: oracle.OwnLadder(3)])
def test_drawn_outcomes_follow_the_law(make: Any) -> None:
    model = make()
    trials = torch.tensor([[2, 0, 3]])
    outcomes = torch.tensor(list(itertools.product(range(3), [0], range(4)))).float()
    law = Progress(model, prior_theta(model, 1), Step(trials))
    expected = law.log_prob(outcomes.unsqueeze(1)).exp().squeeze(1).double()
    drawn = law.sample((20000,)).squeeze(1)
    counts = torch.tensor([int((drawn == outcome).all(-1).sum()) for outcome in outcomes])
    assert int(counts.sum()) == 20000
    likely = expected > 5e-4
    rest = [int(counts[~likely].sum()), float(expected[~likely].sum())]
    found = [*counts[likely].tolist(), rest[0]]
    chances = np.array([*expected[likely].tolist(), max(rest[1], 1e-12)])
    assert chisquare(found, chances / chances.sum() * 20000).pvalue > 1e-3


# ------------------------------------------------------------------------------------------------------ as Pyro models


@pytest.mark.parametrize("make", [SolvingProgress, PaperDPS, lambda: oracle.OwnLadder(2)])
def test_vectorised_particles_give_the_same_elbo_as_a_loop(make: Any) -> None:
    model = make()
    solved, trials = oracle.random_groups(4, 6, seed=1)
    history = history_of(solved, trials.clamp_min(2) * (trials > 0))
    guide = AutoDelta(model.model)
    losses = [
        Trace_ELBO(num_particles=6, vectorize_particles=flag, max_plate_nesting=1).loss(model.model, guide, history)
        for flag in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("make", [SolvingProgress, PaperDPS, lambda: oracle.OwnLadder(2)])
def test_the_model_runs_under_svi_predictive_and_enumeration(make: Any) -> None:
    model = make()
    solved, trials = oracle.random_groups(4, 5, seed=1)
    history = history_of(solved, trials.clamp_min(2) * (trials > 0))
    guide = AutoNormal(model.model)
    svi = SVI(model.model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    assert all(np.isfinite(svi.step(history)) for _ in range(3))
    sites = Predictive(guide, num_samples=6)(history)
    sites = {name: value for name, value in sites.items() if not name.endswith("_unconstrained")}
    for parallel in (False, True):
        prior = Predictive(model.model, num_samples=6, parallel=parallel)(history.schedule())
        # Pyro lines up draws in parallel by their number of axes: [S, 1, ...] for sites that all prompts share.
        shared = isinstance(model, SolvingProgress)
        draws = {name: value.unsqueeze(1) if shared else value for name, value in sites.items()}
        posterior = Predictive(model.model, draws if parallel else sites, parallel=parallel)(history.schedule())
        for drawn in (prior["outcomes"], posterior["outcomes"]):
            assert drawn.shape == (6, 4, 5)
            assert bool(((drawn >= 0) & (drawn <= history.dense().trials)).all())
            assert bool((drawn == drawn.round()).all())
        assert float(prior["outcomes"].std(0).max()) > 0
    delta = AutoDelta(poutine.block(model.enumerated_model, hide_fn=lambda site: site["name"][:2] in ("z_", "y_")))
    enumerated = SVI(model.enumerated_model, delta, pyro.optim.Adam({"lr": 0.01}), TraceEnum_ELBO(max_plate_nesting=1))
    assert np.isfinite(enumerated.step(history))
    drawn = poutine.trace(model.enumerated_model).get_trace(history.schedule())  # the states and outcomes are drawn
    assert drawn.nodes["y_0"]["value"].shape == (4,)


def test_counts_in_double_precision_run_as_a_pyro_model_in_single() -> None:
    model = PaperDPS(torch.ones(3, 3, dtype=torch.float64), initial=[0.5, 0.3, 0.2])
    assert track(model, 2).belief.dtype == torch.float64
    solved, trials = oracle.random_groups(4, 5, seed=1)
    history = history_of(solved, trials.clamp_min(2) * (trials > 0))
    values = {"transition": prior_theta(model, 4).matrix}
    losses = [
        elbo(max_plate_nesting=1).loss(fixed(method, values), no_guide, history)
        for elbo, method in ((TraceEnum_ELBO, model.enumerated_model), (Trace_ELBO, model.model))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_infer_discrete_draws_states_from_their_exact_smoothing_law() -> None:
    model = SolvingProgress()
    history = history_of(torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[4, 0, 4]]))
    theta = model.parameters(1)
    values = {"gaps": torch.tensor([0.1, 0.4, 0.4, 0.1]), "initial": theta.initial, "transition": theta.matrix}
    rates = [0.1, 0.5, 0.9]
    joint = np.zeros((3, 3, 3))
    for a, b, c in itertools.product(range(3), repeat=3):
        moves = theta.matrix[a, b] * theta.matrix[b, c]
        joint[a, b, c] = theta.initial[a] * moves * oracle.binomial(0, 4, rates)[a] * oracle.binomial(3, 4, rates)[c]
    joint /= joint.sum()
    at = fixed(model.enumerated_model, values)
    best = poutine.trace(infer_discrete(at, first_available_dim=-2, temperature=0)).get_trace(history)
    path = tuple(int(best.nodes[f"z_{t}"]["value"]) for t in range(3))
    assert joint[path] == pytest.approx(joint.max(), rel=1e-5)

    @infer_discrete(first_available_dim=-3, temperature=1)
    @pyro.infer.config_enumerate
    def many(history: RolloutHistory) -> None:
        with pyro.plate("draws", 4000, dim=-2):
            at(history)

    drawn = poutine.trace(many).get_trace(history)
    states = torch.stack([drawn.nodes[f"z_{t}"]["value"].reshape(-1) for t in range(3)], -1)
    counts = torch.zeros(3, 3, 3).index_put(tuple(states.T), torch.ones(4000), accumulate=True)
    likely = joint > 2e-3
    chances = np.append(joint[likely], joint[~likely].sum())
    found = np.append(counts.numpy()[likely], counts.numpy()[~likely].sum())
    assert chisquare(found, chances * 4000, sum_check=False).pvalue > 1e-3


def test_nuts_runs_on_the_model_as_it_is() -> None:
    history = history_of(*oracle.random_groups(3, 4))
    chain = MCMC(NUTS(SolvingProgress().model, max_tree_depth=3), num_samples=5, warmup_steps=5, disable_progbar=True)
    chain.run(history)
    assert chain.get_samples()["transition"].shape == (5, 3, 3)


@pytest.mark.parametrize("name", ["model", "enumerated_model"])
def test_the_model_can_be_drawn_as_a_graph(name: str) -> None:
    pytest.importorskip("graphviz")
    history = history_of(*oracle.random_groups(3, 2))
    graph = pyro.render_model(getattr(SolvingProgress(), name), model_args=(history,), render_distributions=True)
    assert "transition" in graph.source
    assert ("outcomes" if name == "model" else "z_1") in graph.source


def test_mini_batches_scale_to_an_unbiased_likelihood() -> None:
    model = oracle.OwnLadder(3)
    solved, trials = oracle.random_groups(6, 4)
    history, values = history_of(solved, trials), oracle.own_values(6, 3)

    def likelihood(rows: Tensor | None) -> float:
        at = values if rows is None else {"prompts": rows, **{name: value[rows] for name, value in values.items()}}
        batch_size = None if rows is None else len(rows)
        trace = poutine.trace(poutine.condition(model.model, at)).get_trace(history, batch_size)
        trace.compute_log_prob()
        return float(trace.nodes["outcomes"]["log_prob_sum"])

    batches = [torch.tensor(pair) for pair in itertools.combinations(range(6), 2)]
    assert np.mean([likelihood(rows) for rows in batches]) == pytest.approx(likelihood(None), rel=1e-5)


# ---------------------------------------------------------------------------------------------------------- parameters


class Awkward(Grades):
    """Priors without means of their own."""

    def prior(self, prompts: pyro.plate) -> Tensor:
        half = pyro.sample("half", dist.HalfCauchy(2.0))
        with prompts:
            shape = dist.Normal(torch.zeros(3), 1.0).to_event(1)
            ordered = dist.TransformedDistribution(shape, dist.transforms.OrderedTransform())
            cuts = pyro.sample("cuts", ordered)
            logit = pyro.sample(
                "logit", dist.TransformedDistribution(dist.Normal(1.0, 1.0), dist.transforms.SigmoidTransform())
            )
        return torch.cat([half.expand(cuts.shape[0], 1), cuts, logit.unsqueeze(-1)], -1)


def test_parameters_stand_at_prior_centres_that_are_the_same_each_time() -> None:
    before = torch.get_rng_state()
    theta = Awkward().parameters(4)
    torch.testing.assert_close(theta[0], torch.tensor([2.0, 0.0, 1.0, 2.0, 0.7310586]))
    torch.testing.assert_close(Awkward().parameters(4, rows=torch.tensor([1, 3])), theta[:2])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_prior_without_a_centre_asks_for_a_value() -> None:
    class Discrete(Grades):
        def prior(self, prompts: pyro.plate) -> Tensor:
            value: Tensor = pyro.sample("which", dist.Categorical(torch.ones(2)))
            return value

    with pytest.raises(ValueError, match="'which'"):
        Discrete().parameters(3)


def test_parameters_take_values_for_all_prompts_and_give_the_rows_asked_for() -> None:
    model, values = oracle.OwnLadder(3), oracle.own_values(6, 3)
    some = model.parameters(6, values, rows=torch.tensor([4, 1]))
    for name, part in zip(values, some, strict=True):
        assert torch.equal(part, values[name][[4, 1]])
    with pytest.raises(ValueError, match=r"'own\.initial' for 5 prompts"):
        model.parameters(5, values)
