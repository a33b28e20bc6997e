"""What a sampler refuses, and that it stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import oracle
from helpers.samplers import IDS, INF, MODEL, NAN, equal, run, sampler_of

from dps_pyro import Posterior, PromptSampler
from dps_pyro.models import PaperDPS, SolvingProgress


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [9, 0], 8), "solved: expected numbers within 0..trials, got 9 of 8 at position 0"),
        (([0, 1], [0, -1], 8), "solved: .* got -1 of 8 at position 1"),
        (([0, 1], [0, NAN], 8), "solved: .* got nan"),
        (([0, 1], [INF, 0], 8), "solved: .* got inf"),
        (([0, 1], [1, 1], [8, 0]), "solved: .* got 1 of 0 at position 1"),
        (([0, 1], [0, 0, 0], 8), r"solved: expected shape \(2,\), one entry per prompt, got shape \(3,\)"),
        (([0, 1], [[0, 0]], 8), r"solved: .* got shape \(1, 2\)"),
        (([0, 1], 3, 8), r"solved: .* got shape \(\)"),
        (([0, 1], ["a", "b"], 8), "solved: expected numbers"),
        (([0, 1], None, 8), "solved: expected numbers"),
        (([0, 1], [1j, 0], 8), "solved: expected real numbers"),
        (([0, 1], [[0], [0, 0]], 8), "solved: expected numbers"),
        (([0, 1], [0, 0], [8, 8, 8]), r"trials: expected shape \(2,\), one entry per prompt, got shape \(3,\)"),
        (([0, 1], [0, 0], [8.5, 8]), r"trials: expected whole numbers in 0\.\.2\^31-1, got 8.5"),
        (([0, 1], [0, 0], -1), r"trials: expected whole numbers in 0\.\.2\^31-1, got -1"),
        (([0, 1], [0, 0], [8, NAN]), "trials: .* got nan"),
        (([0, 1], [0, 0], INF), "trials: .* got inf"),
        (([0, 1], [0, 0], 1e300), r"trials: .* got 1e\+300"),
        (([0, 1], [0, 0], "8"), "trials: expected numbers"),
        (([0, 1], [0, 0], True), "trials: .* got booleans"),
        (([0, 1], [0, 0], None), "trials: expected numbers"),
        (([0, 6], [0, 0], 8), r"prompts: expected rows in 0\.\.5, got 6"),
        (([0, -1], [0, 0], 8), "prompts: .* got -1"),
        (([0.5, 1], [0, 0], 8), "prompts: .* got 0.5"),
        (([2, 2], [0, 0], 8), "prompts: expected each prompt once, got row 2 repeated"),
        (([True, False], [0, 0], 8), "prompts: .* got booleans"),
        (([[0, 1]], [0, 0], 8), r"prompts: .* got shape \(1, 2\)"),
        ((torch.tensor(3), [0], 8), r"prompts: .* got shape \(\)"),
        ((3, [0], 8), "prompts: expected a vector of rows or ids, got 3"),
        ((None, [0], 8), "prompts: .* got None"),
        (("problem-1", [0], 8), "prompts: .* got 'problem-1'"),
        ((["problem-1", "problem-9"], [0, 0], 8), "prompts: expected one of 6 known ids, got 'problem-9'"),
        ((["problem-1", 2], [0, 0], 8), "prompts: expected one of 6 known ids, got 2"),
        ((["problem-1", "problem-1"], [0, 0], 8), "prompts: .* got row 1 repeated"),
        (([0, 1], [0, 0], 8, -1), "step: .* got -1"),
        (([0, 1], [0, 0], 8, 1.5), "step: .* got 1.5"),
        (([0, 1], [0, 0], 8, "2"), "step: .* got '2'"),
        (([0, 1], [0, 0], 8, True), "step: .* got True"),
    ],
    ids=str,
)
@MODEL
def test_observe_refuses_what_it_cannot_take_and_stays_as_it_was(make: Any, arguments: Any, message: str) -> None:
    sampler = sampler_of(IDS, make)
    run(sampler, 2)
    before = sampler.state_dict()
    with pytest.raises(ValueError, match=message):
        sampler.observe(*arguments)
    assert equal(before, sampler.state_dict())


def test_rows_are_not_ids_where_there_are_none() -> None:
    with pytest.raises(ValueError, match="expected rows, as these prompts have no ids, got 'problem-1'"):
        sampler_of(6).observe(["problem-1"], [0], 8)


@pytest.mark.parametrize("size", [0, 7, -1, 2.0, "2", True, None])
def test_select_refuses_sizes_out_of_range(size: Any) -> None:
    sampler = sampler_of(6)
    before = sampler.state_dict()
    with pytest.raises(ValueError, match=r"batch_size: expected a whole number in 1\.\.6"):
        sampler.select(size)
    assert equal(before, sampler.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_prompts": 0}, "num_prompts: .* got 0"),
        ({"num_prompts": -3}, "num_prompts: .* got -3"),
        ({"num_prompts": 2.5}, "num_prompts: .* got 2.5"),
        ({"num_prompts": []}, "num_prompts: .* got 0"),
        ({"num_prompts": ["a", "b", "a"]}, "num_prompts: expected distinct ids, got 'a' twice"),
        ({"num_prompts": ["a", 1]}, r"num_prompts: expected a number or a list of ids \(strings\), got 1"),
        ({"num_prompts": "abc"}, "num_prompts: .* got 'abc'"),
        ({"trials": 0}, "trials: .* got 0"),
        ({"trials": 2.5}, "trials: .* got 2.5"),
        ({"acquisition": 3}, "acquisition: expected one of top, .*, or a function, got 3"),
        ({"acquisition": None}, "acquisition: .* got None"),
        ({"seed": "x"}, "seed: expected a whole number .* got 'x'"),
        ({"seed": 1.5}, "seed: .* got 1.5"),
        ({"dynamics": SolvingProgress}, "dynamics: .* got the class SolvingProgress itself"),
        (
            {"posterior": "runs/prior"},
            r"posterior: expected a Posterior \(Posterior.load reads one\), got 'runs/prior'",
        ),
        ({"acquisition": "best"}, "acquisition: expected one of top, .*uniform, .* got 'best'"),
    ],
)
def test_the_constructor_says_what_it_expected(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptSampler(**{"dynamics": SolvingProgress(), "num_prompts": 6, **arguments})


def test_whole_numbers_may_be_of_any_kind() -> None:
    plain = run(sampler_of(6, seed=3), 3)
    for kind in (np.int64, np.array, torch.tensor):
        other = sampler_of(kind(6), seed=kind(3), trials=kind(8))
        assert other.num_prompts == 6
        assert run(other, 3) == plain


def test_a_posterior_of_another_model_is_refused() -> None:
    values = oracle.own_values(6, 3)
    strange = Posterior({}, values, torch.zeros(0), True)
    with pytest.raises(ValueError, match=r"sites of SolvingProgress \(gaps, initial, transition\), got 'own\.initial'"):
        sampler_of(6, posterior=strange)
    with pytest.raises(ValueError, match=r"'own\.initial' for 7 prompts of shape"):
        PromptSampler(oracle.OwnLadder(3), 7, posterior=strange)
    with pytest.raises(ValueError, match="values: expected none, as PaperDPS counts online"):
        sampler_of(6, PaperDPS, posterior=Posterior({}, {"transition": torch.ones(6, 3, 3) / 3}, torch.zeros(0), True))


def test_informative_needs_a_group() -> None:
    with pytest.raises(ValueError, match="trials"):
        sampler_of().informative(0)


@pytest.mark.parametrize("state", [None, [], "state", {}, {"tracker": None}])
def test_what_is_no_state_is_refused(state: Any) -> None:
    sampler = sampler_of(6)
    with pytest.raises(ValueError, match="state: expected"):
        sampler.load_state_dict(state)


@pytest.mark.parametrize("part", ["tracker", "generator", "visits", "predicted", "totals", "last"])
def test_a_state_with_a_part_that_is_none_is_refused(part: str) -> None:
    sampler = sampler_of(6)
    before = sampler.state_dict()
    with pytest.raises(ValueError, match="state: expected"):
        sampler.load_state_dict({**before, part: None})
    assert equal(before, sampler.state_dict())


@pytest.mark.parametrize("wrong", ["ids", "size", "generator", "missing", "filter", "visits"])
def test_a_state_of_another_sampler_is_refused_and_changes_nothing(wrong: str) -> None:
    sampler, other = sampler_of(IDS), sampler_of(IDS, seed=5)
    run(sampler, 2)
    run(other, 3, seed=1)
    state = other.state_dict()
    if wrong == "ids":
        state["ids"] = None
    elif wrong == "size":
        state = {**sampler_of(7).state_dict(), "ids": IDS}
    elif wrong == "generator":
        state["generator"] = torch.zeros(3, dtype=torch.uint8)
    elif wrong == "missing":
        del state["totals"]
    elif wrong == "visits":
        state["visits"] = torch.zeros(5, dtype=torch.long)
    else:
        state["tracker"]["filter"] = {"belief": torch.ones(6, 2)}
    before = sampler.state_dict()
    with pytest.raises(ValueError, match="state: expected"):
        sampler.load_state_dict(state)
    assert equal(before, sampler.state_dict())
