"""What it costs to filter a batch of histories, beside hmmlearn, dynamax and pomegranate.

    python -m benchmarks.inference.filter --peers-python peers/bin/python --out benchmarks/results/filter.json

Three states, three outcomes a group (all wrong, mixed, all right), the same parameters and outcomes for all; every
library makes `p(z_t | y_1:t)` for all steps and `log p(y_1:T)` of all prompts, in float32 (hmmlearn has float64 only).
One thread on one core each, one after the other in one run; the median of the repetitions after two that warm up, so
that dynamax's compilation is not counted (it is said how long the first call took). The results are compared: beliefs
to 1e-4, log evidence to 1e-4 of its size. `benchmarks/inference/peers.py` says how to make a Python with the
other libraries, and how each is called.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks import results
from dps_pyro import Dynamics, Step
from dps_pyro.dynamics.progress import Progress

PEERS = ("hmmlearn", "dynamax", "pomegranate")
INITIAL = torch.tensor([0.6, 0.3, 0.1])
TRANSITION = torch.tensor([[0.90, 0.09, 0.01], [0.03, 0.87, 0.10], [0.01, 0.04, 0.95]])
EMISSION = torch.tensor([[0.85, 0.14, 0.01], [0.10, 0.80, 0.10], [0.01, 0.19, 0.80]])
TOLERANCE = 1e-4


class Classes(Dynamics[None]):
    """Fixed parameters, three outcomes: 0 all wrong, 1 mixed, 2 all right."""

    def prior(self, prompts: pyro.plate) -> None:
        """No sites."""

    def initial(self, theta: None) -> dist.Categorical:
        return dist.Categorical(INITIAL)

    def transition(self, theta: None, step: Step) -> dist.Categorical:
        return dist.Categorical(TRANSITION)

    def emission(self, theta: None, step: Step) -> dist.Categorical:
        return dist.Categorical(EMISSION)


def main() -> None:
    """Measure, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers-python", type=Path, help="a Python that has the other libraries; without: ours alone")
    parser.add_argument("--out", type=Path, help="a JSON file to write the result to")
    options = parser.parse_args()

    one_core()
    torch.manual_seed(options.seed)
    law = Progress(Classes(), None, Step(torch.ones(options.prompts, options.steps, dtype=torch.long)))
    outcomes = law.sample()
    ours = _ours(law, outcomes, options.repetitions)
    rows = {"dps_pyro": {"times": ours["times"], "version": f"torch {torch.__version__}"}}
    if options.peers_python is None:
        print("The other libraries were left out: give --peers-python, a Python that has them.")
    else:
        arrays = {"initial": INITIAL, "transition": TRANSITION, "emission": EMISSION}
        job = {name: value.double().numpy() for name, value in arrays.items()}
        job |= {name: value / value.sum(-1, keepdims=True) for name, value in job.items()}
        job |= {"outcomes": outcomes.long().numpy(), "repetitions": np.array(options.repetitions)}
        for who in PEERS:
            found = ask(options.peers_python, "filter", who, job)
            apart = {
                "belief": float(np.abs(found["belief"] - ours["belief"]).max()),
                "evidence": float(np.abs(found["evidence"] / ours["evidence"] - 1).max()),
            }
            if max(apart.values()) > TOLERANCE:
                raise SystemExit(f"{who}: expected results within {TOLERANCE} of ours, got {apart} apart")
            rows[who] = {"times": found["times"].tolist(), "version": str(found["version"]), "apart": apart}
    best = statistics.median(ours["times"])
    for who, row in rows.items():
        times = row.pop("times")
        row |= {"milliseconds": round(1e3 * statistics.median(times), 2), "least": round(1e3 * min(times), 2)}
        row["ratio"] = round(statistics.median(times) / best, 2)
        print(f"{who:<12} {row['milliseconds']:>9.2f} ms   {row['ratio']:>6.2f} times ours   {row['version']}")
    if options.out is not None:
        what = "filtering a batch of histories, medians in milliseconds, one thread on one core; ratio: to dps_pyro"
        write(options.out, what, options, {"rows": rows})
    slower = [who for who, row in rows.items() if row["ratio"] < 1]
    if slower:
        raise SystemExit(f"expected dps_pyro to be the fastest, got {', '.join(slower)} faster")


def _ours(law: Progress, outcomes: Tensor, repetitions: int) -> dict[str, Any]:
    times = []
    for repetition in range(-2, repetitions):
        start = time.perf_counter()
        found = law.filter(outcomes)
        evidence = found.log_evidence.sum(0)
        if repetition >= 0:
            times.append(time.perf_counter() - start)
    return {"times": times, "belief": found.belief.transpose(0, 1).numpy(), "evidence": evidence.numpy()}


def one_core() -> None:
    """One thread on one core, as the others get in `peers.py`."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def ask(python: Path, what: str, who: str, job: dict[str, Any], threads: int = 1) -> dict[str, Any]:
    """Have another library do a job in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "job.npz", Path(folder) / "found.npz"
        np.savez(given, **job)
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        limits = dict.fromkeys(names, str(threads)) | {"JAX_PLATFORMS": "cpu"}
        peers = Path(__file__).with_name("peers.py")
        subprocess.run([python, "-P", peers, what, who, given, found], check=True, env=os.environ | limits)
        with np.load(found) as data:
            return dict(data)


def write(out: Path, what: str, options: argparse.Namespace, found: dict[str, Any]) -> None:
    """The result file: what, when, on what, how, and what was found."""
    left_out = ("out", "seed", "peers_python")
    result = {
        "what": what,
        "date": results.today(),
        "machine": f"{results.machine()}, Pyro {pyro.__version__}",
        "configuration": {name: value for name, value in vars(options).items() if name not in left_out},
        "seed": options.seed,
        **found,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    results.write(out, result)
    print(f"Written to {out}.")


if __name__ == "__main__":
    main()
