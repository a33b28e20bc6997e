"""Simulation-based calibration of the gallery's models (Talts et al. 2018, arXiv 1804.06788).

    python -m benchmarks.sbc --out benchmarks/results/sbc.json

Parameters are drawn from the prior, a history from the parameters, and the posterior is sampled by Hamiltonian Monte
Carlo. The ranks of the true parameters among the draws are uniform if the model's density, its simulator and the
sampler agree: chi-square over 20 bins for each scalar, and Bonferroni over the scalars of a model. The exit status is 1
where that fails. A model that the file has already is left as it is, unless it is named with --models; a run that was
cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gallery import SMALL
from dps_pyro import Dynamics
from dps_pyro.history import Features
from dps_pyro.models import hierarchical, ladder, prompt_types
from dps_pyro.models.covariate import Covariate
from dps_pyro.models.dense_reward import DenseReward
from dps_pyro.models.logit_walk import LogitWalk
from dps_pyro.models.solving_progress import SolvingProgress
from dps_pyro.models.trained import Trained
from dps_pyro.sbc import Ranks, design, joined, sbc
from dps_pyro.storage import atomic_path

MODELS: dict[str, Callable[[Features], Dynamics[Any]]] = {
    "SolvingProgress": lambda _: SolvingProgress(),
    "Ladder": lambda _: ladder.Ladder(),
    "LogitWalk": lambda _: LogitWalk(),
    "Trained": lambda _: Trained(),
    "PromptTypes": lambda _: prompt_types.PromptTypes(),
    "Covariate": lambda features: Covariate(features, **SMALL["Covariate"]),
    "DenseReward": lambda _: DenseReward(),
    "Hierarchical": lambda features: hierarchical.Hierarchical(
        [str(group) for group in features["group"]], **SMALL["Hierarchical"]
    ),
}


KEPT_BY = ("prompts", "steps", "draws", "thin", "warmup")
"""What must be equal for a batch to be taken up again."""
SETTINGS: dict[str, dict[str, Any]] = {
    "DenseReward": {"powers": (1.0, 0.45, 0.2, 0.08, 0.03, 0.01), "batch": 50, "seed": 1},
}
"""What a model wants otherwise than the command line's default has it. DenseReward: tempered copies, since two of its
states may take each other's prompts, so that posteriors have modes; and a seed other than those that the ladder of
powers was chosen on."""


def main() -> None:
    """Calibrate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS))
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--batch", type=int, help="simulations at a time, 200 if left out, 50 of DenseReward")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--draws", type=int, default=99)
    parser.add_argument("--thin", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=400)
    parser.add_argument("--seed", type=int, help="0 if left out, 1 of DenseReward")
    parser.add_argument("--out", type=Path, help="a JSON file to add the results to")
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    there = _read(options.out)["models"] if options.out is not None else {}
    failed = []
    for name in options.models or [name for name in MODELS if name not in there]:
        row = calibrate(name, options)
        worst = min(row["scalars"], key=lambda scalar: row["scalars"][scalar]["p"])
        least = min(scalar["effective_draws"][0] for scalar in row["scalars"].values())
        print(
            f"{name}: {'uniform' if row['uniform'] else 'NOT UNIFORM'}; {len(row['scalars'])} scalars, smallest p "
            f"{row['smallest_p']} ({worst}); {row['divergences']} divergences; at least {least} effective draws of "
            f"{row['draws']}; {row['seconds']} s",
            flush=True,
        )
        if not row["uniform"]:
            failed.append(name)
        if options.out is not None:
            result = _read(options.out)
            result["models"][name] = row
            _write(options.out, result)
            for part in options.out.parent.glob(f".{options.out.stem}-{name}-*.json"):
                part.unlink()
    if failed:
        raise SystemExit(f"expected uniform ranks, got others of {', '.join(failed)}")


def calibrate(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """A model's row. Batches of simulations are kept beside the result file until the last is done."""
    own = SETTINGS.get(name, {})
    seed = own.get("seed", 0) if options.seed is None else options.seed
    batch = min(own.get("batch", 200) if options.batch is None else options.batch, options.simulations)
    if options.simulations % batch:
        raise SystemExit(f"--batch: expected a divisor of {options.simulations} simulations, got {batch}")
    schedule = design(options.prompts, options.steps, seed=seed)
    settings = {key: getattr(options, key) for key in ("draws", "thin", "warmup")}
    settings |= {"powers": own.get("powers", (1.0,)), "simulations": batch}
    parts = []
    for part in range(options.simulations // batch):
        if options.out is None:
            kept = None
        else:
            what = f"{name}-{seed}-{part}-{batch}-{'-'.join(str(getattr(options, key)) for key in KEPT_BY)}"
            kept = options.out.with_name(f".{options.out.stem}-{what}.json")
        if kept is not None and kept.is_file():
            parts.append(Ranks.from_plain(json.loads(kept.read_text(encoding="utf-8"))))
            continue
        # Simulations of different batches share no randomness.
        parts.append(sbc(MODELS[name](schedule.features), schedule, **settings, seed=seed + 1000 * part))
        if kept is not None:
            _write(kept, parts[-1].plain())
    row = joined(parts).summary()
    row |= {"arguments": SMALL.get(name, {}), "batches": len(parts)}
    row["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    row["machine"] = (
        f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
    return row


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {"what": "simulation-based calibration: chi-square p-values of rank histograms", "models": {}}
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def _write(path: Path, result: dict[str, Any]) -> None:
    with atomic_path(path) as aside:
        aside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
