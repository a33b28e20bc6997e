"""References that share no code with the library, and a small model of one's own to hold against them.

Arrays are numpy float64; matrices are row-stochastic, `transition[i, j] = p(next = j | now = i)`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from dps_pyro import Dynamics, Step

# ------------------------------------------------------------------------------------------------------ brute force


def binomial(solved: float, trials: float, rates: Any) -> np.ndarray:
    """[K], p(solved | trials, rate) by the schoolbook formula; ones where there were no rollouts."""
    n, k = int(trials), int(solved)
    return np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for p in np.asarray(rates, float)])


def brute_force(initial: Any, transitions: Any, likelihoods: Any) -> tuple[float, np.ndarray]:
    """log p(y_1:T), and p(z_t | y_<t) for t = 1..T+1 as [T+1, K], by adding up all paths.

    initial [K]; transitions [T, K, K], the move after each step; likelihoods [T, K], p(y_t | z_t), ones where missing.
    Every path has its own weight, in an array with an axis a step: nothing is summed on the way.
    """
    initial, transitions, likelihoods = (np.asarray(x, float) for x in (initial, transitions, likelihoods))
    paths = initial
    beliefs = [initial / initial.sum()]
    for likelihood, transition in zip(likelihoods, transitions, strict=True):
        paths = (paths * likelihood)[..., None] * transition  # [z_1, ..., z_t] -> [z_1, ..., z_t+1]
        ending = paths.reshape(-1, len(initial)).sum(0)
        beliefs.append(ending / ending.sum())
    return math.log(paths.sum()), np.array(beliefs)


# ----------------------------------------------------------------------------------------------------- unrolled Pyro


def unrolled(initial: Tensor, transition: Tensor, rates: Tensor, solved: Tensor, trials: Tensor) -> None:
    """The HMM in plain Pyro, for `TraceEnum_ELBO`: initial [K], transition [K, K], rates [K]; solved, trials [N, T]."""
    n, k = trials.to(rates.dtype), solved.to(rates.dtype)
    choose = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    with pyro.plate("rows", len(solved)):
        law = initial
        for t in pyro.markov(range(solved.shape[1])):
            z = pyro.sample(f"state_{t}", dist.Categorical(law), infer={"enumerate": "parallel"})
            likelihood = choose[:, t] + k[:, t] * rates[z].log() + (n - k)[:, t] * (-rates[z]).log1p()
            with poutine.mask(mask=trials[:, t] > 0):
                pyro.factor(f"seen_{t}", likelihood)
            law = transition[z]


# ----------------------------------------------------------------------------------------------- the published update


def published_dps(
    visits: list[dict[int, tuple[float, int]]], num_prompts: int, alpha: Any, decay: float, initial: Any
) -> np.ndarray:
    """The paper's beliefs before each step and after the last, [T+1, N, 3], prompt by prompt.

    visits: for each step, prompt -> (solved, trials). A visited prompt's state is what was seen. Its counts get the
    normalised outer product of its previous and present distributions weighted by the expected matrix before the
    step; all counts decay towards the prior; the updated expected matrix gives the next belief.
    """
    prior = np.broadcast_to(np.asarray(alpha, float), (3, 3))
    counts = [prior.copy() for _ in range(num_prompts)]
    start = np.asarray(initial, float)
    previous = [start.copy() for _ in range(num_prompts)]
    belief = [start.copy() for _ in range(num_prompts)]
    trace = [np.array(belief)]
    for seen in visits:
        for i in range(num_prompts):
            expected = counts[i] / counts[i].sum(1, keepdims=True)
            evidence = np.zeros((3, 3))
            if i in seen:
                solved, trials = seen[i]
                state = 0 if solved == 0 else 2 if solved == trials else 1
                present = np.eye(3)[state]
                for a in range(3):
                    for b in range(3):
                        evidence[a, b] = previous[i][a] * present[b] * expected[a, b]
                if evidence.sum() > 0:
                    evidence = evidence / evidence.sum()
            else:
                present = belief[i]
            counts[i] = decay * counts[i] + (1 - decay) * prior + evidence
            updated = counts[i] / counts[i].sum(1, keepdims=True)
            belief[i] = np.array([sum(present[a] * updated[a, b] for a in range(3)) for b in range(3)])
            previous[i] = present
        trace.append(np.array(belief))
    return np.array(trace)


# ------------------------------------------------------------------------------------------------ a model of one's own


class Own(NamedTuple):
    """Parameters of `OwnLadder`."""

    initial: Tensor  # [..., N, K]
    moves: Tensor  # [..., N, 2, K, K]: after a step without and with rollouts
    rates: Tensor  # [..., N, K]


class OwnLadder(Dynamics[Own]):
    """K states; every parameter a prompt's own; the state moves otherwise in steps that rolled the prompt out."""

    def __init__(self, num_states: int) -> None:
        self.num_states = num_states
        self.states = tuple(f"rung {k}" for k in range(num_states))

    def prior(self, prompts: pyro.plate) -> Own:
        ones = torch.ones(self.num_states)
        with prompts:
            initial = pyro.sample("own.initial", dist.Dirichlet(ones))
            moves = pyro.sample("own.moves", dist.Dirichlet(ones.expand(2, self.num_states, -1)).to_event(2))
            rates = pyro.sample("own.rates", dist.Beta(2 * ones, 2 * ones).to_event(1))
        return Own(initial, moves, rates)

    def initial(self, theta: Own) -> dist.Categorical:
        return dist.Categorical(theta.initial)

    def transition(self, theta: Own, step: Step) -> dist.Categorical:
        trained = step.trials > 0 if step.trained is None else step.trained
        return dist.Categorical(
            torch.where(trained[..., None, None], theta.moves[..., 1, :, :], theta.moves[..., 0, :, :])
        )

    def emission(self, theta: Own, step: Step) -> dist.Binomial:
        return dist.Binomial(step.trials.unsqueeze(-1), theta.rates)


def own_values(num_prompts: int, num_states: int, seed: int = 0) -> dict[str, Tensor]:
    """Random values of `OwnLadder`'s sites, drawn by numpy."""
    rng = np.random.default_rng(seed)
    ones = np.ones(num_states)
    values = {
        "own.initial": rng.dirichlet(ones, num_prompts),
        "own.moves": rng.dirichlet(ones, (num_prompts, 2, num_states)),
        "own.rates": rng.uniform(0.05, 0.95, (num_prompts, num_states)),
    }
    return {name: torch.tensor(value, dtype=torch.get_default_dtype()) for name, value in values.items()}


def own_brute_force(values: dict[str, Tensor], solved: Tensor, trials: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Every prompt's log p(y_1:T) [N] and beliefs [N, T+1, K] under `OwnLadder`."""
    initial, moves, rates = (values[name].double().numpy() for name in ("own.initial", "own.moves", "own.rates"))
    evidence, beliefs = [], []
    for i, (k, n) in enumerate(zip(solved.tolist(), trials.tolist(), strict=True)):
        likelihoods = [binomial(a, b, rates[i]) for a, b in zip(k, n, strict=True)]
        one, path = brute_force(initial[i], moves[i][[int(b > 0) for b in n]], likelihoods)
        evidence.append(one)
        beliefs.append(path)
    return np.array(evidence), np.array(beliefs)


def random_groups(num_prompts: int, num_steps: int, seed: int = 0, most: int = 12) -> tuple[Tensor, Tensor]:
    """solved, trials [N, T] of groups of 0..most rollouts, a third of them missing."""
    rng = np.random.default_rng(seed)
    trials = rng.integers(1, most + 1, (num_prompts, num_steps)) * (rng.random((num_prompts, num_steps)) > 0.33)
    return torch.tensor(rng.binomial(trials, rng.random((num_prompts, 1))), dtype=torch.float64), torch.tensor(trials)
