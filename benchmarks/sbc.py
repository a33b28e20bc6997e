"""Simulation-based calibration of the gallery's models (Talts et al. 2018, arXiv 1804.06788).

    python -m benchmarks.sbc --out benchmarks/results/sbc.json

Parameters are drawn from the prior, a history from the parameters, and the posterior is sampled by Hamiltonian Monte
Carlo. The ranks of the true parameters among the draws are uniform if the model's density, its simulator and the
sampler agree: chi-square over 20 bins for each scalar, and Bonferroni over the scalars of a model. The exit status is 1
where that fails. Models are added to the file one by one, so that a run can be continued with `--models`.
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

from dps_pyro import Dynamics
from dps_pyro.history import Features
from dps_pyro.models import hierarchical, ladder, prompt_types
from dps_pyro.models.covariate import Covariate
from dps_pyro.models.dense_reward import DenseReward
from dps_pyro.models.logit_walk import LogitWalk
from dps_pyro.models.solving_progress import SolvingProgress
from dps_pyro.models.trained import Trained
from dps_pyro.sbc import design, sbc

MODELS: dict[str, Callable[[Features], Dynamics[Any]]] = {
    "SolvingProgress": lambda _: SolvingProgress(),
    "Ladder": lambda _: ladder.Ladder(),
    "LogitWalk": lambda _: LogitWalk(),
    "Trained": lambda _: Trained(),
    "PromptTypes": lambda _: prompt_types.PromptTypes(),
    "Covariate": lambda features: Covariate(features, levels=3),
    "DenseReward": lambda _: DenseReward(),
    "Hierarchical": lambda features: hierarchical.Hierarchical([str(group) for group in features["group"]], levels=3),
}


POWERS: dict[str, tuple[float, ...]] = {"DenseReward": (1.0, 0.6, 0.35, 0.2, 0.1, 0.04)}
"""Tempered copies: where spreads are free, two states may take each other's prompts, and posteriors have modes."""


def main() -> None:
    """Calibrate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--draws", type=int, default=99)
    parser.add_argument("--thin", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file to add the results to")
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    failed = []
    for name in options.models:
        schedule = design(options.prompts, options.steps, seed=options.seed)
        settings = {key: getattr(options, key) for key in ("simulations", "draws", "thin", "warmup", "seed")}
        powers = POWERS.get(name, (1.0,))
        ranks = sbc(MODELS[name](schedule.features), schedule, **settings, powers=powers)
        row = ranks.summary()
        row["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        row["machine"] = (
            f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}, "
            f"torch {torch.__version__}"
        )
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
            _add(options.out, name, row)
    if failed:
        raise SystemExit(f"expected uniform ranks, got others of {', '.join(failed)}")


def _add(path: Path, name: str, row: dict[str, Any]) -> None:
    result: dict[str, Any] = {
        "what": "simulation-based calibration: chi-square p-values of rank histograms",
        "models": {},
    }
    if path.is_file():
        result = json.loads(path.read_text(encoding="utf-8"))
    result["models"][name] = row
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
