"""The tables of learning rates, of batch shapes, of scales, of ideas and of long runs."""

from __future__ import annotations

from typing import Any

from benchmarks.docs.learning import ideas, long_runs, rates, scales, shapes


def _run(*accuracy: float, rollouts: float = 100.0) -> dict[str, Any]:
    steps = list(range(len(accuracy)))
    return {
        "steps": steps,
        "rollouts": [rollouts * step for step in steps],
        "generated": [0.0 for _ in steps],
        "accuracy": list(accuracy),
        "useful": [],
        "predicted": [],
        "visited": [],
        "trained": 0,
        "selection": 0.0,
    }


def test_the_best_rate_of_each_arm_over_equal_rollouts_is_in_bold() -> None:
    curves = {
        "5e-5": {"uniform": {"100": _run(0.0, 0.2, 0.2)}, "dynamic sampling": {"100": _run(0.0, 0.3, 0.9)}},
        # Twice the rollouts per step: what came after the first 200 does not count.
        "1e-4": {
            "uniform": {"100": _run(0.0, 0.4, 0.4)},
            "dynamic sampling": {"100": _run(0.0, 0.2, 0.9, rollouts=200.0)},
        },
    }
    table = rates({"curves": curves}).splitlines()
    assert table[0] == "| arm | 5e-5 | 1e-4 |"
    assert table[2] == "| uniform | 0.150 (0.200) | **0.300** (0.400) |"
    assert table[3] == "| dynamic sampling | **0.375** (0.900) | 0.100 (0.900) |"
    assert table[-1] == "Mean held-out accuracy over equal rollouts (200), and in brackets the final one; seed 100."


def test_ideas_are_compared_with_the_first_arm_seed_by_seed() -> None:
    useful = {"useful": [0.2, 0.4]}
    curves = {
        "hard": {
            "the default": {"100": _run(0.0, 0.2, 0.2) | useful, "101": _run(0.0, 0.2, 0.4) | useful},
            "another": {"100": _run(0.0, 0.4, 0.4) | useful, "101": _run(0.0, 0.2, 0.4) | useful},
        }
    }
    table = ideas({"curves": curves, "seeds": [100, 101]}).splitlines()
    assert table[2] == "| the default | 2 | 0.175 | 0.300 | 0.30 | – | – |"
    assert table[3] == "| another | 2 | 0.250 | 0.400 | 0.30 | +0.075 ± 0.075 | +0.100 ± 0.100 |"
    assert table[-1].startswith("Mean held-out accuracy over equal rollouts (200); of seeds 100, 101;")


def test_long_runs_are_compared_with_uniform_selection_as_wholes_and_in_their_last_quarter() -> None:
    curves = {
        "hard": {
            "uniform": {"0": _run(0.5, 0.5)},  # not long
            "uniform, 1600 steps": {"0": _run(0.0, 0.2, 0.2, 0.2, 0.2), "1": _run(0.0, 0.2, 0.2, 0.2, 0.2)},
            "ours, 1600 steps": {"0": _run(0.0, 0.4, 0.4, 0.2, 0.2), "1": _run(0.0, 0.4, 0.4, 0.4, 0.4)},
            # The best five in a row are the third to the seventh, whose middle one came after 400 rollouts.
            "late, 1600 steps": {"0": _run(0.0, 0.1, 0.1, 0.2, 0.9, 0.3, 0.3, 0.0)},
        }
    }
    table = long_runs({"curves": curves}).splitlines()
    assert table[2] == "| uniform (hard) | 2 | 400 | 0.175 | 0.200 | – | – | 0.160 | 200 |"
    assert table[3] == "| ours (hard) | 2 | 400 | 0.312 | 0.300 | +0.138 ± 0.037 | +0.100 ± 0.100 | 0.280 | 200 |"
    assert table[4].endswith("| 0.360 | 400 |")
    assert len(table) == 7


def test_scales_are_compared_on_the_seeds_that_both_have() -> None:
    curves = {
        "hard": {
            "Siblings, groups of 1": {"0": _run(0.0, 0.4, 0.4), "1": _run(0.0, 0.4, 0.6), "2": _run(0.0, 0.9, 0.9)},
            "Siblings, groups of 1, scaled": {"0": _run(0.0, 0.4, 0.4), "1": _run(0.0, 0.2, 0.2)},
        },
        "easy": {"Siblings, groups of 1": {"0": _run(0.0, 0.4, 0.4)}},
    }
    table = scales([{"curves": curves}]).splitlines()
    assert table[2] == "| hard | 2 | 0.325 (0.500) | 0.225 (0.300) | +0.100 ± 0.100 | +0.200 ± 0.200 |"
    assert len(table) == 5


def test_the_better_batch_shape_of_each_arm_is_in_bold() -> None:
    curves = {
        "hard": {
            "uniform": {"100": _run(0.0, 0.2, 0.2)},
            "uniform, half": {"100": _run(0.0, 0.4, 0.1)},
            "dynamic sampling": {"100": _run(0.0, 0.3, 0.9)},
            "dynamic sampling, half": {"100": _run(0.0, 0.2, 0.9, rollouts=200.0)},
        }
    }
    table = shapes({"curves": curves, "seeds": [100]}).splitlines()
    assert table[2] == "| uniform | 0.150 (0.200) | **0.225** (0.100) | 200 |"
    assert table[3] == "| dynamic sampling | **0.375** (0.900) | 0.100 (0.900) | 200 and 400 |"
    assert len(table) == 6
