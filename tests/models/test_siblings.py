"""Siblings: beliefs against a plain computation, and what they buy on prompts that nobody, or hardly anybody, rolled
out."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import oracle
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dps_pyro import PromptSampler, RolloutHistory, fit
from dps_pyro.dynamics.step import Step
from dps_pyro.evaluation.comparison import compare
from dps_pyro.inference.methods import SVI
from dps_pyro.inference.refit import Refit
from dps_pyro.models import BetaBernoulli, LogitWalk, Siblings, SolvingProgress
from dps_pyro.models.by_name import make
from dps_pyro.models.siblings import population
from dps_pyro.tracking.tracker import Tracker, fitted_part, track

N, STEPS = 12, 5
LABELS = [f"g{row % 3}" for row in range(N)]


def plain(model: Siblings, solved: Any, trials: Any, labels: list[str]) -> np.ndarray:
    """[N, K], by the formulas of the module, prompt by prompt and hypothesis by hypothesis."""
    dynamics, strengths = model.dynamics, model.strengths.tolist()
    theta = dynamics.parameters(N, {}, None)
    start = np.broadcast_to(dynamics.initial(theta).probs.double().numpy(), (N, len(dynamics.states))).copy()
    belief, kin, seen = start.copy(), start.copy(), np.zeros(N, bool)
    by_strength = np.stack([start] * len(strengths))
    chances = np.ones(len(strengths))
    for t in range(solved.shape[1]):
        step = Step(torch.from_numpy(trials[:, t]))
        move = np.broadcast_to(
            dynamics.transition(theta, step).probs.double().numpy(), (N, start.shape[1], start.shape[1])
        )
        law = dynamics.emission(theta, step)
        likelihood = law.log_prob(torch.from_numpy(solved[:, t]).double().unsqueeze(-1)).exp().double().numpy()
        for i in range(N):
            if trials[i, t]:
                if not seen[i]:
                    chances *= by_strength[:, i] @ likelihood[i]
                seen[i] = True
                belief[i] = belief[i] * likelihood[i] / (belief[i] * likelihood[i]).sum()
            belief[i], start[i], kin[i] = belief[i] @ move[i], start[i] @ move[i], kin[i] @ move[i]
        after = belief.copy()
        for i in range(N):
            everyone = (4 * start[i] + belief[seen].sum(0)) / (4 + seen.sum())
            own = seen & (np.array(labels) == labels[i])
            for h, strength in enumerate(strengths):
                by_strength[h, i] = (strength * everyone + belief[own].sum(0)) / (strength + own.sum())
            expected, kin[i] = kin[i].copy(), chances @ by_strength[:, i] / chances.sum()
            if seen[i]:
                after[i] = belief[i] * (kin[i] / expected) ** (1 - 1 / own.sum())
                after[i] /= after[i].sum()
            else:
                after[i] = kin[i]
        belief = after
    return belief


@pytest.mark.parametrize("dynamics", [LogitWalk(rungs=7), SolvingProgress()])
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), strength=st.floats(0.1, 50), several=st.booleans())
def test_beliefs_are_those_of_the_formulas(dynamics: Any, seed: int, strength: float, several: bool) -> None:
    rng = np.random.default_rng(seed)
    trials = rng.integers(1, 5, (N, STEPS)) * (rng.random((N, STEPS)) < 0.2)
    solved = rng.integers(0, trials + 1)
    model = Siblings(LABELS, dynamics=dynamics, strength=[strength, 1.0, 100.0] if several else strength)
    tracker = model.tracker(N, dtype=torch.float64)
    for t in range(STEPS):
        rows = np.flatnonzero(trials[:, t])
        tracker.observe(*(torch.from_numpy(x) for x in (rows, solved[rows, t], trials[rows, t])))
    torch.testing.assert_close(tracker.belief.sum(-1), torch.ones(N, dtype=torch.float64))
    np.testing.assert_allclose(tracker.belief, plain(model, solved, trials, LABELS), atol=1e-5)


def test_a_prompt_without_siblings_has_the_plain_filter() -> None:
    """From its first visit on: there is nobody to follow, and its own rollouts are not counted twice."""
    solved, trials = oracle.random_groups(N, STEPS, seed=3, most=6)
    alone = list(range(N))
    both = [Siblings(alone).tracker(N), Tracker(LogitWalk(), N)]
    for tracker in both:
        for t in range(STEPS):
            tracker.observe(torch.arange(N), solved[:, t], trials[:, t].clamp(min=1))
    torch.testing.assert_close(both[0].belief, both[1].belief)


def test_a_prompt_that_was_rolled_out_once_is_drawn_to_its_siblings() -> None:
    """Two prompts failed once, early. Later, the siblings of one turn out hopeless and those of the other fair."""
    labels = ["hard", "fair"] * 40
    tracker = Siblings(labels).tracker(80, dtype=torch.float64)
    tracker.observe(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([1, 1]))
    torch.testing.assert_close(tracker.belief[0], tracker.belief[1])
    for first in range(2, 42, 10):
        rows = torch.arange(first, first + 10)
        tracker.observe(rows, (rows % 2) * 4, torch.full([10], 8))
    rates = tracker.belief @ LogitWalk().grid.double().sigmoid()
    assert float(rates[0]) < 0.1 < 0.3 < float(rates[1]) < float(rates[3])


def test_a_prompt_of_many_rollouts_stays_where_they_put_it() -> None:
    tracker = Siblings().tracker(60, dtype=torch.float64)
    alone = Tracker(LogitWalk(), 60, dtype=torch.float64)
    for _ in range(3):
        for each in (tracker, alone):
            each.observe(torch.tensor([0]), torch.tensor([32]), torch.tensor([64]))
    for first in range(1, 51, 10):
        rows = torch.arange(first, first + 10)
        tracker.observe(rows, torch.zeros(10), torch.full([10], 8))
        alone.observe(rows, torch.zeros(10), torch.full([10], 8))
    rates = [float(each.belief[0] @ LogitWalk().grid.double().sigmoid()) for each in (tracker, alone)]
    assert abs(rates[0] - rates[1]) < 0.06
    assert rates[0] > 0.4


def test_how_much_groups_say_is_learned() -> None:
    """Groups that tell nothing are not believed; groups that tell all are."""
    rng = np.random.default_rng(0)
    rates = torch.from_numpy(rng.permutation(np.repeat([0.02, 0.5], 100)))
    chosen = {}
    for name, labels in (("true", rates.tolist()), ("noise", rng.integers(0, 20, 200).tolist())):
        tracker: Any = Siblings(labels).tracker(200)
        for first in range(0, 160, 8):
            rows = torch.arange(first, first + 8)
            solved = torch.from_numpy(rng.binomial(8, rates[rows].numpy()))
            tracker.observe(rows, solved, torch.full([8], 8))
        chosen[name] = tracker.state_dict()["population"]["20"]["evidence"].softmax(0)
    assert float(chosen["true"][0]) > 0.8
    assert float(chosen["noise"][0]) < 0.1


def test_a_late_group_belongs_to_what_was_believed_at_its_step() -> None:
    """The prompt starts from the belief of strangers of that step, and follows its siblings as they went."""
    model = Siblings(LABELS)
    tracker: Any = model.tracker(N, dtype=torch.float64)
    strangers = [tracker.belief[11].clone()]
    for rows in ([0, 1], [2], [3, 5], [4], [0, 1]):  # 2 and 5 are of its group
        tracker.observe(torch.tensor(rows), torch.full([len(rows)], 4), torch.full([len(rows)], 4))
        strangers.append(tracker.belief[11].clone())
    others = tracker.belief.clone()
    theta = model.dynamics.parameters(N, {}, None)
    move = model.dynamics.transition(theta, Step(torch.zeros(1))).probs.double()
    likelihood = model.dynamics.emission(theta, Step(torch.tensor([4]))).log_prob(torch.tensor(4.0)).exp().double()
    belief = strangers[2]
    for t in range(2, 5):
        belief = belief * likelihood / (belief * likelihood).sum() if t == 2 else belief
        number = float(tracker.state_dict()["population"][str(t + 1)].get("number")[2])
        belief = (belief @ move) * (strangers[t + 1] / (strangers[t] @ move)) ** (1 - 1 / max(number, 1))
        belief = belief / belief.sum()
    tracker.observe(torch.tensor([8]), torch.tensor([4]), torch.tensor([4]), step=2)
    torch.testing.assert_close(tracker.belief[8], belief.squeeze(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(tracker.belief[:8], others[:8])


def test_populations_of_many_groups_are_kept_for_fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population, "BYTES", 20_000)
    model = Siblings(list(range(50)))
    both: list[Any] = [model.tracker(50), Siblings(LABELS * 5).tracker(50)]
    for tracker in both:
        for _ in range(30):
            tracker.observe(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([2, 2]))
        tracker.observe(torch.tensor([3]), torch.tensor([1]), torch.tensor([2]), step=2)  # longer ago than that
        assert tracker.belief.isfinite().all()
    assert [len(tracker.state_dict()["population"]) for tracker in both] == [16, 30]


def test_it_tells_easy_from_hard_prompts_that_nobody_rolled_out() -> None:
    """Two subjects, one never solved and one solved half of the time: after twenty prompts of each the other eighty are
    told apart, which the same model without siblings cannot do."""
    generator = torch.Generator().manual_seed(0)
    labels = ["hard", "fair"] * 100
    rates = torch.tensor([0.0, 0.5]).repeat(100)
    scores = {}
    for name, model in (("alone", LogitWalk()), ("siblings", Siblings(labels))):
        tracker = track(model, 200)
        solved = torch.bernoulli(rates[:40].unsqueeze(-1).expand(-1, 8), generator=generator).sum(-1)
        for rows in torch.arange(40).split(10):
            tracker.observe(rows, solved[rows], torch.full((10,), 8))
        chance = tracker.informative(8)[40:].double()
        truth = torch.where(rates[40:] > 0, 1 - 2 * 0.5**8, 0.0).double()
        scores[name] = float((truth * chance.log() + (1 - truth) * (1 - chance).log()).mean())
    assert scores["siblings"] > -0.25 > -0.6 > scores["alone"]


def test_a_sampler_goes_on_from_its_state() -> None:
    samplers = [PromptSampler(Siblings(LABELS), N, trials=4, seed=1) for _ in range(2)]
    for _ in range(3):
        rows = samplers[0].select(3)
        samplers[0].observe(rows, [2, 0, 4], 4)
    samplers[1].load_state_dict(copy.deepcopy(samplers[0].state_dict()))
    torch.testing.assert_close(samplers[0].belief, samplers[1].belief)
    stranger = int((samplers[0].visits == 0).nonzero()[0])
    for sampler in samplers:
        sampler.observe([stranger], [1], 4, step=1)
    assert torch.equal(samplers[0].belief, samplers[1].belief)
    assert torch.equal(samplers[0].select(4), samplers[1].select(4))


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([Siblings, LogitWalk]), st.booleans())
@example(216, LogitWalk, False)
@example(205, Siblings, False)
def test_a_resumed_filter_rounds_as_one_that_went_on(seed: int, model: Any, pooled: bool) -> None:
    """After late groups and new prompts, too: beliefs are loaded in the order in memory that they had, and late groups
    are filtered from the same snapshots."""
    labels = [str(row % 3) for row in range(210)]
    rng = np.random.default_rng(seed)

    def play(sampler: PromptSampler, rows: Any, step: int | None = None) -> None:
        sampler.observe(rows, torch.tensor(outcomes[: len(rows)]), 8, step=step)

    def new(number: int) -> PromptSampler:
        return PromptSampler(model(labels), number, acquisition="soft", seed=seed, pooled=pooled)

    first = new(200)
    for late in range(3):
        outcomes = rng.integers(0, 9, 16)
        play(first, first.select(16))
        play(first, first.select(16)[:5], step=late)
    first.add(10)
    for step in range(3, 20):  # past a snapshot
        outcomes = rng.integers(0, 9, 16)
        play(first, first.select(16), step)
    second = new(210)
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        outcomes = rng.integers(0, 9, 16)
        assert torch.equal(first.informative(8), second.informative(8))
        chosen = [sampler.select(16) for sampler in (first, second)]
        assert torch.equal(*chosen)
        for sampler in (first, second):
            play(sampler, chosen[0])
            play(sampler, chosen[0][:3], step=1)
            play(sampler, chosen[0][3:7], step=18)
    ends = [sampler.state_dict()["tracker"]["filter"] for sampler in (first, second)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_a_damaged_snapshot_is_named_and_changes_nothing() -> None:
    sampler = PromptSampler(LogitWalk(), 6, pooled=False)
    for _ in range(17):
        sampler.observe([1, 3], [2, 4], 8)
    state = sampler.state_dict()
    state["tracker"]["snapshots"]["16"] = {"belief": torch.ones(5, 25)}
    before = sampler.belief
    with pytest.raises(ValueError, match=r"snapshot before step 16 of shapes .*\(6, 25\).*got .*\(5, 25\)"):
        sampler.load_state_dict(state)
    assert torch.equal(sampler.belief, before)


def test_new_prompts_of_a_group_that_was_not_there_join() -> None:
    labels = ["a"] * 4 + ["b"] * 2
    sampler = PromptSampler(Siblings(labels), 4, trials=4)
    sampler.observe([0, 1], [4, 4], 4)
    sampler.add(2)
    new, grid = sampler.belief[4], LogitWalk().grid
    torch.testing.assert_close(new, sampler.belief[5])
    assert float(new @ grid) > float(Siblings(labels).tracker(6).belief[4] @ grid)
    sampler.observe([4, 0], [0, 4], 4)
    assert sampler.belief.isfinite().all()


def test_a_prompt_that_a_saved_state_did_not_have_learns_from_its_siblings() -> None:
    before = PromptSampler(Siblings(["a"] * 3), ["p", "q", "r"], trials=4)
    for _ in range(2):
        before.observe(["p", "q"], [4, 4], 4)
    after = PromptSampler(Siblings(["a"] * 4), ["r", "p", "new", "q"], trials=4)
    after.load_state_dict(before.state_dict())
    torch.testing.assert_close(after.belief[[1, 3, 0]], before.belief)
    torch.testing.assert_close(after.belief[2], after.belief[0])


def test_names_of_features_are_joined_into_labels() -> None:
    model: Any = make("Siblings", {"groups": "blocks+moves"}, {"blocks": [5, 6, 5], "moves": [1, 1, 2]})
    assert model.groups.labels == ("5+1", "5+2", "6+1")
    with pytest.raises(ValueError, match="expected features among blocks, moves, got 'colour'"):
        make("Siblings", {"groups": "blocks+colour"}, {"blocks": [5], "moves": [1]})


def test_what_it_does_not_take() -> None:
    with pytest.raises(ValueError, match=r"dynamics: expected an instance of Dynamics, got <.*BetaBernoulli"):
        Siblings(dynamics=BetaBernoulli())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="strength"):
        Siblings(strength=0.0)
    with pytest.raises(ValueError, match="strength: expected a positive number or several, got none"):
        Siblings(strength=[])
    with pytest.raises(ValueError, match="groups: expected a label for each of 3 prompts, got 2"):
        Siblings(["a", "b"]).tracker(3)


def test_a_fit_is_of_the_model_that_filters() -> None:
    walk = LogitWalk(rungs=7)
    assert fitted_part(Siblings(LABELS, dynamics=walk)) is walk
    assert fitted_part(walk) is walk
    assert fitted_part(BetaBernoulli()) is None


def test_it_refits_what_it_filters_with_and_resumes() -> None:
    def fresh() -> PromptSampler:
        refit = Refit(first=20, steps=5)
        return PromptSampler(Siblings(LABELS, dynamics=LogitWalk(rungs=5)), N, refit_every=2, refit=refit, seed=1)

    rng = np.random.default_rng(0)
    groups = [(rng.choice(N, 3, replace=False), rng.integers(0, 5, 3)) for _ in range(5)]
    whole = fresh()
    for rows, solved in groups:
        whole.observe(torch.from_numpy(rows), torch.from_numpy(solved), 4)
    plain = Siblings(LABELS, dynamics=LogitWalk(rungs=5)).tracker(N, values=whole.tracker.state_dict()["values"])
    for rows, solved in groups:
        plain.observe(torch.from_numpy(rows), torch.from_numpy(solved), torch.full([3], 4))
    assert {"start", "resting", "learning", "leave"} == set(plain.state_dict()["values"])
    torch.testing.assert_close(whole.belief, plain.belief)

    first = fresh()
    for rows, solved in groups[:3]:
        first.observe(torch.from_numpy(rows), torch.from_numpy(solved), 4)
    again = fresh()
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    for rows, solved in groups[3:]:
        again.observe(torch.from_numpy(rows), torch.from_numpy(solved), 4)
    torch.testing.assert_close(again.belief, whole.belief)


def test_what_a_log_teaches_is_the_prior_of_its_filter() -> None:
    solved, trials = oracle.random_groups(N, STEPS, seed=3, most=6)
    history = RolloutHistory(N)
    for t in range(STEPS):
        history.append(torch.arange(N), step=t, solved=solved[:, t], trials=trials[:, t])
    walk = LogitWalk(rungs=5)
    posterior = fit(walk, history, SVI(steps=20), progress=False)
    sampler = PromptSampler(Siblings(LABELS, dynamics=walk), N, posterior=posterior)
    torch.testing.assert_close(sampler.belief, Tracker(walk, N, values=posterior.point).belief)
    (found,) = compare(
        {"siblings": Siblings(LABELS, dynamics=walk)}, history, method=SVI(steps=20), score="prequential"
    )
    assert found.seconds > 0
    assert math.isfinite(found.per_group)
