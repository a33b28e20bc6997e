"""Fitting: it finds what made the data, the same each time, and leaves nothing behind."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from helpers import oracle
from helpers.fits import TRUTH, quick, simulated, svi
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor

from dps_pyro import NUTS, Posterior, PromptSampler, RolloutHistory, fit
from dps_pyro.inference import svi as search
from dps_pyro.inference.methods import method_named
from dps_pyro.inference.svi import flat
from dps_pyro.models import Covariate, Hierarchical, PaperDPS, SolvingProgress


def test_svi_finds_the_parameters_that_made_the_history() -> None:
    posterior = svi(SolvingProgress(), simulated(300, 30), steps=200, draws=100, progress=False)
    for name, tolerance in (("gaps", 0.03), ("initial", 0.08), ("transition", 0.05)):
        torch.testing.assert_close(posterior.point[name], TRUTH[name], atol=tolerance, rtol=0)
        assert posterior.draws[name].shape == (100, *TRUTH[name].shape)
        torch.testing.assert_close(posterior.draws[name].mean(0), posterior.point[name])
        torch.testing.assert_close(posterior.point[name].sum(-1), torch.ones(TRUTH[name].shape[:-1]))
    assert posterior.about["model"] == "SolvingProgress"
    assert set(posterior.draws) == set(TRUTH)


def test_the_seed_decides_the_fit_and_nothing_is_left_behind() -> None:
    history = simulated(10, 6)
    pyro.param("mine", torch.ones(2))
    state, names = torch.get_rng_state(), set(pyro.get_param_store().keys())
    one = quick(history)
    assert torch.equal(torch.get_rng_state(), state)
    assert set(pyro.get_param_store().keys()) == names == {"mine"}
    torch.manual_seed(99)
    same, other = quick(history), quick(history, seed=1)
    assert torch.equal(one.losses, same.losses)
    assert all(torch.equal(one.draws[name], same.draws[name]) for name in TRUTH)
    assert not torch.equal(one.point["gaps"], other.point["gaps"])


def test_a_flat_elbo_ends_the_fit_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "WINDOW", 40)  # steps, where it is a hundred
    history = simulated(20, 5)
    flat = quick(history, steps=1000, tolerance=1.0)
    assert flat.converged
    # Three windows until it is flat, and two more with small steps.
    assert len(flat.losses) == flat.about["steps"] == 200
    hasty = quick(history, steps=10)
    assert not hasty.converged
    assert len(hasty.losses) == 10


def test_mini_batches_fit_models_with_parameters_of_each_prompt() -> None:
    history = simulated(12, 4)
    for model, batch_size in ((oracle.OwnLadder(3), 5), (PaperDPS(), 12), (oracle.OwnLadder(2), None)):
        posterior = quick(history, model, batch_size=batch_size, steps=20)
        assert all(value.shape[:2] == (20, 12) for value in posterior.draws.values())
        if isinstance(model, PaperDPS):
            with pytest.raises(ValueError, match="values: expected none, as PaperDPS counts online"):
                PromptSampler(model, 12, posterior=posterior)
            continue
        sampler = PromptSampler(model, 12, posterior=posterior)
        sampler.observe(sampler.select(4), [0, 1, 2, 3], 4)
        assert bool(sampler.belief.isfinite().all())


def test_a_posterior_plugs_into_a_sampler_and_changes_what_it_believes() -> None:
    posterior = quick(simulated(100, 10), steps=100)
    plain, fitted = PromptSampler(SolvingProgress(), 9), PromptSampler(SolvingProgress(), 9, posterior=posterior)
    torch.testing.assert_close(fitted.belief, posterior.point["initial"].expand(9, 3))
    assert float((plain.belief - fitted.belief).abs().max()) > 0.1
    for sampler in (plain, fitted):
        sampler.observe([0], [1], 8)
    assert float((plain.belief - fitted.belief)[0].abs().max()) > 0.01


@pytest.mark.parametrize("num_prompts", [4, 6])
def test_a_posterior_of_other_prompts_is_refused_where_each_has_parameters_of_its_own(num_prompts: int) -> None:
    values = oracle.own_values(5, 3)
    posterior = Posterior({name: value[None] for name, value in values.items()}, values, torch.zeros(0), True)
    with pytest.raises(ValueError, match=f"'own.initial' for {num_prompts} prompts"):
        PromptSampler(oracle.OwnLadder(3), num_prompts, posterior=posterior)


def test_a_saved_posterior_comes_back_exactly(tmp_path: Path) -> None:
    posterior = quick(simulated(6, 4), oracle.OwnLadder(2))
    again = Posterior.load(posterior.save(tmp_path / "posterior"))
    posterior.save(tmp_path / "posterior")  # over the first
    assert again.about == posterior.about
    assert again.converged == posterior.converged
    assert torch.equal(again.losses, posterior.losses)
    for one, other in ((again.draws, posterior.draws), (again.point, posterior.point)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_damaged_posterior_is_named(tmp_path: Path) -> None:
    folder = quick(simulated(6, 4)).save(tmp_path / "posterior")
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({name: value for name, value in state.items() if name != "about"}))
    with pytest.raises(ValueError, match="posterior: expected a saved posterior, got a state without 'about'"):
        Posterior.load(folder)
    file = folder / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"posterior/state\.safetensors"):
        Posterior.load(folder)
    with pytest.raises(ValueError, match="nowhere"):
        Posterior.load(tmp_path / "nowhere")


def test_nothing_to_learn_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="history: expected at least one group"):
        svi(SolvingProgress(), RolloutHistory(5), progress=False)
    with pytest.raises(TypeError, match=r"method: expected Laplace\(...\), SVI\(...\) or NUTS\(...\), got 3"):
        fit(SolvingProgress(), simulated(3, 3), 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="history: expected outcomes to learn from, got a schedule"):
        quick(simulated(3, 3).schedule())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": SolvingProgress}, "dynamics: .* got the class SolvingProgress itself"),
        ({"model": "solving"}, "dynamics: .* got 'solving'"),
        ({"history": [1, 2]}, "history: expected an instance of RolloutHistory"),
        ({"steps": 0}, "steps: .* got 0"),
        ({"steps": 2.5}, "steps: .* got 2.5"),
        ({"draws": 0}, "draws: .* got 0"),
        ({"batch_size": 0}, "batch_size: .* got 0"),
        ({"batch_size": 4}, r"batch_size: expected a whole number in 1\.\.3, got 4"),
        ({"learning_rate": 0}, "learning_rate: expected a number above 0, got 0"),
        ({"learning_rate": "fast"}, "learning_rate: .* got 'fast'"),
        ({"learning_rate": float("nan")}, "learning_rate: .* got nan"),
        ({"tolerance": -1e-3}, "tolerance: expected a number of at least 0, got -0.001"),
        ({"seed": "x"}, "seed: .* got 'x'"),
        (
            {"guide": "full"},
            "guide: expected one of 'normal', .* or a function of a model, got 'full'",
        ),
        ({"restarts": 0}, "restarts: .* got 0"),
        ({"seconds": 0}, "seconds: expected a number above 0, got 0"),
        ({"start": {}}, "start: expected an instance of Posterior"),
    ],
)
def test_arguments_of_a_fit_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        svi(**{"model": SolvingProgress(), "history": simulated(3, 3), **arguments})


def one_group(num_prompts: int, solved: float, trials: int, num_steps: int = 4) -> RolloutHistory:
    full = torch.full((num_prompts, num_steps), float(solved), dtype=torch.float64)
    history = RolloutHistory(num_prompts)
    for t in range(num_steps):
        history.append(range(num_prompts), step=t, solved=full[:, t], trials=trials)
    return history


def test_only_missing_steps_leave_the_prior() -> None:
    posterior = quick(one_group(4, 0, 0), steps=200, draws=400)
    prior = SolvingProgress().parameters(4)
    torch.testing.assert_close(posterior.point["initial"], prior.initial, atol=0.1, rtol=0)
    torch.testing.assert_close(posterior.point["transition"], prior.matrix, atol=0.06, rtol=0)


@pytest.mark.parametrize(("num_prompts", "solved"), [(1, 0), (1, 3), (20, 0), (20, 8)])
def test_one_prompt_or_one_outcome_can_be_fitted(num_prompts: int, solved: int) -> None:
    posterior = quick(one_group(num_prompts, solved, 8), steps=80)
    assert all(bool(value.isfinite().all()) for value in posterior.point.values())
    sampler = PromptSampler(SolvingProgress(), num_prompts, posterior=posterior)
    expected = {0: 0, 3: 1, 8: 2}[solved]
    if num_prompts > 1:
        assert int(sampler.belief[0].argmax()) == expected


def test_a_loss_that_is_no_number_says_at_which_step() -> None:
    class Broken(SolvingProgress):
        calls = 0

        def initial(self, theta: Any) -> Any:
            self.calls += 1
            nan: Tensor = theta.initial * (float("nan") if self.calls > 5 else 1.0)
            return pyro.distributions.Categorical(nan, validate_args=False)

    with (
        pyro.validation_enabled(False),
        pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step [0-9]"),
    ):
        quick(simulated(4, 3), Broken())


# --------------------------------------------------------------------------------------- guides, restarts, time, starts


@cache
def usual() -> tuple[RolloutHistory, Posterior]:
    """A history, and what the usual guide finds."""
    torch.manual_seed(0)
    history = simulated(60, 10)
    return history, quick(history, steps=150, draws=50)


@pytest.mark.parametrize("guide", ["normal", "low_rank", "delta", AutoMultivariateNormal])
def test_every_guide_finds_the_same_centre(guide: Any) -> None:
    history, reference = usual()
    posterior = quick(history, steps=150, guide=guide, draws=50)
    for name in TRUTH:
        torch.testing.assert_close(posterior.point[name], reference.point[name], atol=0.12, rtol=0)
        assert len(posterior.draws[name]) == posterior.about["draws"] == (1 if guide == "delta" else 50)
    assert (posterior.log_weights is None) == (guide == "delta")
    assert posterior.about["guide"] == (guide if isinstance(guide, str) else "AutoMultivariateNormal")


def test_the_guide_has_correlations_where_parameters_are_few_and_shared() -> None:
    history = simulated(6, 4)
    assert quick(history, steps=2).about["guide"] == "low_rank"
    assert quick(history, steps=2, batch_size=3).about["guide"] == "low_rank"
    assert quick(history, oracle.OwnLadder(2), steps=2).about["guide"] == "normal"
    assert quick(history, Covariate(torch.randn(6, 90)), steps=2).about["guide"] == "normal"  # 3 x 90 weights
    assert quick(history, steps=2, guide="normal").about["guide"] == "normal"


def test_log_weights_are_those_of_the_draws(tmp_path: Path) -> None:
    history = simulated(12, 5)
    posterior = quick(history, guide="low_rank", draws=4)
    weights = posterior.log_weights
    assert weights is not None and weights.shape == (4,)
    assert torch.equal(Posterior.load(posterior.save(tmp_path)).log_weights, weights)  # type: ignore[arg-type]
    # Weighted draws estimate the evidence: the mean weight is exp of minus the loss at best.
    assert float(weights.mean()) == pytest.approx(-float(posterior.losses[-10:].mean()), rel=0.1)
    assert quick(history, batch_size=5).log_weights is None
    assert quick(history, oracle.OwnLadder(2)).log_weights is None


def test_a_guide_that_ties_prompts_together_refuses_mini_batches() -> None:
    history = simulated(6, 4)
    with pytest.raises(ValueError, match=r"guide: expected 'normal' or 'delta' with mini-batches .*'own\.initial'"):
        quick(history, oracle.OwnLadder(2), guide="low_rank", batch_size=3)
    assert quick(history, oracle.OwnLadder(2), guide="low_rank").draws["own.rates"].shape == (20, 6, 2)
    assert quick(history, guide="low_rank", batch_size=3).about["batch_size"] == 3  # nothing is a prompt's own


def test_restarts_are_judged_and_the_best_goes_on() -> None:
    history = simulated(20, 6)
    posterior = quick(history, restarts=3, steps=40)
    judged = posterior.about["restart_losses"]
    assert len(judged) == 3 and len(set(judged)) == 3
    assert len(posterior.losses) == posterior.about["steps"] == 40
    again = quick(history, restarts=3, steps=40)
    assert torch.equal(again.losses, posterior.losses)
    leg = posterior.losses[:6]
    assert float(leg[-2:].mean()) == pytest.approx(min(judged))


def test_time_stops_a_fit() -> None:
    posterior = quick(simulated(20, 6), steps=100_000, tolerance=0, seconds=0.3)
    assert posterior.about["stopped"] == "time"
    assert not posterior.converged
    assert 1 <= len(posterior.losses) < 100_000
    assert quick(simulated(5, 3)).about["stopped"] == "steps"


@pytest.mark.parametrize("guide", ["normal", "low_rank", "delta"])
def test_a_warm_start_begins_where_the_last_fit_ended(guide: Any) -> None:
    history = simulated(60, 10)
    first = quick(history, steps=80, guide=guide)
    cold, warm = quick(history, steps=1, guide=guide), quick(history, steps=1, guide=guide, start=first)
    for name in TRUTH:
        torch.testing.assert_close(warm.point[name], first.point[name], atol=0.06, rtol=0)
    assert float(warm.losses[0]) < float(cold.losses[0])


def test_a_warm_start_leaves_the_earlier_posterior_as_it_was() -> None:
    model, history = Covariate({"x": [0.0, 1.0, 2.0, 3.0]}), simulated(4, 5)  # sites on the whole real line
    first = quick(history, model, steps=5)
    before = {name: value.clone() for name, value in first.point.items()}
    again = [quick(history, model, steps=5, start=first) for _ in range(2)]
    for name, value in before.items():
        assert torch.equal(first.point[name], value)
        assert torch.equal(again[0].point[name], again[1].point[name])


def test_a_warm_start_of_other_prompts_keeps_what_all_share() -> None:
    first = quick(simulated(8, 5), Hierarchical(levels=3, nodes=None), steps=60)
    assert first.about["per_prompt"] == ["z_prompt"]
    history = simulated(11, 5)
    for start in (first, first.population()):
        posterior = quick(history, Hierarchical(levels=3, nodes=None), steps=1, start=start)
        assert posterior.draws["z_prompt"].shape == (20, 11)
        torch.testing.assert_close(posterior.point["gaps"], first.point["gaps"], atol=0.06, rtol=0)


def test_a_population_leaves_out_what_is_a_prompts_own() -> None:
    posterior = quick(simulated(8, 5), Hierarchical(levels=3, nodes=None))
    population = posterior.population()
    assert set(population.point) == set(population.draws) == set(posterior.point) - {"z_prompt"}
    assert population.about["per_prompt"] == []
    sampler = PromptSampler(Hierarchical(levels=3, nodes=None), 5, posterior=population)
    assert bool((sampler.belief == sampler.belief[0]).all())
    pooled = quick(simulated(8, 5))
    assert pooled.population() is pooled


def test_calls_in_the_old_form_are_shown_the_new_one() -> None:
    history = simulated(3, 3)
    old: Any = fit
    for arguments, shown in (
        (
            (("nuts",), {"steps": 30, "draws": 5}),
            r"fit\(model, history, NUTS\(warmup=30, draws=5\)\), got method='nuts'",
        ),
        ((("svi",), {}), r"fit\(model, history, SVI\(\)\)"),
        (((), {"steps": 3, "guide": "delta"}), r"SVI\(steps=3, guide='delta'\)\), got steps, guide beside the method"),
        ((("nuts",), {"learning_rate": 0.1}), "NUTS has no learning_rate"),
    ):
        with pytest.raises(TypeError, match=shown):
            old(SolvingProgress(), history, *arguments[0], **arguments[1])
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
        NUTS(learning_rate=0.1)  # type: ignore[call-arg]
    with pytest.raises(
        ValueError, match=r"learning_rate: expected a setting of laplace \(steps, draws, start, seconds\)"
    ):
        method_named("laplace", learning_rate=0.1)


def test_losses_are_flat_when_epochs_are_whatever_the_batches() -> None:
    noise = torch.randn(1200, generator=torch.Generator().manual_seed(0)).tolist()
    still, falling = [1000 + 0.1 * one for one in noise], [1000 - t + 0.1 * one for t, one in enumerate(noise)]
    assert flat(still[:200], 1, 1e-4) and not flat(falling[:200], 1, 1e-4)
    assert not flat(still[:199], 1, 1e-4) and not flat(still[:100], 1, 1e-4)
    batches = [100.0 * (t % 30) for t in range(360)]  # thirty mini-batches, each of other prompts
    assert flat(batches, 30, 1e-9)
    assert not flat([one - 0.5 * t for t, one in enumerate(batches)], 30, 1e-9)
