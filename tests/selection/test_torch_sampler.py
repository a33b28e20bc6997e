"""A prompt sampler under torch's and torchdata's loaders."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from dps_pyro import PromptSampler
from dps_pyro.models import SolvingProgress
from dps_pyro.storage import load_state, save_state

# torchdata 0.11 calls what torch 2.13 no longer wants called, and worker processes fork beside torch's threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]
stateful = pytest.mark.skipif(importlib.util.find_spec("torchdata") is None, reason="needs torchdata")


class Rows(Dataset[int]):
    def __len__(self) -> int:
        return 30

    def __getitem__(self, row: int) -> int:
        return row


def make(seed: int = 3) -> PromptSampler:
    return PromptSampler(SolvingProgress(), 30, trials=4, seed=seed)


def outcome(row: int, step: int) -> int:
    return (7 * row + 3 * step) % 5


def follow(sampler: PromptSampler, loader: Any, batches: int | None = None) -> list[list[int]]:
    """Go through a loader, observing each batch; what it gave."""
    given: list[list[int]] = []
    for batch in loader:
        rows = batch.tolist()
        given.append(rows)
        distinct = rows[::4]
        sampler.observe(distinct, [outcome(row, sampler.tracker.step) for row in distinct], trials=4)
        if len(given) == batches:
            break
    return given


def test_a_loader_gives_what_select_selects_in_whole_groups() -> None:
    sampler, alone = make(), make()
    loader = DataLoader(Rows(), batch_size=12, sampler=sampler.as_torch_sampler(3, repeats=4, num_batches=5))
    assert len(loader) == 5
    for step, rows in enumerate(follow(sampler, loader)):
        # Selected when it was asked for: everything observed before counted.
        expected = alone.select(3)
        assert rows == expected.repeat_interleave(4).tolist()
        alone.observe(expected, [outcome(row, step) for row in expected.tolist()], trials=4)


def test_a_pass_is_one_over_the_prompts_and_the_next_goes_on() -> None:
    sampler = make()
    batches = sampler.as_torch_sampler(4)
    assert len(batches) == 28
    first, second = list(batches), list(batches)
    assert len(first) == len(second) == 28
    assert first != second
    assert sampler.ahead.count == 14


def test_processes_share_each_batch() -> None:
    one = list(make().as_torch_sampler(3, 4, 2))
    parts = [list(make().as_torch_sampler(3, 4, 2, num_replicas=2, rank=rank)) for rank in (0, 1)]
    assert [parts[0][:6], parts[1][:6], parts[0][6:], parts[1][6:]] == [one[:6], one[6:12], one[12:18], one[18:]]


@pytest.mark.parametrize("workers", [0, 2])
@stateful
def test_a_stateful_loader_resumes_with_what_it_fetched_ahead(workers: int, tmp_path: Any) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader(sampler: PromptSampler) -> Any:
        ahead = {"prefetch_factor": 2, "multiprocessing_context": "fork"} if workers else {}
        batches = sampler.as_torch_sampler(3, repeats=4, num_batches=9)
        return StatefulDataLoader(Rows(), batch_size=12, sampler=batches, num_workers=workers, **ahead)

    whole = make()
    expected = follow(whole, loader(whole))

    first = make()
    running = loader(first)
    begun = follow(first, running, batches=4)
    save_state(tmp_path, first.state_dict())
    place = running.state_dict()
    assert first.ahead.count == (8 if workers else 4)  # the lag: num_workers * prefetch_factor batches

    second = make(seed=99)
    second.load_state_dict(load_state(tmp_path))
    resumed = loader(second)
    resumed.load_state_dict(place)
    assert begun + follow(second, resumed) == expected
    assert torch.equal(second.belief, whole.belief)


@stateful
def test_a_loaders_place_without_the_samplers_state_is_refused() -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    first = make()
    running = StatefulDataLoader(Rows(), batch_size=12, sampler=first.as_torch_sampler(3, 4, 9))
    follow(first, running, batches=4)
    second = make()
    resumed = StatefulDataLoader(Rows(), batch_size=12, sampler=second.as_torch_sampler(3, 4, 9))
    resumed.load_state_dict(running.state_dict())
    with pytest.raises(ValueError, match=r"loader: expected to go on with batch 0 at the latest, .* got 4"):
        next(iter(resumed))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 31}, r"batch_size: expected a whole number in 1..30, got 31"),
        ({"batch_size": 3, "repeats": 0}, "repeats: expected a whole number of at least 1"),
        ({"batch_size": 3, "num_replicas": 2}, "num_replicas: expected a number that divides .* = 3, got 2"),
        ({"batch_size": 4, "num_replicas": 2, "rank": 2}, r"rank: expected a whole number in 0..1"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().as_torch_sampler(**settings)
