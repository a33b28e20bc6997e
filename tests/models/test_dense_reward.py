"""Rewards that are numbers: exact sums, ordered means, and groups that differ by more than a tolerance."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pyro
import pytest
import torch
from helpers import oracle
from helpers.fits import BY_DEFAULT_AND_BY_SVI, fitted, svi
from helpers.runs.tiny import call
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta
from scipy import stats
from torch import Tensor

from dps_pyro import Progress, PromptSampler, RolloutHistory, Step
from dps_pyro.evaluation.replays import replay
from dps_pyro.inference.posterior import Posterior
from dps_pyro.lm.losses import informative_groups
from dps_pyro.models import DenseReward

FAMILY = pytest.mark.parametrize("family", ["gaussian", "beta"])
MEANS = np.array([0.2, 0.5, 0.85])
SPREAD = {"gaussian": np.array([0.1, 0.25, 0.05]), "beta": np.array([0.1, 0.4, 0.05])}
RESOLUTION = 0.01


def values_at(family: str, seed: int = 0) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    values = {
        "gaps": np.diff([0, *MEANS, 1]),
        "initial": rng.dirichlet(np.ones(3)),
        "transition": rng.dirichlet(np.ones(3), 3),
        {"gaussian": "sd", "beta": "share"}[family]: SPREAD[family],
    }
    return {name: torch.tensor(value, dtype=torch.get_default_dtype()) for name, value in values.items()}


def density(family: str, total: float, size: int) -> np.ndarray:
    """[3], of a group's sum in each state, by scipy; ones where there was no group."""
    if size == 0:
        return np.ones(3)
    if family == "gaussian":
        sd = np.sqrt(SPREAD[family] ** 2 + RESOLUTION**2)
        return np.asarray(stats.norm.pdf(total, size * MEANS, np.sqrt(size) * sd))
    least = 4 * RESOLUTION**2
    variance = MEANS * (1 - MEANS) * (least + (1 - 2 * least) * SPREAD[family]) / size  # of the mean reward
    precision = MEANS * (1 - MEANS) / variance - 1
    mean = np.clip(total / size, RESOLUTION, 1 - RESOLUTION)
    return np.asarray(stats.beta.pdf(mean, MEANS * precision, (1 - MEANS) * precision)) / size


def dense_groups(num_prompts: int, num_steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sums of rewards and sizes [N, T]; some sums 0 or full, a third of the groups missing."""
    solved, trials = oracle.random_groups(num_prompts, num_steps, seed)
    part = torch.rand(solved.shape, dtype=torch.float64)
    return torch.where((solved > 0) & (solved < trials), solved - part, solved), trials


def fixed(model: Any, values: dict[str, Tensor]) -> Any:
    """The model at given parameters, their own densities left out."""
    return poutine.block(poutine.condition(model, data=values), hide=list(values))


def no_guide(*_: Any) -> None: ...


@FAMILY
@pytest.mark.parametrize("seed", [0, 1])
def test_likelihood_and_beliefs_equal_brute_force_over_all_paths(family: Any, seed: int) -> None:
    torch.set_default_dtype(torch.float64)
    solved, trials = dense_groups(4, 5, seed)
    model, values = DenseReward(family, resolution=RESOLUTION), values_at(family, seed)
    start, matrix = values["initial"].numpy(), values["transition"].numpy()
    expected = []
    for row in range(4):
        likelihood = [density(family, float(y), int(n)) for y, n in zip(solved[row], trials[row], strict=True)]
        expected.append(oracle.brute_force(start, [matrix] * 5, likelihood))
    evidence = np.array([one for one, _ in expected])
    beliefs = np.stack([path for _, path in expected], 1)  # [T + 1, N, 3]
    law = Progress(model, model.parameters(4, values), Step(trials))
    np.testing.assert_allclose(law.log_prob(solved), evidence, atol=1e-8)
    history = RolloutHistory.from_dense(solved, trials)
    for elbo, method in ((TraceEnum_ELBO, model.enumerated_model), (Trace_ELBO, model.model)):
        loss = elbo(max_plate_nesting=1).loss(fixed(method, values), no_guide, history)
        assert -loss == pytest.approx(evidence.sum(), abs=1e-8)
    posterior = Posterior({}, values, torch.zeros(0), True)
    online, late = (PromptSampler(model, 4, posterior=posterior) for _ in range(2))
    for t in range(5):
        np.testing.assert_allclose(online.belief, beliefs[t], atol=1e-8)
        online.observe(range(4), solved[:, t], trials[:, t])
    for t in (1, 4, 0, 3, 2):  # some of the steps come late
        late.observe(range(4), solved[:, t], trials[:, t], step=t)
    np.testing.assert_allclose(online.belief, beliefs[5], atol=1e-8)
    np.testing.assert_allclose(late.belief, beliefs[5], atol=1e-8)


@FAMILY
def test_the_law_of_a_sum_has_the_moments_of_a_sum_and_its_draws_too(family: Any) -> None:
    model = DenseReward(family, resolution=1e-4)
    values = values_at(family)
    for size in (1, 2, 8):
        law = model.emission(model.parameters(1, values), Step(torch.tensor([size])))
        one = SPREAD[family] ** 2 if family == "gaussian" else MEANS * (1 - MEANS) * SPREAD[family]
        np.testing.assert_allclose(law.mean[0], size * MEANS, rtol=1e-5)
        np.testing.assert_allclose(law.variance[0], size * one, rtol=1e-3)
        assert family == "gaussian" or torch.equal(law.expand([5, 1, 3]).variance[2], law.variance)
        drawn = law.sample(torch.Size([20000]))[:, 0]
        np.testing.assert_allclose(drawn.mean(0), size * MEANS, atol=0.01 * size)
        np.testing.assert_allclose(drawn.var(0), size * one, rtol=0.06)
        grid = torch.linspace(-size, 2 * size, 60001).unsqueeze(-1)
        mass = law.log_prob(grid.clamp(0, size) if family == "beta" else grid).exp()
        mass = mass * ((grid >= 0) & (grid <= size)) if family == "beta" else mass
        np.testing.assert_allclose(torch.trapezoid(mass, grid, dim=0), 1, atol=5e-3)


def test_matched_moments_come_close_to_the_law_of_a_mean_of_betas() -> None:
    """How far the approximation goes: the chance of a mean below each of its deciles, against sums of real Betas."""
    rng = np.random.default_rng(0)
    theta = DenseReward("beta").parameters(1, values_at("beta"))
    a, b = (theta.means * (1 / theta.spread - 1)).numpy(), ((1 - theta.means) * (1 / theta.spread - 1)).numpy()
    for size in (2, 8):
        precision = size / theta.spread.numpy() - 1
        real = rng.beta(a, b, (50000, size, 3)).mean(1)
        for k in range(3):
            deciles = np.quantile(real[:, k], np.linspace(0.1, 0.9, 9))
            matched = stats.beta.cdf(deciles, MEANS[k] * precision[k], (1 - MEANS[k]) * precision[k])
            np.testing.assert_allclose(matched, np.linspace(0.1, 0.9, 9), atol=0.03)


# ----------------------------------------------------------------------------------------------------- what is useful


@cache
def drawn_ranges(family: str, means: tuple[float, ...], spreads: tuple[float, ...], size: int) -> np.ndarray:
    """[20000, 3], the largest difference of the rewards of each of as many groups, by Monte Carlo."""
    rng, draws = np.random.default_rng(size), 20000
    means, spread = np.array(means), np.array(spreads)
    if family == "gaussian":
        rewards = rng.normal(means, spread, (draws, size, 3))
    else:
        rewards = rng.beta(means * (1 / spread - 1), (1 - means) * (1 / spread - 1), (draws, size, 3))
    return np.asarray(np.ptp(rewards, axis=1))


@FAMILY
@pytest.mark.parametrize("tolerance", [0.02, 0.1, 0.317, 0.8])
def test_informative_equals_monte_carlo(family: Any, tolerance: float) -> None:
    model = DenseReward(family, tolerance)
    sharp, wide = ([0.01] * 3, [0.45] * 3) if family == "gaussian" else ([0.003] * 3, [0.95] * 3)
    site = "sd" if family == "gaussian" else "share"
    for spread in (SPREAD[family], sharp, wide):
        values = {**values_at(family), site: torch.tensor(np.array(spread), dtype=torch.float32)}
        theta = model.parameters(1, values)
        for size in (2, 3, 8, 32):
            ours = model.informative(theta, Step(torch.tensor([size])))
            assert ours.shape == (1, 3)
            ranges = drawn_ranges(family, tuple(theta.means.tolist()), tuple(theta.spread.tolist()), size)
            share = (ranges > model.tolerance).mean(0)
            error = 4 * np.sqrt(share * (1 - share) / 20000) + 1e-3
            assert bool((np.abs(ours[0].numpy() - share) < error).all()), (spread, size, ours, share)


@FAMILY
@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_informative_is_a_chance_that_grows_with_the_group(family: Any, seed: int) -> None:
    torch.manual_seed(seed)
    theta = DenseReward(family).prior(pyro.plate("prompts", 6, dim=-1))
    sizes = Step(torch.tensor([0, 1, 2, 4, 8, 64]))
    chance = DenseReward(family).informative(theta, sizes)
    assert chance.shape == (6, 3)
    assert bool((chance[:2] == 0).all())
    assert bool((chance.diff(dim=0) >= -1e-6).all() and (chance <= 1).all())
    wider = DenseReward(family, tolerance=0.4).informative(theta, sizes)
    assert bool((wider <= chance + 1e-6).all())


def test_of_two_normals_the_range_is_known() -> None:
    """|x - y| > c for normals of standard deviation s: 2 (1 - Phi(c / (s sqrt 2)))."""
    model = DenseReward("gaussian", tolerance=0.3)
    theta = model.parameters(1, values_at("gaussian"))
    expected = 2 * stats.norm.sf(0.3 / (theta.spread.numpy() * np.sqrt(2)))
    np.testing.assert_allclose(model.informative(theta, Step(torch.tensor([2])))[0], expected, atol=1e-6)


def test_of_uniform_rewards_the_range_is_known() -> None:
    """P(range <= c) of n uniforms is n c^(n-1) - (n - 1) c^n; a Beta of mean 1/2 and a third of the variance is one."""
    model = DenseReward("beta", tolerance=0.3)
    values = {"gaps": torch.tensor([0.499, 0.001, 0.001, 0.499]), "share": torch.full((3,), 1 / 3)}
    for size in (2, 5, 20):
        chance = model.informative(model.parameters(1, values), Step(torch.tensor([size])))[0, 1]
        assert float(chance) == pytest.approx(1 - (size * 0.3 ** (size - 1) - (size - 1) * 0.3**size), abs=1e-3)


@FAMILY
def test_a_sampler_wants_the_prompts_whose_rewards_differ(family: Any) -> None:
    values = {**values_at(family), "transition": 0.98 * torch.eye(3) + 0.01 * (1 - torch.eye(3))}
    sampler = PromptSampler(
        DenseReward(family, tolerance=0.5), 30, posterior=Posterior({}, values, torch.zeros(0), True), acquisition="top"
    )
    totals = torch.tensor([1.6, 4.0, 6.8]).repeat(10)
    for _ in range(2):
        sampler.observe(range(30), totals, 8)
    assert bool((sampler.select(10) % 3 == 1).all())  # the middle state's spread is the largest
    draws = sampler.tracker.draw(torch.Generator().manual_seed(0))
    np.testing.assert_allclose(draws.view(10, 3).median(0).values, MEANS, atol=1e-5)


def test_what_is_useful_is_counted_as_the_model_has_it(tmp_path: Path) -> None:
    """Eight equal rewards of 0.5 add up to 4 of 8 and teach nothing; a count of solved would call them useful."""
    sampler = PromptSampler(DenseReward(tolerance=0.2), 4)
    rewards = torch.full((4, 8), 0.5)
    rewards[1, 0], rewards[2, 0], rewards[3] = 0.6, 0.9, 0.01  # a little, enough, hardly anything
    useful = informative_groups(rewards, sampler.tolerance)
    assert useful.tolist() == [False, False, True, False]
    sampler.observe(range(4), rewards.sum(1), 8, useful=useful)
    assert sampler.metrics()["useful"] == sampler.metrics()["useful/so_far"] == 0.25
    assert torch.equal(sampler.history.events.useful, useful)
    read = RolloutHistory.from_parquet(sampler.history.to_parquet(tmp_path / "log.parquet"))
    assert torch.equal(read.events.useful, useful)
    twin = PromptSampler(DenseReward(tolerance=0.2), 4)
    twin.load_state_dict(sampler.state_dict())
    assert torch.equal(twin.history.events.useful, useful)
    # The replay of a full log counts as the log did; a tolerance asks the sums, which say less.
    for tolerance, expected in ((None, useful), (0.2, torch.tensor([True, True, True, False]))):
        fresh = PromptSampler(DenseReward(tolerance=0.2), 4)
        assert torch.equal(replay(read, fresh, batch_size=2, tolerance=tolerance, progress=False).useful[0], expected)


def test_without_being_told_a_sampler_asks_the_sums() -> None:
    sampler = PromptSampler(DenseReward(tolerance=0.2), 4)
    sampler.observe(range(4), [0.1, 0.3, 7.7, 7.9], 8)
    assert sampler.history.events.useful.tolist() == [False, True, True, False]
    with pytest.raises(ValueError, match="useful: expected 4 booleans, one per prompt"):
        sampler.observe(range(4), [1.0] * 4, 8, useful=[True])
    with pytest.raises(ValueError, match="useful: expected groups of at least two rollouts"):
        sampler.observe([0], [0.5], 1, useful=[True])


# ------------------------------------------------------------------------------------------------------ as Pyro models


@FAMILY
def test_sample_dimensions_on_the_parameters(family: Any) -> None:
    solved, trials = dense_groups(3, 4, seed=2)
    model, step = DenseReward(family), Step(trials)
    many = [values_at(family, seed) for seed in range(4)]
    alone = torch.stack([Progress(model, model.parameters(3, one), step).log_prob(solved.float()) for one in many])
    stacked = {name: torch.stack([one[name] for one in many]).unsqueeze(1) for name in many[0]}  # [S, 1, ...]
    with pyro.plate("particles", 4, dim=-2):
        theta = poutine.condition(model.prior, data=stacked)(pyro.plate("prompts", 3, dim=-1))
    law = Progress(model, theta, step)
    torch.testing.assert_close(law.log_prob(solved.float()), alone, atol=1e-4, rtol=1e-5)
    assert law.sample((6,)).shape == (6, 4, 3, 4)
    single = model.informative(model.parameters(3, many[1]), step.replace(trials=trials[:, 0]))
    torch.testing.assert_close(model.informative(theta, step.replace(trials=trials[:, 0]))[1], single)
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
        assert drawn.shape == (6, 3, 4)
        assert bool((drawn[:, trials == 0] == 0).all())
        assert family == "gaussian" or bool(((drawn >= 0) & (drawn <= trials)).all())


@FAMILY
@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), states=st.integers(2, 6))
def test_means_stay_ordered_whatever_the_prior_draws(family: Any, seed: int, states: int) -> None:
    torch.manual_seed(seed)
    gaps = None if seed % 2 else [0.05] * (states + 1)  # so uneven that gaps are 0.0
    model = DenseReward(family, states=states, mean_gaps=gaps)
    assert len(model.states) == states
    theta = model.prior(pyro.plate("prompts", 2, dim=-1))
    assert bool((theta.means.diff() >= 0).all() and (theta.spread > 0).all())
    law = model.emission(theta, Step(torch.tensor([8, 0])))
    assert bool(law.log_prob(torch.tensor([[3.2], [0.0]])).isfinite().all())
    assert bool((law.mean.diff() >= 0).all())


@FAMILY
@pytest.mark.parametrize("method", BY_DEFAULT_AND_BY_SVI)
def test_a_fit_finds_means_spreads_and_moves(family: Any, method: str | None) -> None:
    model = DenseReward(family)
    matrix = torch.tensor([[0.85, 0.1, 0.05], [0.05, 0.85, 0.1], [0.05, 0.1, 0.85]])
    site = "sd" if family == "gaussian" else "share"
    values = {**values_at(family), "initial": torch.tensor([0.5, 0.3, 0.2]), "transition": matrix}
    trials = torch.tensor([4, 8, 0, 0])[torch.randint(0, 4, (150, 16))]
    solved = Progress(model, model.parameters(150, values), Step(trials)).sample()
    # A Gaussian knows no bounds; the log does.
    history = RolloutHistory.from_dense(torch.minimum(solved.clamp_min(0), trials), trials)
    found = fitted(model, history, method, steps=250, draws=50).point
    for name, far in (("gaps", 0.03), ("initial", 0.15), ("transition", 0.08)):
        torch.testing.assert_close(found[name], values[name], atol=far, rtol=0)
    torch.testing.assert_close(found[site], values[site], atol=0.02, rtol=0.2)


DEGENERATE = {
    "a prompt seen once, others never": ([[3.3, 0, 0], [0, 0, 0], [0, 0, 0]], [[8, 0, 0], [0, 0, 0], [0, 0, 0]]),
    "all nothing": ([[0.0] * 4] * 3, [[8] * 4] * 3),
    "all of it": ([[8.0] * 4] * 3, [[8] * 4] * 3),
    "equal throughout": ([[4.0] * 4] * 3, [[8] * 4] * 3),
    "nothing or all, a step of none": ([[0.0, 0, 8], [8, 0, 8], [0, 0, 0]], [[8, 0, 8]] * 3),
    "a single prompt": ([[1.2, 2.5, 3.9]], [[4, 4, 4]]),
    "trials change": ([[1.0, 15.5, 0], [2, 2.5, 0.1], [0, 5, 64]], [[1, 16, 2], [2, 3, 4], [0, 5, 64]]),
    "one step": ([[1.0], [0], [8]], [[8], [8], [8]]),
}


@FAMILY
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_histories_fit(family: Any, case: str) -> None:
    solved, trials = (torch.tensor(part) for part in DEGENERATE[case])
    model = DenseReward(family)
    # Long enough for a state of equal rewards to get as sharp as it may
    steps = 100 if case in ("all nothing", "equal throughout") else 30
    posterior = svi(model, RolloutHistory.from_dense(solved, trials), steps=steps, draws=20, progress=False)
    assert all(bool(value.isfinite().all()) for value in posterior.draws.values())
    sampler = PromptSampler(model, len(solved), posterior=posterior)
    sampler.observe([0], [2.7], 8)
    torch.testing.assert_close(sampler.belief.sum(-1), torch.ones(len(solved)))
    assert bool(((sampler.informative(8) >= 0) & (sampler.informative(8) <= 1)).all())


GRADED = '''
from dps_pyro.tasks import Countdown, Prompt, Reward


class Graded(Countdown):
    """Partial credit for every digit written."""

    def __init__(self) -> None:
        super().__init__(train_size=32, test_size=8, style="compact")

    def reward(self, prompt: Prompt, completion: str) -> Reward:
        exact = super().reward(prompt, completion)
        return exact if exact.value == 1 else Reward(min(0.9, 0.1 * sum(map(str.isdigit, completion))), "partly")
'''


def test_a_run_on_graded_rewards_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "graded.py").write_text(GRADED, encoding="utf-8")
    options = f"--task {tmp_path / 'graded.py'}:Graded --model countdown --dynamics DenseReward --no-report --threads 1"
    sizes = "--steps 3 --batch-size 4 --group-size 4 --eval-samples 1 --log-completions 1"
    assert call(capsys, "train", "--out", str(tmp_path / "run"), *options.split(), *sizes.split())[0] == 0
    log = RolloutHistory.from_parquet(tmp_path / "run" / "history.parquet").events
    rewards = pq.read_table(sorted((tmp_path / "run" / "completions").glob("*.parquet"))).to_pandas()
    groups = [group.reward.to_numpy() for _, group in rewards.groupby(["step", "prompt_id"], sort=False)]
    assert len(log.solved) == len(groups) == 12
    assert {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9} & set(rewards.reward)
    np.testing.assert_allclose(log.solved.numpy(), [group.sum() for group in groups], atol=1e-5)
    apart = [round(float(np.ptp(group)), 3) > DenseReward().tolerance for group in groups]
    assert log.useful.tolist() == apart
    assert 0 < sum(apart) < 12
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["model"] == "DenseReward"
    assert summary["useful_share"] == pytest.approx(sum(apart) / 12)


@pytest.mark.parametrize(
    "wrong",
    [{"family": "normal"}, {"tolerance": 0.0}, {"tolerance": 1.0}, {"tolerance": 0.005}, {"states": 1},
     {"spread": 0.5}, {"resolution": 0.2}, {"mean_gaps": [1.0] * 3}, {"initial": [1.0]}, {"transition": [[1.0] * 3]}],
    ids=str,
)  # fmt: skip
def test_arguments_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        DenseReward(**wrong)
