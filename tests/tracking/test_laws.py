"""Laws that are kept are those of the step at hand, whatever a model reads of it; and what can be kept is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from helpers import oracle
from torch import Tensor

from dps_pyro import Step, Tracker
from dps_pyro.models import SolvingProgress
from dps_pyro.models.solving_progress import Parameters
from dps_pyro.tracking.pools.kinds import kinds_of
from dps_pyro.tracking.pools.pooled import PooledTracker
from dps_pyro.tracking.predictor import Filter

N = 7
EASE = [0.1 * row for row in range(N)]
READ: dict[str, Callable[[Step], Tensor]] = {
    "nothing": lambda _: torch.tensor([0.5]),
    "trials": lambda step: (step.trials % 3) / 4,
    "trained": lambda step: step.trained.float(),
    "progress": lambda step: step.progress,
    "number": lambda step: (step.number % 5) / 5,
    "since": lambda step: step.since.clamp(max=9) / 10,
    "a column of the step": lambda step: step.columns["heat"] if "heat" in step.columns else torch.tensor([0.25]),
    "a column of the prompts": lambda step: step.columns["ease"],
    "how many columns there are": lambda step: torch.tensor([len(step.columns) / 4]),
    "a part of the step": lambda step: step.replace(trained=step.trials > 4).trained.float(),
}
"""What a model reads of a step: a number in [0, 1] for each prompt, or one for all."""
LAWS = ["emission", "transition", "informative"]


class Reader(SolvingProgress):
    """A model one of whose laws depends on what it reads of the step."""

    def __init__(self, law: str, what: str) -> None:
        super().__init__()
        self.law, self.what = law, what

    def read(self, law: str, step: Step) -> Tensor:
        return READ[self.what if law == self.law else "nothing"](step).unsqueeze(-1)

    def transition(self, theta: Parameters, step: Step) -> dist.Categorical:
        share = self.read("transition", step).unsqueeze(-1) / 2
        return dist.Categorical((1 - share) * theta.matrix + share / 3)

    def emission(self, theta: Parameters, step: Step) -> dist.Binomial:
        return dist.Binomial(step.trials.unsqueeze(-1), theta.rates * (0.4 + 0.5 * self.read("emission", step)))

    def informative(self, theta: Parameters, step: Step) -> Tensor:
        return super().informative(theta, step) * self.read("informative", step)


def visits(seed: int, steps: int = 9) -> list[dict[str, Any]]:
    """What is observed in each step: groups of changing sizes, some of them lost, and what is known of the step."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(steps):
        rows = torch.from_numpy(rng.permutation(N)[: rng.integers(0, N)])
        sizes = rng.integers(0, 9, len(rows)) if rng.random() < 0.5 else np.full(len(rows), rng.integers(1, 9))
        solved = torch.from_numpy(rng.integers(0, sizes + 1)).double()
        trained = torch.from_numpy(rng.random(len(rows)) < 0.5)
        told = {"progress": float(rng.random()), "columns": {"heat": float(rng.random())}}
        found.append({"rows": rows, "solved": solved, "trials": torch.from_numpy(sizes), "trained": trained, **told})
    return found


def step_of(number: int, trials: Tensor, trained: Tensor, last: Tensor, told: dict[str, float]) -> Step:
    """A step of plain tensors, from each prompt's last visit [N] and what was told of the steps so far."""
    columns = {name: torch.tensor([value]) for name, value in told.items() if name != "progress"}
    now = torch.tensor([number])
    progress = torch.tensor([told["progress"]])
    return Step(trials, trained, progress, now, now - last, {**columns, "ease": torch.tensor(EASE)})


def by_hand(model: Reader, seen: list[dict[str, Any]]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Before each step the beliefs [N, 3] and the chances of useful groups of 4, and the evidence [V] of its groups.

    The model is asked anew in every step, with plain tensors; the filter is numpy's."""
    theta = model.parameters(N)
    belief = model.initial(theta).probs.expand(N, 3).double().numpy()
    last, told, found = torch.full([N], -1), {"progress": 0.0}, []
    for t, groups in enumerate(seen):
        four = torch.full([N], 4)
        coming = step_of(t, four, four > 0, last, told)
        useful = (belief * model.informative(theta, coming).double().numpy()).sum(-1)
        told = {"progress": groups["progress"], **groups["columns"]}
        trials = torch.zeros(N, dtype=torch.long).index_copy(0, groups["rows"], groups["trials"])
        solved = torch.zeros(N).double().index_copy(0, groups["rows"], groups["solved"])
        trained = torch.zeros(N, dtype=torch.bool).index_copy(0, groups["rows"], groups["trained"])
        now = step_of(t, trials, trained, last, told)
        rates = model.emission(theta, now).probs.expand(N, 3).double().numpy()
        likelihood = [oracle.binomial(k, n, p) for k, n, p in zip(solved, trials, rates, strict=True)]
        joint = belief * np.array(likelihood)
        evidence = joint.sum(-1, keepdims=True)
        found.append((belief, useful, np.log(evidence[groups["rows"].numpy(), 0])))
        move = model.transition(theta, now).probs.expand(N, 3, 3).double().numpy()
        belief = np.einsum("ni,nij->nj", joint / evidence, move)
        last = torch.where(trials > 0, t, last)
    return found


def trackers(model: Reader) -> list[Filter]:
    return [Tracker(model, N), *([PooledTracker(model, N)] if kinds_of(model, N) is not None else [])]


@pytest.mark.parametrize("what", READ)
@pytest.mark.parametrize("law", LAWS)
def test_no_law_is_that_of_another_step(law: str, what: str) -> None:
    for seed in range(2):
        seen, model = visits(seed), Reader(law, what)
        for tracker in trackers(model):
            tracker.history.features = {"ease": EASE}
            for groups, (belief, useful, evidence) in zip(seen, by_hand(model, seen), strict=True):
                np.testing.assert_allclose(tracker.informative(4), useful, atol=2e-6)
                np.testing.assert_allclose(tracker.belief, belief, atol=2e-6)
                np.testing.assert_allclose(tracker.observe(**groups), evidence, atol=1e-5)


@pytest.mark.parametrize("law", LAWS)
def test_a_law_that_reads_only_the_size_of_groups_is_computed_once_for_each_size(
    law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, whole = [], getattr(SolvingProgress, law)

    def counted(model: Any, theta: Any, step: Step) -> Any:
        asked.append(law)
        return whole(model, theta, step)

    monkeypatch.setattr(SolvingProgress, law, counted)
    tracker = Tracker(SolvingProgress(), N)
    numbers = []
    for turn in range(6):
        for size in (4, 8) if turn else (4, 8, 0):
            tracker.informative(max(size, 1))
            rows = torch.arange(3)
            tracker.observe(rows, torch.zeros(3).double(), torch.full([3], size))
        numbers.append(len(asked))
    assert numbers[0] > 0
    assert len(set(numbers)) == 1


def test_other_parameters_have_other_laws() -> None:
    values = {"gaps": torch.tensor([0.3, 0.2, 0.1, 0.4])}
    straight, changed, loaded = (
        Tracker(SolvingProgress(), N, values=values),
        *(Tracker(SolvingProgress(), N) for _ in range(2)),
    )
    for tracker in (straight, changed, loaded):
        for groups in visits(3):
            tracker.informative(4)
            tracker.observe(**{name: groups[name] for name in ("rows", "solved", "trials", "trained")})
    changed.refilter(values)
    loaded.load_state_dict(straight.state_dict())
    for tracker in (changed, loaded):
        torch.testing.assert_close(tracker.belief, straight.belief)
        torch.testing.assert_close(tracker.informative(4), straight.informative(4))
    late = visits(4)[2]
    scores = [
        tracker.observe(late["rows"], late["solved"], late["trials"], 1) for tracker in (straight, changed, loaded)
    ]
    for score in scores[1:]:
        torch.testing.assert_close(score, scores[0])


def test_fractions_of_a_count_are_not_looked_up() -> None:
    tracker = Tracker(SolvingProgress(), N)
    rows, trials = torch.arange(2), torch.tensor([4, 4])
    tracker.observe(rows, torch.tensor([1.0, 2.0]).double(), trials)
    law = tracker.dynamics.emission(tracker.dynamics.parameters(N), Step(torch.tensor([4])))
    shown = torch.distributions.Binomial(law.total_count, law.probs, validate_args=False)
    expected = (tracker.belief[:2] * shown.log_prob(torch.tensor([[0.5], [3.25]])).exp()).sum(-1).log()
    torch.testing.assert_close(tracker.observe(rows, torch.tensor([0.5, 3.25]).double(), trials), expected)


def _same(field: Tensor) -> Tensor:
    return field.clone()


@pytest.mark.parametrize("name", ["trials", "trained", "progress", "number", "since"])
def test_a_watched_step_tells_which_field_was_read(name: str) -> None:
    now = torch.tensor([3])
    step = Step(torch.arange(N), columns={"heat": torch.tensor([0.5])}, number=now)
    for part in (lambda one: one, lambda one: one.at(slice(2)), lambda one: one.replace(), lambda one: one.each(_same)):
        asked: set[str] = set()
        watched = step.watched(asked)
        assert asked == set()
        found, expected = getattr(part(watched), name), getattr(part(step), name)
        assert torch.equal(found, expected)
        assert name in asked


@pytest.mark.parametrize("look", [len, list, lambda columns: columns["heat"], lambda columns: "heat" in columns])
def test_a_watched_step_tells_that_columns_were_looked_at(look: Callable[[Any], Any]) -> None:
    step = Step(torch.arange(N), columns={"heat": torch.tensor([0.5])})
    for part in (lambda one: one, lambda one: one.at(slice(2))):
        asked: set[str] = set()
        assert look(part(step.watched(asked)).columns) == look(part(step).columns)
        assert "columns" in asked
