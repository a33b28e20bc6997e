"""The contract test of a dynamics model. Run it on your own model before you use the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.history.log import Features
from dps_pyro.support import checks
from dps_pyro.testing.case import Case, DynamicsError
from dps_pyro.testing.inference import (
    check_enumeration,
    check_filter,
    check_fit,
    check_gradients,
    check_influence,
    check_mini_batches,
    check_schedule,
)
from dps_pyro.testing.laws import (
    check_broadcasting,
    check_copy,
    check_emission,
    check_laws,
    check_methods,
    check_order,
    check_states,
)
from dps_pyro.testing.sites import check_own_values, check_rows, check_sites

__all__ = ["DynamicsError", "check_dynamics", "check_quickly"]

QUICK = (
    check_methods,
    check_states,
    check_sites,
    check_laws,
    check_emission,
    check_order,
    check_own_values,
    check_rows,
    check_broadcasting,
    check_copy,
)
"""The cheap half of the checks: the laws themselves."""
THOROUGH = (
    check_schedule,
    check_gradients,
    check_influence,
    check_mini_batches,
    check_filter,
    check_enumeration,
    check_fit,
)
"""The other half: what follows from the laws."""


def check_dynamics(
    model: Dynamics[Any],
    *,
    num_prompts: int = 6,
    num_steps: int = 5,
    trials: int | Sequence[int] = (1, 2, 5),
    columns: Sequence[str] = (),
    features: Features | None = None,
    seed: int = 0,
) -> None:
    """Test a model against the contract of `Dynamics`. It takes seconds, and returns if nothing is wrong.

    The prior's sites are continuous, global ones outside the prompts plate and per-prompt ones inside it. `initial`,
    `transition`, `emission` and `informative` sample nothing, have the right shapes, broadcast over samples and steps,
    give the rows asked for, and are finite probabilities. States are named, and ordered for all parameters. Counts add
    up to one over 0..trials. Steps without rollouts condition on nothing, and leave gradients finite. Outcomes can be
    drawn; mini-batches are unbiased; likelihood, tracker, enumerated model and brute force over all paths agree; SVI
    runs. A model that brings its own filter (`PaperDPS`) is checked as the Pyro model that it also is.

    Args:
        model: an instance. If the model takes columns of its prompts (`groups`, `features`), they need at least
            `num_prompts` entries.
        num_prompts: N, at least 3; preferably not the number of states.
        num_steps: T, at least 2.
        trials: the group sizes to try, at least 1 each. Steps without rollouts are always tried, too.
        columns: the names of the steps' own columns that the model asks for (`step.columns`).
        features: the prompts' own columns that the model asks for (`step.columns`), name -> at least `num_prompts`
            numbers.
        seed: the random seed of everything drawn. The global generators and Pyro's parameter store do not change.

    Raises:
        DynamicsError: something is wrong. The message names the place, what was expected and found, and what to change.
        ValueError: an argument is out of range, or `model` is no instance of `Dynamics`.

    With real-valued rewards, `solved` is the sum of a group's rewards, in 0..trials. For a continuous emission the test
    requires that such sums have finite densities, but not that the densities add up to one. Two mistakes cannot be seen
    from outside: a doubly stochastic matrix that was transposed, and a site that was meant to be shared but belongs to
    each prompt everywhere.
    """
    checks.instance("model", model, Dynamics)
    sizes = list(trials) if isinstance(trials, Sequence) else [trials]
    if not sizes:
        raise ValueError("trials: expected at least one group size, got none")
    sizes = [checks.count("trials", size, 1) for size in sizes]
    prompts, steps = checks.count("num_prompts", num_prompts, 3), checks.count("num_steps", num_steps, 2)
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(checks.count("seed", seed, 0))
        case = Case(model, prompts, steps, sizes, columns, features)
        for check in (*QUICK, *THOROUGH):
            check(case)


def check_quickly(
    model: Dynamics[Any], *, num_prompts: int = 6, columns: Sequence[str] = (), features: Features | None = None
) -> None:
    """Run the cheap half of `check_dynamics`: it tests what the model's methods return, and not what follows from it.
    It takes less than a second. `dps-pyro fit` and `dps-pyro train` run it first.

    Args:
        model: an instance.
        num_prompts: the number of prompts that the model knows. At most six of them are tested, and with fewer than
            three nothing is.
        columns: as for `check_dynamics`.
        features: as for `check_dynamics`.

    Raises:
        DynamicsError: something is wrong; the message names the first mistake.
    """
    checks.instance("model", model, Dynamics)
    if checks.count("num_prompts", num_prompts, 0) < 3:
        return
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(0)
        case = Case(model, min(num_prompts, 6), 3, [1, 2, 5], columns, features)
        for check in QUICK:
            check(case)
