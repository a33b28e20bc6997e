"""Looking back: smoothed states and paths, held against the sum over all paths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers import oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from dps_pyro import RolloutHistory
from dps_pyro.evaluation.smoothing import paths, smooth, smoothed
from dps_pyro.models import LogitWalk, PaperDPS, SolvingProgress


def every_path(
    values: dict[str, torch.Tensor], solved: torch.Tensor, trials: torch.Tensor
) -> list[dict[tuple[int, ...], float]]:
    """For each prompt of `OwnLadder`, `p(z_1:T | y_1:T)` of every path."""
    initial, moves, rates = (values[name].double().numpy() for name in ("own.initial", "own.moves", "own.rates"))
    found = []
    for i, (k, n) in enumerate(zip(solved.tolist(), trials.tolist(), strict=True)):
        seen = [oracle.binomial(a, b, rates[i]) for a, b in zip(k, n, strict=True)]
        chance = {}
        for path in itertools.product(range(len(initial[i])), repeat=len(n)):
            weight = initial[i][path[0]] * seen[0][path[0]]
            for t in range(1, len(n)):
                weight *= moves[i][int(n[t - 1] > 0)][path[t - 1], path[t]] * seen[t][path[t]]
            chance[path] = weight
        total = sum(chance.values())
        found.append({path: weight / total for path, weight in chance.items()})
    return found


def marginals(chances: dict[tuple[int, ...], float], num_states: int) -> np.ndarray:
    """[T, K]"""
    steps = len(next(iter(chances)))
    by_state = np.zeros((steps, num_states))
    for path, chance in chances.items():
        by_state[np.arange(steps), path] += chance
    return by_state


@settings(max_examples=8)
@given(st.integers(0, 1000), st.sampled_from([(3, 4), (2, 6), (4, 3)]))
def test_smoothing_is_the_sum_over_all_paths(seed: int, size: tuple[int, int]) -> None:
    torch.set_default_dtype(torch.float64)
    states, steps = size
    model, values = oracle.OwnLadder(states), oracle.own_values(3, states, seed)
    solved, trials = oracle.random_groups(3, steps, seed)
    found = smoothed(model, RolloutHistory.from_dense(solved, trials), values)
    assert found.shape == (3, steps, states)
    exact = np.stack([marginals(one, states) for one in every_path(values, solved, trials)])
    np.testing.assert_allclose(found.numpy(), exact, atol=1e-9)


def test_likeliest_and_drawn_paths_are_those_of_the_posterior() -> None:
    torch.set_default_dtype(torch.float64)
    model, values = oracle.OwnLadder(3), oracle.own_values(400, 3, 2)
    # The same prompt two hundred times, and another one.
    values = {name: value[[0] * 200 + [1] * 200] for name, value in values.items()}
    solved, trials = (table[[0] * 200 + [1] * 200] for table in oracle.random_groups(2, 4, 5))
    history = RolloutHistory.from_dense(solved, trials)
    chances = every_path({name: value[[0, 200]] for name, value in values.items()}, solved[[0, 200]], trials[[0, 200]])
    best = paths(model, history, values, temperature=0)
    for row, chance in ((0, chances[0]), (399, chances[1])):
        assert tuple(best[row].tolist()) == max(chance, key=lambda path: chance[path])
    drawn = torch.cat([paths(model, history, values, seed=seed).view(2, 200, 4) for seed in range(4)], 1)
    expected = smoothed(model, history, values)[[0, 200]]
    shares = torch.nn.functional.one_hot(drawn, 3).double().mean(1)
    error = (expected * (1 - expected) / 800).sqrt()
    assert bool(((shares - expected).abs() < 4 * error + 1e-3).all())
    for one, chance in zip(drawn, chances, strict=True):  # whole paths, not only the states of each step
        often = {path: weight for path, weight in chance.items() if weight > 0.05}
        assert often
        for path, weight in often.items():
            share = float((one == torch.tensor(path)).all(-1).double().mean())
            assert abs(share - weight) < 4 * (weight * (1 - weight) / 800) ** 0.5


def test_paths_are_the_seeds_and_leave_the_generator_alone() -> None:
    solved, trials = oracle.random_groups(5, 6)
    history = RolloutHistory.from_dense(solved, trials)
    before = torch.get_rng_state()
    first, again = (paths(SolvingProgress(), history, seed=1) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, paths(LogitWalk(), history, seed=2))


def test_hindsight_tells_what_the_filter_could_not() -> None:
    """A prompt unseen between two visits that were all wrong was unsolved in between."""
    solved, trials = torch.zeros(1, 5), torch.tensor([[8, 0, 0, 0, 8]])
    chances = smoothed(SolvingProgress(), RolloutHistory.from_dense(solved, trials))
    assert bool((chances[0, :, 0] > 0.95).all())


def test_sample_dimensions_and_impossible_outcomes_smooth() -> None:
    initial = torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]])  # [2, 1, K]: a sample dimension
    transition = torch.tensor([[0.9, 0.1], [0.0, 1.0]]).expand(1, 1, 1, 2, 2)
    emitted = torch.tensor([[0.0, 0.0], [float("-inf"), 0.0], [0.0, 0.0]]).reshape(3, 1, 1, 2).expand(3, 1, 4, 2)
    chances = smooth(initial, transition, emitted)
    assert chances.shape == (3, 2, 4, 2)
    torch.testing.assert_close(chances[0, :, 0], torch.tensor([[1.0, 0.0], [0.05 / 0.55, 0.5 / 0.55]]))
    torch.testing.assert_close(chances[1:, ..., 1], torch.ones(2, 2, 4))


def test_refusals_say_what_was_expected() -> None:
    history = RolloutHistory.from_dense(torch.ones(2, 3), 2)
    with pytest.raises(ValueError, match="history: expected outcomes, got a schedule"):
        smoothed(SolvingProgress(), history.schedule())
    with pytest.raises(ValueError, match="history: expected at least one group of rollouts, got none"):
        paths(SolvingProgress(), RolloutHistory(3))
    with pytest.raises(ValueError, match="dynamics: expected a model that is fitted, got PaperDPS"):
        smoothed(PaperDPS(), history)
    with pytest.raises(ValueError, match=r"temperature: expected 0 .* or 1 .*, got 0.5"):
        paths(SolvingProgress(), history, temperature=0.5)  # type: ignore[arg-type]
