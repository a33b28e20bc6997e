"""Online empirical Bayes: the prior is learned from the history as it grows, here or beside, and resumes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.fits import simulated
from helpers.runs.processes import gone
from helpers.runs.tiny import MINE

from dps_pyro import Progress, PromptSampler, Refit, RolloutHistory, Step, Tracker, fit
from dps_pyro.dynamics.sites import sites_of
from dps_pyro.inference.refit import Refitter, Worker
from dps_pyro.models import Covariate, Hierarchical, PaperDPS, RunStart, SolvingProgress
from dps_pyro.models.by_name import make
from dps_pyro.storage import load_state, save_state

QUICK = Refit(first=20, steps=8)
NUM_PROMPTS = 40


@pytest.fixture(scope="module")
def worker() -> Worker:
    """A process that fits. Each takes seconds to import what it needs."""
    return Worker()


@pytest.fixture
def one_worker(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all samplers of a test have their fits from one process."""
    monkeypatch.setattr("dps_pyro.inference.refit.Worker", lambda: worker)


def truth() -> RolloutHistory:
    """A full log: half of the prompts hopeless, half easy; unlike the default prior."""
    model, trials = SolvingProgress(), torch.full((NUM_PROMPTS, 12), 6)
    values = {"initial": torch.tensor([0.5, 0.0, 0.5]), "gaps": torch.tensor([0.02, 0.48, 0.45, 0.05])}
    torch.manual_seed(1)
    solved = Progress(model, model.parameters(NUM_PROMPTS, values), Step(trials)).sample()
    return RolloutHistory.from_dense(solved, trials)


def play(sampler: PromptSampler, log: RolloutHistory, start: int = 0, end: int = 12) -> list[list[int]]:
    chosen, solved = [], log.dense().solved
    assert solved is not None
    for step in range(start, end):
        rows = sampler.select(8)
        sampler.observe(rows, solved[rows, step], 6)
        chosen.append(rows.tolist())
    return chosen


def make_sampler(dynamics: Any = None, **settings: Any) -> PromptSampler:
    settings = {"refit_every": 3, "refit": QUICK, "seed": 5, **settings}
    return PromptSampler(dynamics or SolvingProgress(), NUM_PROMPTS, trials=6, **settings)


def test_beliefs_are_filtered_anew_at_what_was_learned() -> None:
    sampler, log = make_sampler(), truth()
    before = sampler.belief.mean(0)
    play(sampler, log)
    assert sampler.metrics()["refits"] == 4
    assert isinstance(sampler.tracker, Tracker)
    learned = dict(sampler.tracker.state_dict()["values"])
    again = Tracker(SolvingProgress(), NUM_PROMPTS, values=learned)
    events = sampler.history.events
    for step in range(12):
        now = events.step == step
        again.observe(events.prompt[now], events.solved[now], events.trials[now])
    torch.testing.assert_close(sampler.belief, again.belief)
    # What was learned: a prompt never seen is hopeless or easy, hardly in between.
    unseen = SolvingProgress().initial(SolvingProgress().parameters(1, learned)).probs
    assert unseen[1] < 0.6 * before[1]


@pytest.mark.usefixtures("one_worker")
def test_in_the_background_it_learns_the_same_one_step_later() -> None:
    log = truth()
    here, beside = make_sampler(), make_sampler(refit=Refit(first=20, steps=8, background=True))
    play(here, log, 0, 3)
    play(beside, log, 0, 3)
    assert (here.metrics()["refits"], beside.metrics()["refits"]) == (1, 0)
    rows = torch.arange(8)
    here.observe(rows, torch.zeros(8), 6)
    beside.observe(rows, torch.zeros(8), 6)
    assert beside.metrics()["refits"] == 1
    torch.testing.assert_close(beside.belief, here.belief, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("one_worker")
@pytest.mark.parametrize(("at", "background"), [(3, False), (7, False), (3, True)])
def test_a_resumed_sampler_goes_on_as_the_uninterrupted_one(background: bool, at: int, tmp_path: Path) -> None:
    """At step 3 a fit has just begun; at 7 there is one to start the next from."""
    log, settings = truth(), Refit(first=20, steps=8, background=background)
    straight = make_sampler(refit=settings)
    expected = play(straight, log)
    first = make_sampler(refit=settings)
    assert play(first, log, 0, at) == expected[:at]
    save_state(tmp_path, first.state_dict())
    second = make_sampler(refit=settings)
    second.load_state_dict(load_state(tmp_path))
    assert play(second, log, at) == expected[at:]
    assert torch.equal(second.belief, straight.belief)


KINDS = ["a" if row % 3 else "b" for row in range(NUM_PROMPTS)]


@pytest.mark.parametrize("model", [Hierarchical(KINDS), Covariate({"kind": KINDS})], ids=lambda of: type(of).__name__)
def test_models_that_pool_by_groups_and_features_resume_exactly_too(model: Any, tmp_path: Path) -> None:
    """The same instance serves all three samplers: none leaves a trace in it."""
    log, settings = truth(), {"refit": Refit(first=6, steps=3), "refit_every": 2}
    straight = make_sampler(model, **settings)
    expected = play(straight, log, 0, 8)
    first = make_sampler(model, **settings)
    assert play(first, log, 0, 5) == expected[:5]
    save_state(tmp_path, first.state_dict())
    second = make_sampler(model, **settings)
    second.load_state_dict(load_state(tmp_path))
    assert play(second, log, 5, 8) == expected[5:]
    assert torch.equal(second.belief, straight.belief)
    assert second.metrics()["refits"] == 4


def test_prompts_with_parameters_of_their_own_learn_and_new_ones_join() -> None:
    sampler = make_sampler(Hierarchical(levels=3, nodes=None), refit_every=4)
    log = truth()
    play(sampler, log, 0, 5)
    sampler.add(10)
    assert sampler.num_prompts == 50
    new = sampler.belief[NUM_PROMPTS:]
    assert torch.allclose(new, new[:1].expand_as(new))  # nobody knows anything of them
    rows = sampler.select(8)
    for _ in range(3):
        sampler.observe(rows, torch.zeros(8), 6)
    assert sampler.metrics()["refits"] == 2
    assert isinstance(sampler.tracker, Tracker)
    assert len(sampler.tracker.state_dict()["values"]["z_prompt"]) == 50


@pytest.mark.usefixtures("one_worker")
def test_a_model_in_a_file_is_refitted_in_the_background(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE, encoding="utf-8")
    sampler = make_sampler(make(f"{file}:Mine"), refit=Refit(first=5, background=True))
    play(sampler, truth(), 0, 4)
    assert sampler.metrics()["refits"] == 1


def test_a_child_that_dies_is_made_up_for(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    log = truth()
    sampler, other = (make_sampler(refit=Refit(first=20, steps=8, background=True)) for _ in range(2))
    play(sampler, log, 0, 4)
    with monkeypatch.context() as patched:  # the one that is not killed has its fits from the tests' own process
        patched.setattr("dps_pyro.inference.refit.Worker", lambda: worker)
        play(other, log, 0, 4)
    assert sampler._refitter is not None
    assert sampler._refitter._worker is not None
    sampler._refitter._worker._process.kill()
    play(sampler, log, 4, 8)
    play(other, log, 4, 8)
    assert sampler.metrics()["refits"] == 2
    torch.testing.assert_close(sampler.belief, other.belief, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_what_breaks_down_is_counted_and_left_out() -> None:
    refitter = Refitter(SolvingProgress(), Refit(first=3, learning_rate=1e30))
    refitter.begin(truth())
    assert refitter.collect() is None
    assert (refitter.count, refitter.failed, refitter.posterior) == (1, 1, None)


def test_a_model_that_learns_while_it_filters_is_not_refitted() -> None:
    with pytest.raises(ValueError, match="refit_every: expected None, as PaperDPS learns while it filters, got 5"):
        PromptSampler(PaperDPS(), 4, refit_every=5)
    with pytest.raises(ValueError, match="refit_every: expected a whole number of at least 1, got 0"):
        PromptSampler(SolvingProgress(), 4, refit_every=0)


def test_the_state_has_no_more_than_it_needs(tmp_path: Path) -> None:
    sampler = make_sampler()
    play(sampler, truth(), 0, 3)
    save_state(tmp_path, sampler.state_dict())
    assert json.loads((tmp_path / "state.json").read_text(encoding="utf-8"))
    assert sampler.state_dict()["refit"]["count"] == 1


def test_refits_keep_what_earlier_runs_taught() -> None:
    learned = fit(SolvingProgress(), simulated(100, 10), progress=False)
    taught, untaught = (
        PromptSampler(SolvingProgress(), 6, posterior=posterior, refit_every=2, refit=QUICK)
        for posterior in (learned, None)
    )
    for _ in range(4):
        for sampler in (taught, untaught):
            sampler.observe([0], [4], 8)
    for name in ("gaps", "initial"):
        kept, forgotten = (
            (sampler.tracker.state_dict()["values"][name] - learned.point[name]).abs().max()
            for sampler in (taught, untaught)
        )
        assert float(kept) < 0.1
        assert float(kept) < float(forgotten)


def test_a_runs_own_sites_are_not_handed_on() -> None:
    learned = fit(RunStart(), simulated(60, 8), progress=False)
    assert float(learned.point["run"].abs()) > 0
    torch.testing.assert_close(sites_of(RunStart().primed(learned), 3)["run"]["fn"].base_dist.scale, torch.ones(1))
    sampler = PromptSampler(RunStart(), 5, posterior=learned)
    torch.testing.assert_close(sampler.belief[0], learned.point["initial"])


PARENT = """
import sys, time
import torch
from dps_pyro.history.log import RolloutHistory
from dps_pyro.inference.refit import Refit, Refitter
from dps_pyro.models import SolvingProgress

history = RolloutHistory(50)
for step in range(50):
    history.append(list(range(50)), step=step, solved=[1.0] * 50, trials=4)
refitter = Refitter(SolvingProgress(), Refit(first=1_000_000, background=True))
refitter.begin(history)
print(refitter._worker._process.pid, flush=True)
time.sleep(60)
"""


def test_a_killed_run_leaves_no_worker_at_its_fit() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        time.sleep(3)  # it is at its million steps, or on a slow machine on its way there
        assert not gone(worker, 0.1)
        process.kill()
    assert gone(worker, 60)  # on a busy machine it may still be importing
