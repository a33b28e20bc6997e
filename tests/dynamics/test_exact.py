"""Every model of the gallery against brute force over all paths of states: likelihood, beliefs, useful chances."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyro
import pytest
import torch
from helpers import oracle
from helpers.variants import EACH, variants
from pyro import poutine
from pyro.distributions import Binomial
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from scipy import integrate, stats
from torch import Tensor

from benchmarks.inference.gallery import arguments, make
from dps_pyro import Dynamics, RolloutHistory, Step, Tracker, models, track
from dps_pyro.dynamics.laws import unchecked
from dps_pyro.dynamics.progress import Progress

pytestmark = pytest.mark.no_cover

N = 5
"""Prompts."""
EXACT = 1e-9
"""In double precision. In single precision 1e-5 is kept."""
PRECISIONS = pytest.mark.parametrize(("dtype", "off"), [(torch.float64, EXACT), (torch.float32, 1e-5)], ids=str)
MODELS = [*EACH, ("PaperDPS", "default")]
"""PaperDPS is a Pyro model, too, with another filter, which tests/models/test_paper_dps.py holds to the paper."""


class Case(NamedTuple):
    """A model at random parameters, a log, and what brute force says of it."""

    model: Dynamics[Any]
    values: dict[str, Tensor]
    solved: Tensor  # [N, T]
    trials: Tensor  # [N, T]
    trained: Tensor  # [N, T]
    progress: Tensor  # [1, T]
    evidence: np.ndarray  # [T, N], log p(y_t | y_<t)
    beliefs: np.ndarray  # [T + 1, N, K], p(z_t | y_<t)


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)


@cache
def case_of(name: str, label: str) -> Case:
    """Parameters drawn from the prior; groups of 1 to 9 at random, a third of them missing."""
    seed = MODELS.index((name, label))
    torch.manual_seed(seed)
    model: Dynamics[Any] = make(name, variants(name, N)[label])
    K = len(model.states)
    T = 5 if K < 8 else 4 if K < 16 else 3  # K ** (T + 1) paths, 390,625 of 25 rungs
    solved, trials = oracle.random_groups(N, T, seed, most=9)
    if name == "PaperDPS":
        trials = trials + (trials == 1).long()  # one rollout cannot be mixed
    with poutine.block(), poutine.trace() as tape:
        theta = model.prior(pyro.plate("prompts", N, dim=-1))
    values = {site: node["value"] for site, node in tape.trace.iter_stochastic_nodes() if site != "prompts"}
    if not model.emission(theta, Step(trials[:, 0])).support.is_discrete:  # partial credit
        solved = solved + torch.rand(solved.shape) * (solved < trials)
    trained, progress = (trials > 0) & (torch.rand(trials.shape) > 0.4), torch.linspace(0.1, 0.8, T).unsqueeze(0)
    found = [by_hand(model, values, row, solved, Step(trials, trained, progress)) for row in range(N)]
    evidence, beliefs = (np.stack(part, 1) for part in zip(*found, strict=True))
    return Case(model, values, solved, trials, trained, progress, evidence, beliefs)


def by_hand(
    model: Dynamics[Any], values: dict[str, Tensor], row: int, solved: Tensor, steps: Step
) -> tuple[np.ndarray, np.ndarray]:
    """One prompt's evidence [T] and beliefs [T + 1, K]. The model is asked of that prompt alone, one step at a time,
    for what a state means and where it leads; the rest is numpy's."""
    K = len(model.states)
    theta = model.parameters(N, values, torch.tensor([row]))
    assert steps.trained is not None and steps.progress is not None
    moves, seen, last = [], [], -1
    for t in range(solved.shape[1]):
        # A prompt's waiting time is counted here, and not taken from the code that is tested.
        now, since = torch.tensor([t]), torch.tensor([t - last])
        step = Step(steps.trials[[row], t], steps.trained[[row], t], steps.progress[:, t], now, since)
        last = t if int(step.trials) > 0 else last
        moves.append(model.transition(theta, step).probs.expand(1, K, K)[0].numpy())
        seen.append(likelihood(model, theta, step, float(solved[row, t])))
    initial = model.initial(theta).probs.expand(1, K)[0].numpy()
    sofar = [oracle.brute_force(initial, moves[:t], seen[:t])[0] for t in range(1, len(seen) + 1)]
    return np.diff([0.0, *sofar]), oracle.brute_force(initial, moves, seen)[1]


def likelihood(model: Dynamics[Any], theta: Any, step: Step, solved: float) -> np.ndarray:
    """[K], the chance of a prompt's group in each state, of a Binomial by the schoolbook; ones where there is none."""
    K, trials = len(model.states), int(step.trials)
    if trials == 0:
        return np.ones(K)
    law = unchecked(model.emission(theta, step))
    if isinstance(law, Binomial):
        return oracle.binomial(solved, trials, law.probs.expand(1, K)[0].numpy())
    density: Tensor = law.log_prob(torch.tensor([[solved]])).exp().expand(1, K)[0]
    return density.numpy()


@pytest.mark.parametrize(("name", "label"), MODELS)
def test_the_likelihood_is_the_sum_over_all_paths(name: str, label: str) -> None:
    model, values, solved, trials, trained, progress, evidence, _ = case_of(name, label)
    law = Progress(model, model.parameters(N, values), Step(trials, trained, progress))
    np.testing.assert_allclose(law.log_evidence(solved), evidence, atol=EXACT)
    np.testing.assert_allclose(law.log_prob(solved), evidence.sum(0), atol=EXACT)
    history = RolloutHistory(N, num_steps=solved.shape[1])
    for t in range(history.num_steps):
        at = trials[:, t].nonzero().squeeze(-1)
        columns = {name: column[at, t] for name, column in (("solved", solved), ("trials", trials))}
        history.append(at, step=t, trained=trained[at, t], progress=float(progress[0, t]), **columns)
    history.num_steps = solved.shape[1]
    for elbo, method in ((Trace_ELBO, model.model), (TraceEnum_ELBO, model.enumerated_model)):
        fixed: Any = poutine.block(poutine.condition(method, data=values), hide=list(values))
        loss = elbo(max_plate_nesting=1).loss(fixed, lambda *_: None, history)
        # The log keeps progress in single precision.
        assert -loss == pytest.approx(evidence.sum(), abs=EXACT if name != "Trained" else 1e-5)


@PRECISIONS
@pytest.mark.parametrize(("name", "label"), EACH)
def test_the_filter_is_the_sum_over_all_paths(name: str, label: str, dtype: torch.dtype, off: float) -> None:
    model, values, solved, trials, trained, progress, evidence, beliefs = case_of(name, label)
    tracker = Tracker(model, N, values=values, dtype=dtype)
    for t in range(solved.shape[1]):
        np.testing.assert_allclose(tracker.belief, beliefs[t], atol=off)
        now = float(progress[0, t])
        terms = tracker.observe(torch.arange(N), solved[:, t], trials[:, t], trained=trained[:, t], progress=now)
        np.testing.assert_allclose(terms, evidence[t], atol=off, rtol=off)
    np.testing.assert_allclose(tracker.belief, beliefs[-1], atol=off)


@PRECISIONS
@pytest.mark.parametrize(("name", "label"), EACH)
def test_the_useful_chance_is_the_sum_over_states_and_outcomes(
    name: str, label: str, dtype: torch.dtype, off: float
) -> None:
    model, values, solved, trials, trained, progress, _, beliefs = case_of(name, label)
    tracker = Tracker(model, N, values=values, dtype=dtype)
    for t in range(solved.shape[1]):
        now = float(progress[0, t])
        tracker.observe(torch.arange(N), solved[:, t], trials[:, t], trained=trained[:, t], progress=now)
    for size in (1, 2, 8):
        exact = [beliefs[-1, row] @ useful(model, values, row, size) for row in range(N)]
        # DenseReward's quadrature of a Beta's range is stated to be good to 0.001.
        atol = 1e-3 if "beta" in label else off
        np.testing.assert_allclose(tracker.informative(size), exact, atol=atol)


def useful(model: Dynamics[Any], values: dict[str, Tensor], row: int, size: int) -> np.ndarray:
    """[K], the chance in each state that a group of one prompt is useful."""
    K = len(model.states)
    theta = model.parameters(N, values, torch.tensor([row]))
    law = model.emission(theta, Step(torch.tensor([size])))
    if law.support.is_discrete:
        step = Step(torch.tensor([size]))
        return np.sum([np.zeros(K), *(likelihood(model, theta, step, y) for y in range(1, size))], axis=0)
    assert isinstance(model, models.DenseReward), "say here how a group of the new model is useful"
    means, spread = theta.means.tolist(), theta.spread.tolist()
    laws = zip(means, spread, strict=True)
    return np.array([
        1 - within(model.family, mean, own, model.tolerance, size) if size > 1 else 0.0 for mean, own in laws
    ])  # fmt: skip


@cache
def within(family: str, mean: float, own: float, tolerance: float, size: int) -> float:
    """P(largest - smallest <= tolerance) of independent rewards: over p = F(smallest)."""
    reward = (
        stats.norm(mean, own) if family == "gaussian" else stats.beta(mean * (1 / own - 1), (1 - mean) * (1 / own - 1))
    )

    def above(p: float) -> float:
        return float(size * (reward.cdf(reward.ppf(p) + tolerance) - p) ** (size - 1))

    found, _ = integrate.quad(above, 0, 1, epsabs=1e-11, limit=500)
    return float(found)


RULES = ("GRESO", "HistoryResampling")
"""Selectors whose `informative` is the weight that their papers draw prompts by, and no chance of a useful group."""


@pytest.mark.parametrize("name", [name for name in models.__all__ if name not in RULES])
def test_every_filter_foresees_what_it_then_finds_likely(name: str) -> None:
    """The chances of all outcomes of a group, one observed after the other, add up to one, those of the useful ones to
    the useful chance: of the baselines too, which are no hidden Markov models."""
    model = make(name, arguments(name, N, only_needed=True))
    tracker = track(model, N, dtype=torch.float64)
    solved, trials = oracle.random_groups(N, 4, seed=1, most=9)
    for t in range(4):
        tracker.observe(torch.arange(N), solved[:, t], trials[:, t])
    if isinstance(model, models.DenseReward):
        pytest.skip("its outcomes are a continuum")
    for size in (2, 5):
        chances = []
        for outcome in range(size + 1):
            counts = torch.full((N,), float(outcome), dtype=torch.float64)
            chances.append(copy.deepcopy(tracker).observe(torch.arange(N), counts, torch.full((N,), size)).exp())
        chance = torch.stack(chances)
        np.testing.assert_allclose(chance.sum(0), 1, atol=EXACT)
        np.testing.assert_allclose(tracker.informative(size), chance[1:-1].sum(0), atol=EXACT)
