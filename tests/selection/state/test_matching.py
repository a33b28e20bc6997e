"""A state goes to the prompts that it is of, wherever they stand by now."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dps_pyro import PromptSampler
from dps_pyro.models import BetaBernoulli, LogitWalk, PaperDPS, SolvingProgress
from dps_pyro.selection.state.matching import distinct, realigned

IDS = [f"p{number}" for number in range(12)]


def played(ids: list[str], model: Any = SolvingProgress, steps: int = 4) -> PromptSampler:
    """A sampler that was told, of each id, what belongs to that id."""
    sampler = PromptSampler(model(), ids, trials=4, seed=1)
    for step in range(steps):
        names = [name for name in ids if (int(name[1:]) + step) % 3 == 0]
        sampler.observe(names, [float((int(name[1:]) * 7 + step) % 5) for name in names], 4)
    return sampler


@given(order=st.permutations(IDS), gone=st.sets(st.sampled_from(IDS), max_size=8), more=st.integers(0, 3))
def test_each_prompt_keeps_what_is_known_of_it(order: list[str], gone: set[str], more: int) -> None:
    before = played(IDS)
    now = [name for name in order if name not in gone]
    now[1:1] = [f"p{100 + number}" for number in range(more)]
    after = PromptSampler(SolvingProgress(), now, trials=4, seed=9)
    after.load_state_dict(before.state_dict())
    before.add([name for name in now if name not in IDS] or 0) if more else None
    rows = before.history.locate(now)
    torch.testing.assert_close(after.belief, before.belief[rows])
    assert torch.equal(after.visits, before.visits[rows])
    assert after.ids == now
    assert after.tracker.step == before.tracker.step
    events = after.history.events
    names = [now[row] for row in events.prompt.tolist()]
    expected = [IDS[row] for row in before.history.events.prompt.tolist() if IDS[row] not in gone]
    assert names == expected
    # And goes on with the late observations and the coming ones as one that never changed.
    for sampler in (before, after):
        sampler.observe([now[0]], [2.0], 4, step=1)
        sampler.observe([now[-1]], [1.0], 4)
    torch.testing.assert_close(after.belief, before.belief[rows])


@pytest.mark.parametrize("model", [LogitWalk, PaperDPS, BetaBernoulli])
def test_every_kind_of_filter_can_be_matched(model: Any) -> None:
    before = played(IDS, model)
    now = ["p100", *IDS[:2:-1]]
    after = PromptSampler(model(), now, trials=4, seed=9)
    after.load_state_dict(before.state_dict())
    before.add(["p100"])
    torch.testing.assert_close(after.belief, before.belief[before.history.locate(now)])


def test_what_changed_is_said(caplog: pytest.LogCaptureFixture) -> None:
    sampler = PromptSampler(SolvingProgress(), ["new", *IDS[5:0:-1]], trials=4)
    sampler.load_state_dict(played(IDS).state_dict())
    assert "5 prompts are known by their content or id; 1 are new, and start unvisited; 7 are no longer" in caplog.text
    assert sampler.matched is not None
    assert sampler.matched.new == 1
    again = PromptSampler(SolvingProgress(), IDS, trials=4)
    again.load_state_dict(played(IDS).state_dict())
    assert again.matched is None


def test_other_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="state: expected some of the same prompts, got 12 of which none is there"):
        PromptSampler(SolvingProgress(), ["a", "b"], trials=4).load_state_dict(played(IDS).state_dict())


def test_without_ids_names_of_the_caller_s_do() -> None:
    before = PromptSampler(SolvingProgress(), 3, trials=4)
    before.observe([0, 1], [4.0, 0.0], 4)
    state, matched = realigned(before.state_dict(), ["a", "b", "c"], ["c", "a", "b"])
    after = PromptSampler(SolvingProgress(), 3, trials=4)
    after.load_state_dict(state)
    torch.testing.assert_close(after.belief, before.belief[[2, 0, 1]])
    rows = matched.rows(torch.tensor([0, 2]))
    assert rows is not None
    assert rows.tolist() == [1, 0]


def test_names_that_are_alike_are_told_apart_by_their_order() -> None:
    assert distinct(["a", "b", "a", "a"]) == ["a", "b", "a #2", "a #3"]


def test_threads_may_share_a_sampler() -> None:
    """As many steps, rollouts and batches as were asked for, whoever asked."""
    sampler = PromptSampler(SolvingProgress(), 40, trials=4)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(25):
                rows = sampler.select(4)
                sampler.observe(rows, [1.0] * 4, 4)
                sampler.metrics()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sampler.tracker.step == 100
    assert len(sampler.history) == int(sampler.visits.sum()) == 400
    assert sampler.metrics()["rollouts"] == 1600


def test_retired_prompts_stay_retired_in_another_order() -> None:
    before = played(IDS)
    before.retire(["p2", "p7", "p9"])
    now = [name for name in reversed(IDS) if name != "p9"]
    after = PromptSampler(SolvingProgress(), now, trials=4, seed=9)
    after.load_state_dict(before.state_dict())
    assert {now[row] for row in after.select(9).tolist()} == set(now) - {"p2", "p7"}
    with pytest.raises(ValueError, match="batch_size"):
        after.select(10)
