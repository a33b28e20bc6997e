"""The other libraries' side of `benchmarks.inference.filter` and `.fit`, for a Python that has them:

    python -m venv peers && peers/bin/pip install dynamax hmmlearn pomegranate

Reads a job from an .npz file, writes what it found to another, and needs nothing of this package:

    peers/bin/python -P benchmarks/inference/peers.py filter dynamax job.npz found.npz
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def median_of(repetitions: int, work: Callable[[], Any]) -> list[float]:
    """Seconds, one a repetition, after two to warm up (which compile, where there is something to compile)."""
    times = []
    for repetition in range(-2, repetitions):
        start = time.perf_counter()
        work()
        if repetition >= 0:
            times.append(time.perf_counter() - start)
    return times


# ------------------------------------------------------------------------------------------------------------- filter


def filter_dynamax(job: dict[str, Any]) -> dict[str, Any]:
    """`CategoricalHMM.filter`, vectorised over the prompts and compiled."""
    import jax
    import jax.numpy as jnp
    from dynamax.hidden_markov_model import CategoricalHMM

    model = CategoricalHMM(3, 1, 3)
    parameters, _ = model.initialize(
        initial_probs=jnp.asarray(job["initial"], jnp.float32),
        transition_matrix=jnp.asarray(job["transition"], jnp.float32),
        emission_probs=jnp.asarray(job["emission"], jnp.float32)[:, None, :],
    )
    outcomes = jnp.asarray(job["outcomes"], jnp.int32)[..., None]

    @jax.jit
    def run(outcomes: Any) -> Any:
        found = jax.vmap(lambda one: model.filter(parameters, one))(outcomes)
        return found.filtered_probs, found.marginal_loglik

    times = median_of(int(job["repetitions"]), lambda: jax.block_until_ready(run(outcomes)))
    belief, evidence = run(outcomes)
    return {"belief": np.asarray(belief), "evidence": np.asarray(evidence), "times": times, "version": jax_version()}


def jax_version() -> str:
    """What dynamax ran on."""
    import dynamax
    import jax

    return f"dynamax {dynamax.__version__}, jax {jax.__version__}"


def filter_hmmlearn(job: dict[str, Any]) -> dict[str, Any]:
    """`CategoricalHMM`'s own forward pass in C++ (with scaling, its faster one), a prompt at a time; `predict_proba`,
    its public way, would smooth as well."""
    import hmmlearn
    from hmmlearn import _hmmc, hmm

    model = hmm.CategoricalHMM(3, implementation="scaling")
    model.startprob_, model.transmat_, model.emissionprob_ = (
        np.asarray(job[name], np.float64) for name in ("initial", "transition", "emission")
    )
    model.n_features = 3
    outcomes = np.asarray(job["outcomes"], np.int64)
    rows = len(outcomes)

    def run() -> tuple[np.ndarray, np.ndarray]:
        likelihood = model._compute_likelihood(outcomes.reshape(-1, 1)).reshape(*outcomes.shape, 3)
        belief, evidence = np.empty_like(likelihood), np.empty(rows)
        for row in range(rows):
            evidence[row], belief[row], _ = _hmmc.forward_scaling(model.startprob_, model.transmat_, likelihood[row])
        return belief, evidence

    times = median_of(int(job["repetitions"]), run)
    belief, evidence = run()
    return {"belief": belief, "evidence": evidence, "times": times, "version": f"hmmlearn {hmmlearn.__version__}"}


def filter_pomegranate(job: dict[str, Any]) -> dict[str, Any]:
    """`DenseHMM.forward` of all prompts at once, its log joint made a belief."""
    from importlib.metadata import version

    import torch
    from pomegranate.distributions import Categorical
    from pomegranate.hmm import DenseHMM

    torch.set_num_threads(1)
    real = torch.float32
    emission = torch.tensor(job["emission"], dtype=real)
    # Its chains end with a chance of their own: one no chain can tell from never ending.
    model = DenseHMM(
        [Categorical([row.tolist()]) for row in emission],
        edges=torch.tensor(job["transition"], dtype=real),
        starts=torch.tensor(job["initial"], dtype=real),
        ends=torch.full([3], 1e-30),
    )
    outcomes = torch.tensor(job["outcomes"])[..., None]

    @torch.no_grad()
    def run() -> tuple[torch.Tensor, torch.Tensor]:
        joint = model.forward(outcomes)
        return joint.softmax(-1), joint[:, -1].logsumexp(-1)

    times = median_of(int(job["repetitions"]), run)
    belief, evidence = run()
    return {
        "belief": belief.numpy(),
        "evidence": evidence.numpy(),
        "times": times,
        "version": f"pomegranate {version('pomegranate')}, torch {torch.__version__}",
    }


# ---------------------------------------------------------------------------------------------------------------- fit


def fit_dynamax(job: dict[str, Any]) -> dict[str, Any]:
    """`MultinomialHMM.fit_em` of (solved, not solved) counts, all priors flat: maximum likelihood by EM."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from dynamax.hidden_markov_model import MultinomialHMM

    trials = int(job["trials"])
    flat = {f"{name}_concentration": 1.0 for name in ("initial_probs", "transition_matrix", "emission_prior")}
    model = MultinomialHMM(3, 1, 2, trials, **flat)
    rates = jnp.asarray(job["rates"])
    parameters, properties = model.initialize(
        initial_probs=jnp.asarray(job["initial"]),
        transition_matrix=jnp.asarray(job["transition"]),
        emission_probs=jnp.stack([rates, 1 - rates], -1)[:, None, :],
    )
    solved = jnp.asarray(job["solved"])
    counts = jnp.stack([solved, trials - solved], -1)[:, :, None, :]
    total = jax.jit(lambda parameters: jax.vmap(lambda one: model.marginal_log_prob(parameters, one))(counts).sum())
    at_start = float(total(parameters))
    start = time.perf_counter()
    fitted, trace = model.fit_em(parameters, properties, counts, num_iters=int(job["iterations"]), verbose=False)
    jax.block_until_ready(fitted)
    seconds = time.perf_counter() - start
    return {
        "at_start": at_start,
        "at_end": float(total(fitted)),
        "trace": np.asarray(trace),
        "seconds": seconds,
        "initial": np.asarray(fitted.initial.probs),
        "transition": np.asarray(fitted.transitions.transition_matrix),
        "rates": np.asarray(fitted.emissions.probs)[:, 0, 0],
        "version": jax_version(),
    }


WORK = {
    "filter": {"dynamax": filter_dynamax, "hmmlearn": filter_hmmlearn, "pomegranate": filter_pomegranate},
    "fit": {"dynamax": fit_dynamax},
}


def main() -> None:
    """Do the job and write what was found."""
    what, who, job, found = sys.argv[1:]
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    if threads == 1 and hasattr(os, "sched_setaffinity"):  # one thread is one core, whatever a library believes
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with np.load(job) as data:
        np.savez(found, **WORK[what][who](dict(data)))


if __name__ == "__main__":
    main()
