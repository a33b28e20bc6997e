"""Fits around the most probable point, and fits that start from what was learned before."""

from __future__ import annotations

import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import oracle
from helpers.fits import TRUTH, quick, simulated
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoLaplaceApproximation, init_to_mean
from torch import Tensor
from torch.distributions import biject_to

from dps_pyro import SVI, Laplace, Posterior, RolloutHistory, Step, fit
from dps_pyro.dynamics.sites import sites_of
from dps_pyro.evaluation import compare, diagnose, to_arviz
from dps_pyro.inference.laplace import _triangle
from dps_pyro.models import SolvingProgress


def test_a_guide_that_is_a_point_is_kept_as_one_draw_and_laplaces_has_its_spread() -> None:
    """Pyro's AutoLaplaceApproximation is a point until its curvature is asked for."""
    history = simulated(60, 10)
    posterior = quick(history, steps=150, guide=AutoLaplaceApproximation, draws=50)
    reference = quick(history, steps=150, draws=50)
    for name in TRUTH:
        spread = posterior.draws[name].std(0)
        assert bool((spread > 0).all())
        assert 0.4 < float(spread.mean() / reference.draws[name].std(0).mean()) < 2.5
    point = quick(history, guide=lambda density: AutoDelta(density, init_loc_fn=init_to_mean))
    assert all(len(value) == 1 for value in point.draws.values())


def test_plates_of_ones_own_do_not_get_in_the_way() -> None:
    class Grouped(SolvingProgress):
        def prior(self, prompts: pyro.plate) -> Any:
            theta = super().prior(prompts)
            with pyro.plate("groups", 2):
                pyro.sample("offset", dist.Normal(0.0, 1.0))
            return theta

    history = simulated(8, 5)
    for posterior in (quick(history, Grouped()), fit(Grouped(), history, Laplace(draws=20), progress=False)):
        assert posterior.draws["offset"].shape == (20, 2)
        assert set(posterior.draws) == {*TRUTH, "offset"}
        groups = to_arviz(Grouped(), history, posterior)
        assert groups["prior"]["offset"].shape == groups["posterior"]["offset"].shape == (1, 20, 2)
        assert diagnose(Grouped(), history, posterior).findings()
    compared = compare({"one": Grouped(), "two": SolvingProgress()}, history, method=SVI(steps=5), progress=False)
    assert len(compared) == 2


# ------------------------------------------------------------------------------------------------------ Laplace, primed


def test_laplace_finds_what_made_the_history_and_is_the_default() -> None:
    history = simulated(200, 20)
    posterior = fit(SolvingProgress(), history, progress=False)
    assert posterior.about["method"] == "laplace" and posterior.converged
    reference = quick(history, steps=250, draws=200)
    for name in TRUTH:
        torch.testing.assert_close(posterior.point[name], reference.point[name], atol=0.03, rtol=0)
        ratio = posterior.draws[name].std(0).mean() / reference.draws[name].std(0).mean()
        assert 0.7 < float(ratio) < 1.6
    again = fit(SolvingProgress(), history, progress=False)
    assert all(torch.equal(posterior.draws[name], again.draws[name]) for name in TRUTH)
    assert fit(oracle.OwnLadder(2), simulated(4, 3), SVI(steps=2), progress=False).about["method"] == "svi"
    with pytest.raises(ValueError, match=r"sites of their own .*own.initial.*, which is for parameters that all"):
        fit(oracle.OwnLadder(2), simulated(4, 3), Laplace(), progress=False)


@given(
    hnp.arrays(float, (6, 4), elements=st.floats(-1, 1, width=32)),
    hnp.arrays(float, 4, elements=st.floats(-12, 12)),
)
def test_scales_many_orders_of_magnitude_apart_have_a_root(rows: Any, powers: Any) -> None:
    """Where they are, the product of the rows with themselves may have no Cholesky factor in double precision."""
    own = torch.cat([torch.tensor(rows), torch.eye(4, dtype=torch.float64)]) * 10 ** torch.tensor(powers)
    lower = _triangle(own)
    assert torch.equal(lower, lower.tril()) and bool((lower.diagonal() > 0).all())
    size = own.norm(dim=0)
    torch.testing.assert_close(lower @ lower.mT / size / size.unsqueeze(-1), own.mT @ own / size / size.unsqueeze(-1))


def test_scales_of_other_sites_do_not_collapse() -> None:
    """The density of weights and of their scale has no highest point: it grows without end as all of them go to 0. The
    log says nothing about them here, so that their posterior is their prior."""

    class Scaled(SolvingProgress):
        def prior(self, prompts: pyro.plate) -> Any:
            scale = pyro.sample("scale", dist.HalfNormal(torch.ones(2)).to_event(1))
            pyro.sample("weights", dist.Normal(1.0, scale.unsqueeze(-1) * torch.ones(6)).to_event(2))
            return super().prior(prompts)

    history = simulated(8, 5)
    start = fit(Scaled(), history, SVI(steps=2), progress=False)
    for method in (Laplace(draws=1000), Laplace(draws=1000, start=start)):
        found = fit(Scaled(), history, method, progress=False)
        assert found.converged and found.about["resampled"]
        scale, weights = found.draws["scale"], found.draws["weights"]
        assert scale.shape == (1000, 2) and weights.shape == (1000, 2, 6)
        assert float(scale.mean()) == pytest.approx((2 / torch.pi) ** 0.5, abs=0.15)
        assert float(weights.mean()) == pytest.approx(1.0, abs=0.1)
        assert float(weights.std()) == pytest.approx(1.0, abs=0.2)
        off = (weights - 1).abs().mean(-1)
        assert float(torch.corrcoef(torch.stack([off.flatten(), scale.flatten()]))[0, 1]) > 0.7


def test_draws_kept_by_weight_are_a_conjugate_posteriors_own() -> None:
    """One state that never moves: the rate has a Beta posterior in closed form."""

    class Coin(SolvingProgress):
        states = ("still", "gone")

        def prior(self, prompts: pyro.plate) -> Any:
            return pyro.sample("rate", dist.Beta(torch.tensor(1.0), torch.tensor(1.0)))

        def initial(self, theta: Any) -> dist.Categorical:
            return dist.Categorical(torch.tensor([1.0, 0.0]))

        def transition(self, theta: Any, step: Step) -> dist.Categorical:
            return dist.Categorical(torch.eye(2))

        def emission(self, theta: Any, step: Step) -> Any:
            return dist.Binomial(step.trials.unsqueeze(-1), theta.unsqueeze(-1).expand(*theta.shape, 2))

    history = RolloutHistory.from_dense(torch.tensor([[1.0, 0.0]]), 4)
    found = fit(Coin(), history, Laplace(draws=1000), progress=False)
    assert found.about["resampled"]
    exact = torch.distributions.Beta(torch.tensor(2.0), torch.tensor(8.0))
    assert float(found.draws["rate"].mean()) == pytest.approx(float(exact.mean), abs=0.015)
    assert float(found.draws["rate"].std()) == pytest.approx(float(exact.stddev), rel=0.15)


def test_a_primed_model_starts_from_what_was_learned_and_can_leave_it() -> None:
    learned = fit(SolvingProgress(), simulated(100, 10), progress=False)
    model = SolvingProgress().primed(learned, widen=2.0)
    prior = sites_of(model, 3)
    for name in ("gaps", "initial"):
        drawn = torch.stack([sites_of_draw(model)[name] for _ in range(400)])
        free, of = (biject_to(prior[name]["fn"].support).inv(value) for value in (drawn, learned.draws[name]))
        torch.testing.assert_close(free.mean(0), of.mean(0), atol=0.15, rtol=0.15)
        torch.testing.assert_close(free.std(0), 2 * of.std(0), atol=0.05, rtol=0.25)
    nothing = RolloutHistory.from_dense(torch.tensor([[4.0]]), 8)
    own, kept = (fit(SolvingProgress(), nothing, prior=prior, progress=False) for prior in (None, learned))
    off = {name: float((kept.point[name] - learned.point[name]).abs().max()) for name in TRUTH}
    assert max(off.values()) < 0.1  # the one group tells of the start alone, and means move as the prior is widened
    assert float((own.point["initial"] - learned.point["initial"]).abs().max()) > 0.1
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(twin.parameters(3).rates, model.parameters(3).rates)
    with pytest.raises(ValueError, match="posterior: expected at least two draws, whose spread is the prior's, got 1"):
        SolvingProgress().primed(quick(simulated(5, 3), guide="delta"))
    with pytest.raises(ValueError, match=r"posterior: expected draws of 'transition' of shape \(3, 3\), got \(2, 2\)"):
        SolvingProgress().primed(Posterior({"transition": torch.rand(4, 2, 2)}, {}, torch.zeros(0), True)).parameters(2)


@pytest.mark.parametrize("guide", ["normal", "low_rank"])
def test_a_fit_of_a_primed_model_begins_where_its_prior_stands(guide: Any) -> None:
    known = {"gaps": [0.1, 0.4, 0.3, 0.2], "initial": [0.7, 0.2, 0.1], "transition": [[0.98, 0.01, 0.01]] * 3}
    narrow = {name: dist.Dirichlet(1e4 * torch.tensor(value)).sample(torch.Size([50])) for name, value in known.items()}
    learned = Posterior(narrow, {}, torch.zeros(0), True)
    found = quick(RolloutHistory.from_dense(torch.tensor([[4.0]]), 8), steps=1, draws=200, guide=guide, prior=learned)
    for name, value in known.items():
        torch.testing.assert_close(found.draws[name].median(0).values, torch.tensor(value), atol=0.03, rtol=0.05)


def sites_of_draw(model: Any) -> dict[str, Tensor]:
    trace = poutine.trace(model.prior).get_trace(pyro.plate("prompts", 3, dim=-1))
    return {name: site["value"] for name, site in trace.iter_stochastic_nodes()}
