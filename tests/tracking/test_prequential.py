"""The prequential scores add up to the likelihood, for every model and in whatever order groups arrive."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import oracle
from helpers.variants import EACH, variants
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from scipy import stats
from torch import Tensor

from benchmarks.inference.gallery import make
from dps_pyro import Dynamics, Progress, PromptSampler, RolloutHistory, Step, Tracker
from dps_pyro.dynamics.laws import narrow, unchecked
from dps_pyro.evaluation.smoothing import law
from dps_pyro.models import SolvingProgress

N, T = 6, 5
EXACT = 1e-9
"""In double precision."""


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)


class Rising(SolvingProgress):
    """The policy's progress and the update on the prompt raise success logits, beside moves that depend on neither."""

    def emission(self, theta: Any, step: Step) -> dist.Binomial:
        logits = theta.rates.logit() + (2 * step.progress + 0.7 * step.trained).unsqueeze(-1)
        return dist.Binomial(step.trials.unsqueeze(-1), logits=logits)


class Everything(Rising):
    """Moves and outcomes depend on every field of the step, and outcomes on a prompt's own ease."""

    def prior(self, prompts: pyro.plate) -> Any:
        theta = super().prior(prompts)
        with prompts:
            return theta, pyro.sample("ease", dist.Normal(0.0, 1.0))

    def initial(self, theta: Any) -> dist.Categorical:
        return super().initial(theta[0])

    def transition(self, theta: Any, step: Step) -> dist.Categorical:
        boost = step.progress + 0.5 * step.trained + 0.1 * step.trials + 0.2 * step.number - 0.1 * step.since
        boost = (boost + step.columns["heat"] - 0.3 * step.columns["length"])[..., None, None]
        return dist.Categorical(logits=theta[0].matrix.log() + boost * torch.arange(3.0))

    def emission(self, theta: Any, step: Step) -> dist.Binomial:
        law = super().emission(theta[0], step)
        ease = theta[1] + 0.1 * step.number - 0.2 * step.since + step.columns["heat"] * step.columns["length"]
        return dist.Binomial(law.total_count, logits=law.logits + ease.unsqueeze(-1))


FEATURES = {"length": [0.1, 0.9, -0.4, 0.0, 0.7, -1.1], "kind": list("aabbab")}
OWN = {"Rising": Rising, "Everything": Everything}


class Case(NamedTuple):
    model: Dynamics[Any]
    values: dict[str, Tensor]
    log: RolloutHistory
    solved: Tensor  # [N, T]
    trials: Tensor  # [N, T]
    trained: Tensor  # [N, T]
    told: list[dict[str, Any]]  # [T], what is known of each step itself


@cache
def case_of(name: str, label: str) -> Case:
    torch.manual_seed(11)
    model: Dynamics[Any] = OWN[name]() if name in OWN else make(name, variants(name, N)[label])
    solved, trials = oracle.random_groups(N, T, seed=3, most=9)
    with poutine.block(), poutine.trace() as tape:
        theta = model.prior(pyro.plate("prompts", N, dim=-1))
    values = {site: node["value"] for site, node in tape.trace.iter_stochastic_nodes() if site != "prompts"}
    if name not in OWN and not model.emission(theta, Step(trials[:, 0])).support.is_discrete:  # partial credit
        solved = solved + torch.rand(solved.shape) * (solved < trials)
    trained = (trials > 0) & (torch.rand(trials.shape) > 0.4)
    told: list[dict[str, Any]] = [{"progress": float(torch.rand(())), "columns": {"heat": 0.3 * t}} for t in range(T)]
    told[2] = {}  # what was last known holds on
    log = RolloutHistory(N, features=FEATURES)
    for t in range(T):
        log.append(range(N), step=t, solved=solved[:, t], trials=trials[:, t], trained=trained[:, t], **told[t])
    return Case(model, values, log, solved, trials, trained, told)


def law_of(case: Case) -> Progress:
    return law(case.model, case.log, case.values)


def tracker_of(case: Case) -> Tracker:
    tracker = Tracker(case.model, N, values=case.values)
    tracker.history.features = dict(case.log.features)
    return tracker


def observe(tracker: Tracker, case: Case, rows: Tensor, t: int, late: bool = False) -> Tensor:
    told = {} if late else case.told[t]
    return tracker.observe(rows, case.solved[rows, t], case.trials[rows, t], t, trained=case.trained[rows, t], **told)


EACH_AND_OWN = [*EACH, ("Rising", ""), ("Everything", "")]


@pytest.mark.parametrize(("name", "label"), EACH_AND_OWN)
def test_scores_in_order_are_the_likelihoods_terms(name: str, label: str) -> None:
    case = case_of(name, label)
    tracker = tracker_of(case)
    terms = torch.stack([observe(tracker, case, torch.arange(N), t) for t in range(T)])
    np.testing.assert_allclose(terms, law_of(case).log_evidence(case.solved), atol=EXACT)


@pytest.mark.parametrize(("name", "label"), EACH_AND_OWN)
@settings(max_examples=5)
@given(seed=st.integers(0, 10_000))
def test_scores_add_up_to_the_likelihood_in_whatever_order_groups_arrive(name: str, label: str, seed: int) -> None:
    case = case_of(name, label)
    rng = np.random.default_rng(seed)
    trials = case.trials
    held = torch.tensor(rng.random((N, T)) < 0.5) & (trials > 0)
    tracker, total = tracker_of(case), torch.zeros(N)
    waiting: list[tuple[int, int]] = []
    for t in range(T):
        rows = (~held[:, t]).nonzero().squeeze(-1)  # groups of no rollouts among them
        total[rows] += observe(tracker, case, rows, t)
        waiting += [(row, t) for row in held[:, t].nonzero().squeeze(-1).tolist()]
        rng.shuffle(waiting)
        for row, at in [waiting.pop() for _ in range(int(rng.integers(len(waiting) + 1)))]:
            total[row] += observe(tracker, case, torch.tensor([row]), at, late=True)[0]
    for row, at in waiting:
        total[row] += observe(tracker, case, torch.tensor([row]), at, late=True)[0]
    np.testing.assert_allclose(total, law_of(case).log_prob(case.solved), atol=EXACT)
    steps_in_order = tracker_of(case)
    for t in range(T):
        observe(steps_in_order, case, torch.arange(N), t)
    torch.testing.assert_close(tracker.belief, steps_in_order.belief)


def test_an_impossible_group_scores_minus_infinity_on_time_or_late() -> None:
    values = {"gaps": torch.tensor([0.0, 0.5, 0.5, 0.0]), "transition": torch.eye(3)}  # rates 0, 0.5 and 1
    start = {"initial": torch.tensor([1.0, 0.0, 0.0])}
    tracker = Tracker(SolvingProgress(), 1, values=values | start)
    row, eight = torch.tensor([0]), torch.tensor([8])

    def score(solved: float, step: int | None = None) -> float:
        return float(tracker.observe(row, torch.tensor([solved]), eight, step))

    assert score(0.0) == 0
    tracker.observe(row[:0], torch.zeros(0), eight[:0])
    tracker.observe(row[:0], torch.zeros(0), eight[:0])
    assert score(4.0, step=1) == float("-inf")  # from then on it is believed to be in the second state
    assert score(4.0) > float("-inf")
    assert score(0.0, step=2) > float("-inf")


@pytest.mark.parametrize("given", ["probs", "logits"])
def test_rates_of_exactly_0_and_1_are_taken_at_their_word(given: str) -> None:
    rates = torch.tensor([0.0, 0.3, 1.0])
    binomial = unchecked(dist.Binomial(8, **{given: rates if given == "probs" else rates.logit()}))
    solved = torch.tensor([0.0, 3.0, 8.0]).unsqueeze(-1)
    expected = stats.binom.logpmf(solved.numpy(), 8, rates.numpy())
    np.testing.assert_allclose(binomial.log_prob(solved), expected, atol=EXACT)
    np.testing.assert_allclose(narrow(binomial).log_prob(solved), expected, atol=EXACT)


@pytest.mark.parametrize("name", ["Rising", "Everything"])
def test_chances_and_draws_for_the_coming_step_follow_the_policys_progress(name: str) -> None:
    case = case_of(name, "")
    tracker = tracker_of(case)
    for t in range(T):
        observe(tracker, case, torch.arange(N), t)
    theta = case.model.parameters(N, case.values)
    progress, heat = (torch.tensor([case.log.level(name)[-1]]) for name in ("progress", "heat"))  # the last known
    since = T - torch.where(case.trials > 0, torch.arange(T), -1).amax(-1)
    columns = {"heat": heat, "length": torch.tensor(FEATURES["length"])}
    coming = Step(torch.full((N,), 8), torch.ones(N).bool(), progress, torch.tensor([T]), since, columns)
    shown = case.model.emission(theta, coming)
    mixed = sum(shown.log_prob(torch.full((N, 1), float(k))).exp() for k in range(1, 8))
    np.testing.assert_allclose(tracker.informative(8), (tracker.belief * mixed).sum(-1), atol=EXACT)
    rates = case.model.emission(theta, coming.replace(trials=torch.ones(N))).mean
    drawn = torch.stack([tracker.draw(torch.Generator().manual_seed(seed)) for seed in range(50)])
    assert bool((drawn.unsqueeze(-1) - rates).abs().amin(-1).max() < EXACT)


def test_a_progress_without_groups_is_kept_for_late_groups() -> None:
    case = case_of("Rising", "")
    everyone, nobody = torch.arange(N), torch.arange(0)
    straight, late = (Tracker(case.model, N, values=case.values) for _ in range(2))
    solved, trials = case.solved[:, 0], torch.full((N,), 9)
    straight.observe(everyone, solved, trials, progress=0.1)
    straight.observe(everyone, solved, trials)
    late.observe(nobody, solved[:0], trials[:0], progress=0.1)
    late.observe(everyone, solved, trials)
    late.observe(everyone, solved, trials, step=0)
    assert late.history.progress().tolist() == [0.1, 0.1]
    np.testing.assert_allclose(late.belief, straight.belief, atol=EXACT)


def test_a_filter_that_is_saved_or_grows_knows_the_same_of_the_steps_to_come() -> None:
    case = case_of("Everything", "")
    straight, again = tracker_of(case), tracker_of(case)
    for t in range(3):
        observe(straight, case, torch.arange(N), t)
    again.load_state_dict(straight.state_dict())
    for t in range(3, T):
        for tracker in (straight, again):
            observe(tracker, case, torch.arange(N), t)
    assert torch.equal(straight.belief, again.belief)
    assert torch.equal(straight.informative(8), again.informative(8))


def test_a_missing_column_is_named_with_those_that_there_are() -> None:
    case = case_of("Everything", "")
    tracker = tracker_of(case)
    rows = torch.arange(N)
    with pytest.raises(ValueError, match=r"expected one of the columns that the log has \('length'\), got 'heat'"):
        tracker.observe(rows, case.solved[:, 0], case.trials[:, 0])
    assert tracker.step == 0
    sampler = PromptSampler(SolvingProgress(), N, features=FEATURES)
    with pytest.raises(ValueError, match="expected names that are free, got 'length', which is a feature"):
        sampler.observe([0], [1], 8, columns={"length": 1.0})
    with pytest.raises(ValueError, match=r"columns\['heat'\]: expected one finite number"):
        sampler.observe([0], [1], 8, columns={"heat": float("nan")})
