"""NUTS: its settings reach the sampler, its chains are compared, and its transitions are told of."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers.fits import TRUTH, simulated, svi
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor

from dps_pyro import NUTS, Posterior, fit
from dps_pyro.evaluation import to_arviz
from dps_pyro.inference.nuts import Chain, agreement
from dps_pyro.models import SolvingProgress


def sampled(**settings: Any) -> Posterior:
    method = NUTS(**{"warmup": 8, "draws": 6, "max_tree_depth": 4, **settings})
    torch.manual_seed(3)
    return fit(SolvingProgress(), simulated(4, 3), method, progress=False)


def test_nuts_and_svi_agree_on_a_small_history() -> None:
    history = simulated(10, 4, missing=0.2)
    approximate = svi(SolvingProgress(), history, steps=150, draws=100)
    exact = fit(
        SolvingProgress(), history, NUTS(warmup=40, draws=30, max_tree_depth=4, start=approximate), progress=False
    )
    for name, truth in TRUTH.items():
        assert exact.draws[name].shape == (30, *truth.shape)
        spread = exact.draws[name].std(0) + 0.02
        assert bool(((approximate.point[name] - exact.point[name]).abs() < 3 * spread).all()), name
    assert len(exact.losses) == 0
    assert (exact.about["steps"], exact.about["draws"]) == (40, 30)
    assert exact.converged == (exact.about["divergences"] == 0 and exact.about["r_hat"] < 1.05)


def test_chains_are_compared_and_their_transitions_kept() -> None:
    posterior = sampled(chains=2, max_tree_depth=4, dense_mass=True)
    assert posterior.about["chains"] == 2 and posterior.about["draws"] == 12
    assert posterior.about["r_hat"] > 0 and math.isfinite(posterior.about["effective_draws"])
    one, two = posterior.draws["gaps"].unflatten(0, (2, 6))
    assert not torch.equal(one, two)
    stats = posterior.sample_stats
    assert set(stats) == {"diverging", "energy", "tree_depth", "n_steps", "step_size", "acceptance_rate"}
    assert all(value.shape == (12,) for value in stats.values())
    assert bool(((stats["tree_depth"] >= 1) & (stats["tree_depth"] <= 4)).all())
    assert bool((stats["n_steps"] < 2**4).all() and stats["energy"].isfinite().all())
    assert int(stats["diverging"].sum()) == posterior.about["divergences"]
    assert bool(((stats["acceptance_rate"] >= 0) & (stats["acceptance_rate"] <= 1)).all())
    found = to_arviz(SolvingProgress(), simulated(4, 3), posterior)["sample_stats"]
    assert found["diverging"].shape == found["energy"].shape == (2, 6)


def test_the_target_acceptance_sets_the_step_size() -> None:
    small, large = (
        float(sampled(warmup=20, max_tree_depth=3, target_accept=at).sample_stats["step_size"][0]) for at in (0.99, 0.3)
    )
    assert small < large


def test_chains_are_the_same_here_and_in_other_processes() -> None:
    here, beside = (sampled(chains=2, processes=processes, warmup=3, draws=4) for processes in (1, 2))
    assert all(torch.equal(here.draws[name], beside.draws[name]) for name in TRUTH)


def test_reparametrised_sites_are_drawn_as_the_models_own() -> None:
    class Offset(SolvingProgress):
        def prior(self, prompts: pyro.plate) -> Any:
            scale = pyro.sample("scale", dist.HalfNormal(torch.tensor(1.0)))
            pyro.sample("offset", dist.Normal(torch.zeros(3), scale).to_event(1))
            return super().prior(prompts)

    method = NUTS(warmup=5, draws=4, max_tree_depth=3, reparam={"offset": LocScaleReparam(0.0)})
    found = fit(Offset(), simulated(4, 3), method, progress=False)
    assert set(found.draws) == {*TRUTH, "scale", "offset"}
    assert found.draws["offset"].shape == (4, 3)


def test_chains_that_do_not_agree_have_not_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(drift: bool, diverging: bool, draws: int = 100) -> Posterior:
        def made(*_: Any) -> list[Chain]:
            still = {"gaps": torch.rand(draws, 4)}
            moving = {"initial": torch.linspace(0, 1, draws).unsqueeze(-1).expand(-1, 3)} if drift else {}
            return [Chain(still | moving, {"diverging": torch.arange(draws) < int(diverging)})]

        monkeypatch.setattr("dps_pyro.inference.fitting.run_chains", made)
        return sampled(draws=draws)

    assert run(drift=False, diverging=False).converged
    assert not run(drift=False, diverging=False, draws=3).converged  # too few to tell
    assert not run(drift=False, diverging=True).converged
    drifted = run(drift=True, diverging=False)
    assert drifted.about["r_hat"] > 1.5 and not drifted.converged


def test_agreement_of_no_draws_is_not_known() -> None:
    nothing: dict[str, Tensor] = {}
    assert agreement(nothing) == {"r_hat": None, "effective_draws": None}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chains": 0}, "chains: .* got 0"),
        ({"target_accept": 1.0}, r"target_accept: expected a number in \(0, 1\), got 1.0"),
        ({"start": "somewhere"}, "start: expected 'prior', 'mean' or a Posterior, got 'somewhere'"),
        ({"reparam": {"gaps": "centred"}}, r"reparam\['gaps'\]: expected an instance of Reparam"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NUTS(**settings)
