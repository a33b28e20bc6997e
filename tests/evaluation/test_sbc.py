"""Calibration by simulation, and the sampler that makes it quick."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers.runs.tiny import call, words
from pyro import poutine
from pyro.infer.mcmc.util import initialize_model
from pyro.infer.reparam import LocScaleReparam
from scipy.stats import chisquare

from benchmarks.docs import evidence
from benchmarks.inference import gallery
from benchmarks.inference.sbc import MODELS
from dps_pyro.evaluation.parallel_hmc import Posteriors, hmc
from dps_pyro.evaluation.sbc_ranks import Ranks, design, filled, joined, sbc, simulated
from dps_pyro.evaluation.smoothing import law
from dps_pyro.models import SolvingProgress
from dps_pyro.models.hierarchical import Hierarchical

SMALL: dict[str, Any] = {"draws": 19, "thin": 1, "warmup": 20, "progress": False}

TINY: dict[str, Any] = {**SMALL, "draws": 9}


# ------------------------------------------------------------------------------------------------------------- sampler


def test_hmc_samples_conjugate_posteriors_side_by_side() -> None:
    """Beta-binomial and normal-normal: the posteriors' moments are known, and differ from chain to chain.

    Ten chains sample each of three posteriors, which costs no more than one chain each.
    """
    torch.set_default_dtype(torch.float64)
    solved = torch.tensor([0.0, 3.0, 10.0]).repeat(10).unsqueeze(-1)
    seen = torch.tensor([-2.0, 0.0, 5.0]).repeat(10).unsqueeze(-1)

    def model() -> None:
        with pyro.plate("simulations", 30, dim=-2):
            rate = pyro.sample("rate", dist.Beta(2.0, 1.0))
            place = pyro.sample("place", dist.Normal(1.0, 2.0))
            with pyro.plate("prompts", 1, dim=-1):
                pyro.sample("solved", dist.Binomial(10, rate))
                pyro.sample("seen", dist.Normal(place, 1.0))

    start = {"rate": torch.full((30, 1), 0.5), "place": torch.zeros(30, 1)}
    posteriors = Posteriors(model, {"solved": solved, "seen": seen}, start)
    chains = hmc(posteriors, warmup=150, draws=100, thin=1, seed=0, progress=False)
    assert chains.draws["rate"].shape == (100, 30, 1)
    each = {name: value.view(100, 10, 3, 1).flatten(0, 1) for name, value in chains.draws.items()}
    alpha, beta = 2 + solved[:3], 1 + 10 - solved[:3]
    mean, spread = alpha / (alpha + beta), (alpha * beta).sqrt() / ((alpha + beta) * (alpha + beta + 1).sqrt())
    torch.testing.assert_close(each["rate"].mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(each["rate"].std(0), spread, atol=0.02, rtol=0)
    torch.testing.assert_close(each["place"].mean(0), (seen[:3] + 0.25) / 1.25, atol=0.15, rtol=0)
    torch.testing.assert_close(each["place"].std(0), torch.full((3, 1), 0.8**0.5), atol=0.1, rtol=0)
    assert bool((chains.divergences == 0).all())
    assert bool(((chains.accepted > 0.6) & (chains.accepted < 0.99)).all())
    likelihood = dist.Binomial(10, chains.draws["rate"]).log_prob(solved) + dist.Normal(
        chains.draws["place"], 1.0
    ).log_prob(seen)
    torch.testing.assert_close(chains.log_likelihood, likelihood.squeeze(-1))


@pytest.mark.parametrize("name", MODELS)
def test_the_densities_are_those_of_pyros_own_sampler_on_the_unrolled_model(name: str) -> None:
    """What NUTS would climb where every state is a site of its own: prior, likelihood and Jacobians together."""
    torch.set_default_dtype(torch.float64)
    schedule = design(3, 3)
    dynamics = MODELS[name](schedule.features)

    def both() -> None:
        with pyro.plate("simulations", 2, dim=-2):
            dynamics.model(schedule)

    torch.manual_seed(3)
    with torch.no_grad():
        truth, outcomes = simulated(both)
        start, _ = simulated(both)
    posteriors = Posteriors(both, {"outcomes": outcomes}, truth)
    position = posteriors.unconstrained(start).clamp(-20, 20)  # where rounding does not tell
    density, seen = posteriors.log_density(position)
    values = posteriors.values(position)
    for at in (0, 1):
        log = filled(schedule, outcomes[at])
        _, potential, transforms, _ = initialize_model(dynamics.enumerated_model, model_args=(log,))
        free = {}
        for site, value in values.items():
            own = value[at, 0] if value.shape[1] == 1 else value[at]
            free[site] = transforms[site](own)
        assert float(potential(free)) == pytest.approx(-float(density[at]), rel=1e-6)
        assert float(law(dynamics, log, {site: value[at, 0] for site, value in values.items()}).log_prob(
            outcomes[at]).sum()) == pytest.approx(float(seen[at]), rel=1e-9)  # fmt: skip


def test_tempered_copies_find_modes_that_a_chain_alone_does_not() -> None:
    """The square of a place is seen: two modes as good as each other, and hardly anything between them."""
    torch.set_default_dtype(torch.float64)

    def model(copies: int = 1) -> None:
        with pyro.plate("simulations", 32 * copies, dim=-2):
            place = pyro.sample("place", dist.Normal(torch.zeros(1), 3.0))
            pyro.sample("seen", dist.Normal(place.square(), 0.5))

    def upper(powers: tuple[float, ...]) -> torch.Tensor:
        size = 32 * len(powers)
        start = {"place": torch.linspace(-2.5, 2.5, 8).repeat_interleave(4).repeat(len(powers)).view(-1, 1)}
        posteriors = Posteriors(lambda: model(len(powers)), {"seen": torch.full((size, 1), 4.0)}, start)
        chains = hmc(posteriors, warmup=100, draws=200, thin=1, powers=powers, seed=0, progress=False)
        assert chains.draws["place"].shape == (200, 32, 1) and chains.log_likelihood.shape == (200, 32)
        assert chains.exchanged.shape == (len(powers) - 1, 32)
        torch.testing.assert_close(
            chains.log_likelihood, dist.Normal(chains.draws["place"].square(), 0.5).log_prob(torch.tensor(4.0))[..., 0]
        )
        return (chains.draws["place"] > 0).double().mean((0, 2))

    alone, helped = upper((1.0,)), upper((1.0, 0.3, 0.1, 0.03)).view(8, 4).mean(1)  # of four chains from each place
    assert bool(((alone < 0.02) | (alone > 0.98)).all())  # each chain stays on one side
    assert bool(((helped > 0.3) & (helped < 0.7)).all())
    posteriors = Posteriors(model, {"seen": torch.ones(32, 1)}, {"place": torch.zeros(32, 1)})
    for wrong in ((), (0.5, 0.1), (1.0, 1.0), (1.0, 0.3, 0.0)):
        with pytest.raises(ValueError, match="powers: expected positive numbers falling from 1, got"):
            hmc(posteriors, powers=wrong)
    with pytest.raises(ValueError, match="posteriors: expected 3 copies of each, got 32 in all"):
        hmc(posteriors, powers=(1.0, 0.5, 0.1))


def test_hmc_is_the_seeds() -> None:
    def model() -> None:
        with pyro.plate("simulations", 2, dim=-2):
            place = pyro.sample("place", dist.Normal(0.0, 1.0))
            pyro.sample("seen", dist.Normal(place, 1.0))

    posteriors = Posteriors(model, {"seen": torch.ones(2, 1)}, {"place": torch.zeros(2, 1)})
    before = torch.get_rng_state()
    first, again, other = (
        hmc(posteriors, warmup=20, draws=5, thin=1, seed=seed, progress=False).draws["place"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


# --------------------------------------------------------------------------------------------------------------- ranks


def ranks_of(values: torch.Tensor, draws: int = 99) -> Ranks:
    return Ranks({"x": values}, draws, {"x": torch.full((len(values),), float(draws))}, {})


def test_p_values_are_pearsons() -> None:
    torch.manual_seed(0)
    drawn = ranks_of(torch.randint(0, 100, (400,)))
    counts = drawn.histogram("x")
    assert counts.sum() == 400 and counts.tolist() == np.bincount(drawn.ranks["x"].numpy() // 5, minlength=20).tolist()
    # Against the chi-square distribution by simulation.
    statistic = float((counts - 20.0).square().sum() / 20)
    null = torch.randn(200_000, 19).square().sum(-1)
    assert drawn.p_values()["x"] == pytest.approx(float((null >= statistic).float().mean()), abs=0.005)
    chances = [ranks_of(torch.randint(0, 100, (400,))).p_values()["x"] for _ in range(400)]
    assert abs(float(np.mean(np.array(chances) < 0.1)) - 0.1) < 0.05


def test_ranks_that_are_not_uniform_are_noticed() -> None:
    torch.manual_seed(0)
    for shares in (torch.rand(200) ** 2, torch.distributions.Beta(0.4, 0.4).sample((200,)), 0.25 + torch.rand(200) / 2):
        assert not ranks_of((shares * 100).long().clamp(0, 99)).uniform()
    assert ranks_of(torch.randint(0, 100, (200,))).uniform()
    with pytest.raises(ValueError, match="bins: expected a divisor of draws \\+ 1 = 100, got 30"):
        ranks_of(torch.zeros(5).long()).p_values(30)


def test_a_design_is_a_schedule_and_is_filled_as_drawn() -> None:
    schedule = design(7, 6, trials=4, seed=2)
    assert not schedule.observed
    assert set(schedule.features) == {"group", "difficulty"}
    assert (schedule.num_prompts, schedule.num_steps) == (7, 6)
    torch.manual_seed(0)
    outcomes = SolvingProgress().model(schedule)
    log = filled(schedule, outcomes)
    solved, trials, trained, progress = log.dense()
    _, planned, updated, known = schedule.dense()
    assert torch.equal(trials, planned) and torch.equal(trained, updated) and torch.equal(progress, known)
    assert solved is not None and torch.equal(solved, outcomes)


def test_every_global_scalar_and_the_first_prompts_own_are_ranked() -> None:
    torch.set_default_dtype(torch.float64)
    schedule = design(4, 3)
    model = Hierarchical([str(g) for g in schedule.features["group"]], levels=3, nodes=None)
    found = sbc(model, schedule, simulations=6, **SMALL)
    expected = [f"gaps[{i}]" for i in range(4)] + [f"initial[{i}]" for i in range(3)]
    expected += [f"transition[{i}, {j}]" for i in range(3) for j in range(3)]
    expected += ["group_scale[0]", "group_scale[1]", *(f"z_group[{i}, {j}]" for i in range(2) for j in range(2))]
    expected += ["prompt_scale[0]", "prompt_scale[1]", "z_prompt", "log likelihood"]
    assert list(found.ranks) == expected
    assert all(bool(((ranks >= 0) & (ranks <= 19)).all()) and len(ranks) == 6 for ranks in found.ranks.values())
    assert found.about["simulations"] == 6 and found.about["groups"] == len(schedule)


def test_a_site_is_sampled_over_its_scale() -> None:
    """The density is the other one's but for the volume, and the new site is ranked in place of the old."""
    torch.set_default_dtype(torch.float64)
    schedule = design(4, 3)
    dynamics = MODELS["Covariate"](schedule.features)
    found = sbc(dynamics, schedule, simulations=3, reparam={"weights": LocScaleReparam(0.0)}, **TINY)
    plain = sbc(dynamics, schedule, simulations=3, **TINY)
    assert [name.replace("weights_decentered", "weights") for name in found.ranks] == list(plain.ranks)
    assert "weights[0, 0]" not in found.ranks and found.about["reparam"] == {"weights": "LocScaleReparam"}

    def model() -> None:
        with pyro.plate("simulations", 3, dim=-2):
            dynamics.model(schedule)

    over = poutine.reparam(model, config={"weights": LocScaleReparam(0.0)})
    torch.manual_seed(0)
    with torch.no_grad():
        truth, outcomes = simulated(over)
    each = (truth["scale"] / math.sqrt(3)).unsqueeze(-1)
    direct = {**truth, "weights": truth["weights_decentered"] * each}
    one, other = (Posteriors(law, {"outcomes": outcomes}, start) for law, start in ((over, truth), (model, direct)))
    density, seen = one.log_density(one.start)
    expected, as_seen = other.log_density(other.start)
    torch.testing.assert_close(seen, as_seen)
    torch.testing.assert_close(density, expected + 3 * each.log().flatten(1).sum(1))


@cache
def ranks_by_hmc() -> Ranks:
    return sbc(SolvingProgress(), design(4, 3), simulations=3, draws=9, thin=2, warmup=60, progress=False)


@pytest.mark.parametrize(
    ("method", "simulations", "warmup", "draws"),
    [("svi", 3, 40, 9), ("nuts", 1, 3, 4), pytest.param("nuts", 3, 12, 9, marks=pytest.mark.slow)],
)
def test_all_methods_rank_the_same_simulations(method: Any, simulations: int, warmup: int, draws: int) -> None:
    """The same truth and the same logs: where the posterior is near the prior, the ranks agree roughly."""
    torch.set_default_dtype(torch.float64)
    settings: dict[str, Any] = {"draws": draws, "thin": 1, "warmup": warmup, "method": method, "progress": False}
    other = sbc(SolvingProgress(), design(4, 3), simulations=simulations, **settings)
    assert list(other.ranks) == list(ranks_by_hmc().ranks)
    assert all(
        bool(((ranks >= 0) & (ranks <= draws)).all()) and len(ranks) == simulations for ranks in other.ranks.values()
    )
    if simulations == 3:
        apart = (other.ranks["initial[0]"] - ranks_by_hmc().ranks["initial[0]"]).abs().double().mean()
        assert float(apart) < 5


def test_a_method_of_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="method: expected 'hmc', 'nuts' or 'svi', got 'gibbs'"):
        sbc(SolvingProgress(), design(4, 3), method="gibbs", simulations=2, progress=False)  # type: ignore[arg-type]


def test_batches_are_kept_and_joined() -> None:
    torch.set_default_dtype(torch.float64)
    parts = [sbc(SolvingProgress(), design(3, 3), simulations=4, powers=(1.0, 0.3), seed=s, **SMALL) for s in (0, 1)]
    again = [Ranks.from_plain(json.loads(json.dumps(part.plain()))) for part in parts]
    whole = joined(again)
    assert (
        whole.about["simulations"] == 8 and whole.about["powers"] == [1.0, 0.3] and len(whole.about["exchanged"]) == 1
    )
    for scalar, ranks in whole.ranks.items():
        assert torch.equal(ranks, torch.cat([part.ranks[scalar] for part in parts]))
        torch.testing.assert_close(whole.effective[scalar], torch.cat([part.effective[scalar] for part in parts]))
    assert whole.summary(10)["simulations"] == 8
    with pytest.raises(ValueError, match="parts: expected calibrations of the same scalars and draws"):
        joined([parts[0], ranks_of(torch.zeros(5).long())])


@pytest.mark.parametrize(("draws", "warmup"), [(19, 80), pytest.param(39, 200, marks=pytest.mark.slow)])
def test_a_model_is_calibrated_and_a_wrong_one_is_not(draws: int, warmup: int) -> None:
    torch.set_default_dtype(torch.float64)
    model, schedule = SolvingProgress(), design(8, 6)
    settings: dict[str, Any] = {"simulations": 150, "draws": draws, "thin": 2, "warmup": warmup, "progress": False}
    found = sbc(model, schedule, **settings)
    assert found.uniform(10)
    assert all(math.isfinite(float(value.median())) for value in found.effective.values())

    class Careless(SolvingProgress):
        """Counts every success twice when it looks at data, and once when it draws."""

        def emission(self, theta: Any, step: Any) -> Any:
            right = super().emission(theta, step)

            class Twice(type(right)):  # type: ignore[misc]
                def log_prob(self, value: torch.Tensor) -> torch.Tensor:
                    return 2 * super().log_prob(value)

            right.__class__ = Twice
            return right

    # It is told from fewer simulations than the right one is held to.
    assert not sbc(Careless(), schedule, **{**settings, "simulations": 60}).uniform(10)


def test_every_fitted_model_of_the_gallery_is_calibrated() -> None:
    """The committed calibrations. p-values are made again of the histograms; each model's smallest has to be at least
    0.01 over the number of its scalars (Bonferroni), as `Ranks.uniform` asks."""
    result = json.loads((evidence.RESULTS / "sbc.json").read_text(encoding="utf-8"))["models"]
    assert set(gallery.FITTED) == set(MODELS)
    assert result.keys() == set(MODELS)
    for name, row in result.items():
        assert row["simulations"] >= 200 and row["model"] == name and row["arguments"] == gallery.SMALL.get(name, {})
        assert row["bins"] == 20 and row["simulations"] / row["bins"] >= 5  # what a chi-square test wants in a bin
        assert {"gaps[0]", "log likelihood"} <= row["scalars"].keys() or name == "LogitWalk"
        chances = []
        for scalar, found in row["scalars"].items():
            assert sum(found["histogram"]) == row["simulations"], (name, scalar)
            chances.append(float(chisquare(found["histogram"]).pvalue))
            assert found["p"] == pytest.approx(chances[-1], abs=1e-4), (name, scalar)
        assert min(chances) >= 0.01 / len(chances), name
        assert row["uniform"] and row["level"] == 0.01


def test_the_command_writes_the_ranks_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--model", "SolvingProgress", "--simulations", "12", "--prompts", "3", "--steps", "3", "--draws", "9",
        "--thin", "1", "--warmup", "20", "--powers", "1", "0.3", "--bins", "2", "--out", str(tmp_path / "sbc"),
    ]  # fmt: skip
    status, out, _ = call(capsys, "sbc", *arguments)
    found = json.loads((tmp_path / "sbc/sbc.json").read_text(encoding="utf-8"))
    assert status == (0 if found["uniform"] else 1)
    assert ("Ranks are uniform" in words(out)) == found["uniform"]
    assert sum(found["scalars"]["gaps[0]"]["histogram"]) == 12
    assert found["powers"] == [1.0, 0.3] and 0 < found["exchanged"][0] <= 1
    assert (tmp_path / "sbc/sbc.png").read_bytes().startswith(b"\x89PNG")
    assert torch.get_default_dtype() == torch.float32
    status, _, err = call(capsys, "sbc", "--draws", "50")
    assert (status, err) == (2, "dps-pyro sbc: draws: expected one less than a multiple of 20 bins, got 50\n")
