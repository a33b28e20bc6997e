"""Micro-batches bound memory and change nothing else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs.tiny import tiny
from helpers.runs.updates import Learned, rolled, updated
from hypothesis import given
from hypothesis import strategies as st

from dps_pyro.rollouts import Rollouts
from dps_pyro.trainers.step.batches import micro_batches, tight
from dps_pyro.trainers.step.groups import Groups


def of_lengths(prompts: list[int], completions: list[int]) -> Rollouts:
    rows, width, longest = len(prompts), max(prompts), max(completions)
    prompt_mask = torch.arange(width) >= width - torch.tensor(prompts)[:, None]
    completion_mask = torch.arange(longest) < torch.tensor(completions)[:, None]
    ids = torch.zeros(rows, width, dtype=torch.long), torch.zeros(rows, longest, dtype=torch.long)
    return Rollouts(
        ids[0], prompt_mask, ids[1], completion_mask, torch.zeros(rows, longest), ["stop"] * rows, [""] * rows
    )


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), min_size=1, max_size=40),
    st.integers(1, 12),
    st.none() | st.integers(1, 200),
    st.data(),
)
def test_every_row_once_within_both_bounds(
    lengths: list[tuple[int, int]], most: int, tokens: int | None, data: st.DataObject
) -> None:
    rollouts = of_lengths(*map(list, zip(*lengths, strict=True)))
    rows = torch.tensor(data.draw(st.permutations(range(len(lengths)))))[: max(1, len(lengths) // 2)]
    parts = micro_batches(rollouts, rows, tiny(Path(), micro_batch=most, micro_batch_tokens=tokens))
    assert sorted(torch.cat(parts).tolist()) == sorted(rows.tolist())
    totals = []
    for part in parts:
        assert len(part) <= most
        kept = tight(rollouts.select(part))
        width = kept.prompt_ids.shape[1] + kept.completion_ids.shape[1]
        assert tokens is None or len(part) * width <= tokens or len(part) == 1
        assert kept.prompt_mask.sum() == rollouts.prompt_mask[part].sum()  # nothing but padding is cut
        assert kept.completion_mask.sum() == rollouts.completion_mask[part].sum()
        totals += (kept.prompt_mask.sum(1) + kept.completion_mask.sum(1)).tolist()
    assert totals == sorted(totals)


@pytest.fixture(scope="module")
def groups() -> Groups:
    return rolled(torch.tensor([[1, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 1]]).repeat(2, 1))


@pytest.fixture(scope="module")
def whole(groups: Groups) -> Callable[[str], Learned]:
    """What an update on the whole batch at once learns with a loss, which is computed once."""
    return functools.cache(lambda loss: updated(groups, loss=loss, micro_batch=1000))


@pytest.mark.parametrize(
    "settings",
    [{"micro_batch": 1}, {"micro_batch": 5}, {"micro_batch_tokens": 90}, {"gradient_checkpointing": True}],
    ids=str,
)
@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo", "rloo"])
def test_accumulated_gradients_are_those_of_the_whole_batch(
    groups: Groups, whole: Callable[[str], Learned], settings: dict[str, Any], loss: str
) -> None:
    """The whole batch computes each prompt once, single rows and gradient checkpointing again for every row."""
    (expected, gradients), (parts, found) = whole(loss), updated(groups, loss=loss, **settings)
    assert parts == pytest.approx(expected, rel=1e-6)
    assert len(found) == len(gradients)
    for one, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert max(float(gradient.abs().max()) for gradient in gradients) > 1e-3
