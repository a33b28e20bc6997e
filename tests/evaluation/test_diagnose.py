"""A fit held against its log: scores, their differences, ArviZ's groups and posterior predictive checks."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import oracle
from helpers.fits import svi

from dps_pyro import Laplace, Posterior, RolloutHistory, fit
from dps_pyro.evaluation.arviz import to_arviz, to_netcdf
from dps_pyro.evaluation.elpd import difference, held_out, log_likelihood, loo, prequential
from dps_pyro.evaluation.predictive import Check, predictive_checks, replicate
from dps_pyro.evaluation.smoothing import law
from dps_pyro.inference.pareto import good_k, k_hat, psis
from dps_pyro.models import BetaBernoulli, PaperDPS, SolvingProgress
from dps_pyro.models.hierarchical import Hierarchical

N, T = 24, 6


@cache
def log() -> RolloutHistory:
    """A log of `SolvingProgress` with a prompt never rolled out, features and ids."""
    schedule = RolloutHistory([f"p{i}" for i in range(N)], num_steps=T, features={"group": ["a", "b"] * (N // 2)})
    generator = torch.Generator().manual_seed(3)
    for step in range(T):
        rows = (torch.rand(N, generator=generator) < 0.7).nonzero().squeeze(-1)
        rows = rows[rows != 5]
        schedule.append(rows, step=step, solved=[0.0] * len(rows), trials=8)
    torch.manual_seed(4)
    outcomes = SolvingProgress().model(schedule.schedule())
    made = RolloutHistory(schedule.ids or [], num_steps=T, features=schedule.features)
    for step in range(T):
        rows = schedule.events.prompt[schedule.events.step == step]
        made.append(rows, step=step, solved=outcomes[rows, step], trials=8)
    return made


@cache
def posterior() -> Posterior:
    return fit(SolvingProgress(), log(), Laplace(draws=60), progress=False)


def az() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz

    return arviz


# -------------------------------------------------------------------------------------------------------------- scores


def test_the_likelihood_of_every_draw_is_the_sum_over_all_paths() -> None:
    terms = log_likelihood(SolvingProgress(), log(), posterior().draws)
    solved, trials, _, _ = log().dense()
    assert solved is not None
    assert terms.shape == (60, N)
    for draw, prompt in ((0, 0), (17, 3), (59, 23)):
        initial, matrix = (posterior().draws[name][draw].double().numpy() for name in ("initial", "transition"))
        rates = posterior().draws["gaps"][draw].double().numpy().cumsum()[:3].clip(0, 1)
        pairs = zip(solved[prompt].tolist(), trials[prompt].tolist(), strict=True)
        seen = [oracle.binomial(k, n, rates) for k, n in pairs]
        exact, _ = oracle.brute_force(initial, [matrix] * T, seen)
        assert float(terms[draw, prompt]) == pytest.approx(exact, abs=1e-3)
    assert bool((terms[:, 5].abs() < 1e-5).all())  # never rolled out


def test_loo_is_arvizs_on_the_groups_made_for_it() -> None:
    score = loo(SolvingProgress(), log(), posterior())
    assert len(score.rows) == N - 1 and 5 not in score.rows.tolist()
    terms = log_likelihood(SolvingProgress(), log(), posterior().draws)
    seen = score.rows
    plain, pareto = psis(-terms[:, seen])
    groups = to_arviz(SolvingProgress(), log(), posterior())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = az().loo(groups, pointwise=True, var_name="outcomes", reff=1.0)
    named = theirs.elpd_i if hasattr(theirs, "elpd_i") else theirs.loo_i
    ours = (plain + terms[:, seen]).logsumexp(0)
    np.testing.assert_allclose(np.asarray(named)[seen.numpy()], ours.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.asarray(theirs.pareto_k)[seen.numpy()], pareto.numpy(), atol=1e-5)


def test_loo_is_what_leaving_prompts_out_gives() -> None:
    """Against fits without some of the prompts, whose held-out score needs no approximation."""
    score = loo(SolvingProgress(), log(), posterior())
    events = log().events
    folds = [torch.arange(fold, N, 4) for fold in range(4)]
    terms = torch.zeros(N, dtype=torch.float64)
    for fold in folds:
        out = torch.isin(events.prompt, fold)
        without = fit(SolvingProgress(), log().where(~out), Laplace(draws=60), progress=False)
        left = held_out(SolvingProgress(), log().where(out), without)
        assert left.pareto_k is None and len(left.bad) == 0
        terms[left.rows] = left.terms
    assert score.total == pytest.approx(float(terms.sum()), abs=0.1 * abs(score.total))
    assert float(torch.corrcoef(torch.stack([score.terms, terms[score.rows]]))[0, 1]) > 0.95


def test_prompts_own_parameters_are_integrated_out() -> None:
    model = Hierarchical(log().features["group"], levels=3, nodes=None)  # type: ignore[arg-type]
    found = svi(model, log(), steps=60, draws=12, progress=False)
    values = {name: value[0] for name, value in found.draws.items() if name != "z_prompt"}
    # By quadrature: a grid of z with the standard normal's weights.
    grid = torch.linspace(-6, 6, 241)
    by_point = torch.stack([
        law(model, log(), {**values, "z_prompt": torch.full((N,), float(z))}).log_prob(log().dense().solved).double()
        for z in grid
    ])  # fmt: skip
    exact = (by_point + torch.log_softmax(-0.5 * grid.double() ** 2, 0).unsqueeze(-1)).logsumexp(0)
    terms = log_likelihood(model, log(), found.draws, copies=64)
    assert terms.shape == (12, N)
    torch.testing.assert_close(terms[0], exact, atol=0.05, rtol=0)
    as_drawn = log_likelihood(model, log(), found.draws, copies=0)
    own = law(model, log(), {name: value[3] for name, value in found.draws.items()}).log_prob(log().dense().solved)
    torch.testing.assert_close(as_drawn[3], own.double(), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"draws: expected those of .*gaps.*, got none of gaps"):
        log_likelihood(model, log(), {name: value for name, value in found.draws.items() if name != "gaps"})
    assert math.isfinite(loo(model, log(), found).total)


def test_the_prequential_score_is_the_likelihoods_by_the_chain_rule() -> None:
    score = prequential(SolvingProgress(), log(), posterior().point)
    whole = law(SolvingProgress(), log(), posterior().point)
    solved = log().dense().solved
    assert solved is not None
    torch.testing.assert_close(score.elpd.terms, whole.log_prob(solved)[score.elpd.rows].double(), atol=2e-4, rtol=1e-4)
    by_step = whole.log_evidence(solved).double().sum(-1)
    torch.testing.assert_close(score.by_step, by_step, atol=2e-4, rtol=1e-4)
    assert score.per_group == pytest.approx(float(by_step.sum()) / len(log()), abs=1e-4)


def test_baselines_have_a_prequential_score_of_the_same_groups() -> None:
    """Before anything is seen, a Beta(1, 1) gives every count of a group of 8 the chance 1/9."""
    first = log().where(log().events.step == 0)
    score = prequential(BetaBernoulli(), first)
    torch.testing.assert_close(score.elpd.terms, torch.full_like(score.elpd.terms, -math.log(9)))
    fitted = prequential(SolvingProgress(), log(), posterior().point)
    for model in (PaperDPS(), BetaBernoulli()):
        paired = difference(fitted.elpd, prequential(model, log()).elpd)
        assert paired.total > 2 * paired.standard_error


def test_differences_are_paired_by_prompt() -> None:
    score = loo(SolvingProgress(), log(), posterior())
    better = score._replace(terms=score.terms + 0.1)
    found = difference(better, score)
    assert found.total == pytest.approx(0.1 * len(score.terms))
    assert found.standard_error == pytest.approx(0.0, abs=1e-6)
    assert score.standard_error == pytest.approx(float(score.terms.std()) * math.sqrt(len(score.terms)))
    with pytest.raises(ValueError, match="other: expected scores of the same 23 prompts, got others"):
        difference(score, better._replace(rows=torch.arange(23)))


def test_k_hat_tells_a_good_guide_from_a_narrow_one() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(500, generator=generator, dtype=torch.float64)

    def weights(scale: float) -> Posterior:
        """Of draws from Normal(0, scale) for a Normal(0, 1)."""
        draw = scale * z
        ratio = -0.5 * draw**2 + 0.5 * z**2 + math.log(scale)
        return Posterior({"x": draw}, {"x": draw.mean()}, torch.zeros(0), True, log_weights=ratio)

    wide, narrow = k_hat(weights(1.3)), k_hat(weights(0.4))
    assert wide is not None and narrow is not None
    assert wide < 0.3 < 0.7 < narrow
    assert k_hat(Posterior({}, {}, torch.zeros(0), True)) is None
    assert good_k(100) == pytest.approx(0.5) and good_k(10_000) == 0.7


def test_weights_of_a_good_guide_correct_the_score() -> None:
    """Draws from a guide twice as wide as it should be, weighted, give the posterior's score."""
    exact = svi(SolvingProgress(), log(), steps=100, draws=100)
    flat = Posterior(exact.draws, exact.point, exact.losses, True, log_weights=torch.zeros(100))
    assert loo(SolvingProgress(), log(), flat).corrected is False  # all weights the same: their k is not known
    tilted = flat.__class__(**{**vars(flat), "log_weights": exact.draws["gaps"][:, 1].double()})
    one, other = loo(SolvingProgress(), log(), tilted), loo(SolvingProgress(), log(), flat)
    assert one.corrected
    assert one.total != other.total
    by_hand = log_likelihood(SolvingProgress(), log(), exact.draws)[:, one.rows]
    weight = exact.draws["gaps"][:, 1].double().unsqueeze(-1) - by_hand
    plain = (by_hand + weight - weight.logsumexp(0)).logsumexp(0)  # no smoothing
    torch.testing.assert_close(one.terms, plain, atol=0.05, rtol=0)


# --------------------------------------------------------------------------------------------------------------- ArviZ


def test_arviz_has_all_groups_with_their_dimensions(tmp_path: Path) -> None:
    groups = to_arviz(SolvingProgress(), log(), posterior())
    size = len(log())
    expected = {
        "posterior": {"gaps": (1, 60, 4), "initial": (1, 60, 3), "transition": (1, 60, 3, 3)},
        "prior": {"gaps": (1, 60, 4), "initial": (1, 60, 3), "transition": (1, 60, 3, 3)},
        "log_likelihood": {"outcomes": (1, 60, N)},
        "posterior_predictive": {"outcomes": (1, 60, size)},
        "observed_data": {"outcomes": (size,)},
        "constant_data": {"trials": (size,), "group_prompt": (size,), "group_step": (size,), "feature_group": (N,)},
        "sample_stats": {"lp": (1, 60)},
    }
    for group, variables in expected.items():
        for name, shape in variables.items():
            assert groups[group][name].shape == shape, (group, name)
    assert groups["log_likelihood"]["outcomes"].dims == ("chain", "draw", "prompt")
    assert list(groups["log_likelihood"]["prompt"].values) == log().ids
    assert groups["constant_data"]["feature_group"].values.tolist() == log().features["group"]
    at = {name: groups["constant_data"][name].values for name in ("group_prompt", "group_step")}
    solved = log().dense().solved
    assert solved is not None
    seen = groups["observed_data"]["outcomes"].values
    np.testing.assert_array_equal(seen, solved.numpy()[at["group_prompt"], at["group_step"]])
    path = to_netcdf(groups, tmp_path / "fit.nc")
    again = az().from_netcdf(str(path))
    np.testing.assert_array_equal(again["posterior"]["gaps"].values, groups["posterior"]["gaps"].values)


@pytest.mark.filterwarnings("ignore")  # ArviZ 0.23 uses what Matplotlib is about to drop
def test_arvizs_plots_of_chains_run() -> None:
    """On ArviZ 0.23, which has InferenceData, and on 1.x, which has DataTree."""
    import matplotlib as mpl
    from matplotlib import pyplot

    mpl.use("Agg")
    generator = torch.Generator().manual_seed(0)
    stats = {
        "diverging": torch.zeros(60, dtype=torch.bool),
        "energy": torch.randn(60, generator=generator),
        "tree_depth": torch.full((60,), 3),
    }
    chains = replace(posterior(), about=posterior().about | {"chains": 2}, sample_stats=stats)
    groups = to_arviz(SolvingProgress(), log(), chains)
    assert groups["posterior"]["gaps"].shape == (2, 30, 4)
    for name in ("plot_trace", "plot_rank", "plot_forest"):
        assert getattr(az(), name)(groups, var_names=["initial"]) is not None, name
    assert az().plot_energy(groups) is not None
    summary = az().summary(groups, var_names=["initial"])
    assert [name.removeprefix("initial") for name in summary.index] == [f"[{name}]" for name in SolvingProgress.states]
    pyplot.close("all")


def test_prompts_own_sites_have_the_prompts_as_a_dimension() -> None:
    model = Hierarchical(levels=3, nodes=None)
    found = svi(model, log(), steps=30, draws=6, progress=False)
    groups = to_arviz(model, log(), found, copies=0)
    for group in ("posterior", "prior"):
        assert groups[group]["z_prompt"].dims == ("chain", "draw", "prompt")
        assert groups[group]["prompt_scale"].dims == ("chain", "draw", "prompt_scale_dim_0")


def test_the_joint_density_is_priors_and_likelihood() -> None:
    lp = to_arviz(SolvingProgress(), log(), posterior())["sample_stats"]["lp"].values[0]
    terms = log_likelihood(SolvingProgress(), log(), posterior().draws).sum(-1)
    model, draws = SolvingProgress(), posterior().draws
    prior = torch.distributions.Dirichlet(model.rate_gaps, validate_args=False).log_prob(draws["gaps"])
    prior += torch.distributions.Dirichlet(model.initial_concentration, validate_args=False).log_prob(draws["initial"])
    rows = torch.distributions.Dirichlet(model.transition_concentration, validate_args=False)
    prior += rows.log_prob(draws["transition"]).sum(-1)
    np.testing.assert_allclose(lp, (prior + terms).numpy(), rtol=1e-4, atol=0.01)


# ------------------------------------------------------------------------------------------ posterior predictive checks


def test_replications_are_drawn_on_the_logs_own_schedule() -> None:
    drawn = replicate(SolvingProgress(), log(), posterior().draws, seed=1)
    assert drawn.shape == (60, len(log()))
    assert bool(((drawn >= 0) & (drawn <= 8) & (drawn == drawn.round())).all())
    assert torch.equal(drawn, replicate(SolvingProgress(), log(), posterior().draws, seed=1))
    # At one value of the parameters, the replications' first groups have the emission's own frequencies.
    same = {name: value[:1].expand(400, *value.shape[1:]) for name, value in posterior().draws.items()}
    first = replicate(SolvingProgress(), log(), same)[:, 0]
    rates = same["gaps"][0].cumsum(-1)[:3]
    expected = float((same["initial"][0] * rates).sum())
    assert abs(float(first.mean()) / 8 - expected) < 0.08


def test_checks_are_counted_right_by_hand() -> None:
    solved = torch.tensor([[0.0, 0.0, 4.0], [8.0, 8.0, 0.0], [0.0, 0.0, 0.0]])
    trials = torch.tensor([[8, 8, 8], [8, 0, 8], [8, 8, 0]])
    history = RolloutHistory.from_dense(solved, trials)
    values = {name: value[:40] for name, value in posterior().draws.items()}
    found = {check.name: check for check in predictive_checks(SolvingProgress(), history, values, sequential=False)}
    assert found["useful share by step"].observed.tolist() == [0.0, 0.0, 0.5]
    assert found["useful share by step"].at.tolist() == [0, 1, 2]
    assert found["prompts always wrong"].observed.tolist() == [pytest.approx(1 / 3)]
    assert found["prompts always right"].observed.tolist() == [0.0]
    assert found["changes of class"].observed.tolist() == [pytest.approx(2 / 4)]
    torch.testing.assert_close(found["solve rate by visit"].observed, torch.tensor([1 / 3, 0.0]).double())
    assert all(check.replicated.shape == (40, len(check.at)) for check in found.values())


def test_a_model_passes_its_own_log_and_fails_anothers() -> None:
    for check in predictive_checks(SolvingProgress(), log(), posterior().draws):
        assert check.tail > 0.01, check.name
    # Success rates drawn anew at every visit: nothing lasts, and the states of a model that lasts cannot do that.
    torch.manual_seed(0)
    solved = torch.distributions.Binomial(8, torch.rand(60, 10)).sample()
    history = RolloutHistory.from_dense(solved, 8)
    sticky = fit(SolvingProgress(transition=[[9e4, 1, 1], [1, 9e4, 1], [1, 1, 9e4]]), history, progress=False)
    failed = {check.name for check in predictive_checks(SolvingProgress(), history, sticky.draws) if check.tail < 0.02}
    assert "changes of class" in failed


def test_a_tail_probability_is_that_of_the_furthest_point() -> None:
    torch.manual_seed(0)
    replicated = torch.randn(999, 5, dtype=torch.float64)
    inside = Check("x", torch.arange(5), torch.zeros(5).double(), replicated)
    outside = inside._replace(observed=torch.tensor([0, 0, 6, 0, 0]).double())
    assert inside.tail > 0.99 and outside.tail == pytest.approx(0.001)
    low, high = inside.band()
    torch.testing.assert_close(torch.stack([-low, high]), torch.full((2, 5), 1.96).double(), atol=0.25, rtol=0)
    tails = [inside._replace(observed=row).tail for row in torch.randn(300, 5, dtype=torch.float64)]
    assert abs(float(np.mean(np.array(tails) < 0.2)) - 0.2) < 0.07  # uniform if the log is one of the replications
