"""The log by prompt: the same rectangles as the whole log's, of some prompts only."""

from __future__ import annotations

import hypothesis.strategies as st
import pyro
import torch
from hypothesis import given, settings
from pyro import poutine

from dps_pyro import RolloutHistory
from dps_pyro.history.layouts import layout
from dps_pyro.models import SolvingProgress

GROUPS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 3), st.booleans()), max_size=25)


def logged(groups: list[tuple[int, int, int, bool]]) -> RolloutHistory:
    """Groups of 0 to 3 rollouts, one of them solved, in any order; some prompts and steps twice, some never."""
    history = RolloutHistory(5, num_steps=7)
    for prompt, step, trials, trained in groups:
        history.append(
            [prompt], step=step, solved=[min(1, trials)], trials=trials, trained=[trained], progress=step / 7
        )
    return history


@given(GROUPS, st.permutations(range(5)), st.integers(1, 5))
@settings(max_examples=30)
def test_some_prompts_have_the_rectangles_of_the_whole_log(
    groups: list[tuple[int, int, int, bool]], order: list[int], size: int
) -> None:
    history, rows = logged(groups), torch.tensor(order[:size])
    whole, some = history.dense(), layout(history).dense(rows)
    assert whole.solved is not None and some.solved is not None
    for one, other in zip(some[:3], whole[:3], strict=True):
        assert torch.equal(one, other[rows]) and one.dtype == other.dtype  # type: ignore[index, union-attr]
    assert torch.equal(some.progress, whole.progress)


@given(GROUPS)
@settings(max_examples=30)
def test_rounds_are_the_steps_with_rollouts_in_order(groups: list[tuple[int, int, int, bool]]) -> None:
    history = logged(groups)
    trials = history.dense().trials
    rounds = layout(history).rounds()
    most = max(1, int((trials > 0).sum(1).max()))
    assert rounds.shape == (5, most)
    for row in range(5):
        seen = (trials[row] > 0).nonzero().flatten().tolist()
        assert rounds[row].tolist() == seen + [7] * (most - len(seen))
    some = torch.tensor([3, 0])
    mine = layout(history).rounds(some)
    assert torch.equal(mine, rounds[some][:, : mine.shape[1]])


def test_a_layout_is_made_once_and_again_when_the_log_has_grown() -> None:
    history = logged([(0, 1, 2, True), (3, 4, 1, True)])
    first = layout(history)
    assert layout(history) is first
    history.append([2], step=5, solved=[1], trials=3)
    assert layout(history) is not first
    assert layout(history).rounds()[2].tolist() == [5]
    history.add(1)
    assert layout(history).rounds().tolist() == [[1], [7], [5], [4], [7], [7]]


def test_a_mini_batch_is_laid_out_without_the_rest() -> None:
    num_prompts, num_steps = 30_000, 1_000
    history = RolloutHistory(num_prompts, num_steps=num_steps)
    generator = torch.Generator().manual_seed(0)
    for step in range(0, num_steps, 50):
        rows = torch.randperm(num_prompts, generator=generator)[:200]
        history.append(rows, step=step, solved=torch.ones(200), trials=4)
    trace = poutine.trace(SolvingProgress().model).get_trace(history, batch_size=64)
    trace.compute_log_prob()
    assert trace.nodes["outcomes"]["value"].shape == (64, num_steps)
    assert history._outcomes is None  # the rectangles of all prompts, 30 million entries each, were never made
    pyro.clear_param_store()
