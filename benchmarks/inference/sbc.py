"""Simulation-based calibration of the gallery's models (Talts et al. 2018, arXiv 1804.06788).

    python -m benchmarks.inference.sbc --out benchmarks/results/sbc.json

Parameters are drawn from the prior, a history from the parameters, and the posterior is sampled by Hamiltonian Monte
Carlo. The ranks of the true parameters among the draws are uniform if the model's density, its simulator and the
sampler agree: chi-square over 20 bins for each scalar, and Bonferroni over the scalars of a model. The exit status is 1
where that fails. A model that the file has already is left as it is, unless it is named with --models; a run that was
cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pyro.infer.reparam import LocScaleReparam

from benchmarks import results
from benchmarks.inference.gallery import SMALL
from dps_pyro import Dynamics
from dps_pyro.evaluation.sbc_ranks import Ranks, design, joined, sbc
from dps_pyro.history.log import Features
from dps_pyro.models import hierarchical, ladder, prompt_types
from dps_pyro.models.covariate import Covariate
from dps_pyro.models.dense_reward import DenseReward
from dps_pyro.models.forgetting import Forgetting
from dps_pyro.models.logit_walk import LogitWalk
from dps_pyro.models.run_start import RunStart
from dps_pyro.models.solving_progress import SolvingProgress
from dps_pyro.models.trained import Trained

MODELS: dict[str, Callable[[Features], Dynamics[Any]]] = {
    "SolvingProgress": lambda _: SolvingProgress(),
    "Ladder": lambda _: ladder.Ladder(),
    "LogitWalk": lambda _: LogitWalk(),
    "Trained": lambda _: Trained(),
    "PromptTypes": lambda _: prompt_types.PromptTypes(),
    "Covariate": lambda features: Covariate(features, **SMALL["Covariate"]),
    "DenseReward": lambda _: DenseReward(),
    "RunStart": lambda _: RunStart(),
    "Forgetting": lambda _: Forgetting(),
    "Hierarchical": lambda features: hierarchical.Hierarchical(
        [str(group) for group in features["group"]], **SMALL["Hierarchical"]
    ),
}


KEPT_BY = ("draws", "thin", "warmup")
"""What must be equal, with the sizes and the seed, for a batch to be taken up again."""
USUAL: dict[str, Any] = {
    "simulations": 200, "batch": 200, "prompts": 16, "steps": 12, "draws": 99, "thin": 6, "warmup": 400, "seed": 0,
    "powers": (1.0,), "reparam": None,
}  # fmt: skip
"""What holds unless a model or the command line has it otherwise."""
SETTINGS: dict[str, dict[str, Any]] = {
    "DenseReward": {"powers": (1.0, 0.45, 0.2, 0.08, 0.03, 0.01), "batch": 50, "seed": 1},
    "Covariate": {"thin": 4, "warmup": 300, "seed": 1, "reparam": {"weights": LocScaleReparam(0.0)}},
    "Hierarchical": {"prompts": 12, "steps": 8, "thin": 4, "warmup": 300},
}
"""DenseReward: tempered copies, since two states may take each other's prompts, so that posteriors have modes; and
a seed other than those that the ladder of powers was chosen on. Covariate: the weights over their scales, without which
few chains found small scales on seed 0. Hierarchical is the costliest."""


def main() -> None:
    """Calibrate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS))
    for name, value in USUAL.items():
        others = ", ".join(f"{own[name]} of {model}" for model, own in SETTINGS.items() if name in own)
        about = f"{value} if left out" + (f", {others}" if others else "")
        if name not in ("powers", "reparam"):
            parser.add_argument(f"--{name}", type=int, help=about)
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
    asked = {key: value for key, value in vars(options).items() if key in USUAL and value is not None}
    settings = USUAL | SETTINGS.get(name, {}) | asked
    simulations, seed = settings.pop("simulations"), settings.pop("seed")
    batch = min(settings.pop("batch"), simulations)
    if simulations % batch:
        raise SystemExit(f"--batch: expected a divisor of {simulations} simulations, got {batch}")
    schedule = design(settings.pop("prompts"), settings.pop("steps"), seed=seed)
    parts = []
    for part in range(simulations // batch):
        kept = None
        if options.out is not None:
            sizes = (seed, part, batch, schedule.num_prompts, schedule.num_steps, *map(settings.get, KEPT_BY))
            kept = options.out.with_name(f".{options.out.stem}-{name}-{'-'.join(map(str, sizes))}.json")
        if kept is not None and kept.is_file():
            parts.append(Ranks.from_plain(json.loads(kept.read_text(encoding="utf-8"))))
            continue
        # Simulations of different batches share no randomness.
        own = {**settings, "simulations": batch, "seed": seed + 1000 * part}
        parts.append(sbc(MODELS[name](schedule.features), schedule, **own))
        if kept is not None:
            _write(kept, parts[-1].plain())
    row = joined(parts).summary()
    row |= {"arguments": SMALL.get(name, {}), "batches": len(parts)}
    row["date"] = results.today()
    row["machine"] = results.machine()
    return row


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {"what": "simulation-based calibration: chi-square p-values of rank histograms", "models": {}}
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def _write(path: Path, result: dict[str, Any]) -> None:
    results.write(path, result)


if __name__ == "__main__":
    main()
