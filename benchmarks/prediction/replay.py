"""Which model predicts best? Every model and baseline on full logs of real runs, scored on all prompts at every step.

    python -m benchmarks.prediction.replay --out benchmarks/results/replay.json

Protocol "uniform": every predictor is shown the same 32 random prompts a step. Protocol "own": each is shown what it
selects itself (soft). Both on logs that `benchmarks.prediction.logs` records, with three priors:

    default   the model's own
    fitted    learned from what earlier runs would have left: 32 random groups a step of each development log (of a
              development log: of the other one), population parameters only
    online    the model's own, and the model is fitted again to what it was shown, every 10 steps
    both      the fitted one, from which and with which as the prior the model is fitted again every 10 steps

"ceiling" is the protocol in which everything is shown at every step. Models were developed on the develop-* logs; what
is reported is measured on the report-* logs, which are played if no others are named. One process; every cell is
written as it ends, so that a killed benchmark goes on where it was. It is made anew when its model's source changes.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks import results
from benchmarks.prediction.logs import FOLDER, LOGS, joined, shown
from dps_pyro import SVI, Dynamics, Posterior, PromptSampler, RolloutHistory, fit
from dps_pyro.evaluation.replays import Replay, replay
from dps_pyro.history.log import Features
from dps_pyro.models import (
    BetaBernoulli,
    Covariate,
    Hierarchical,
    Ladder,
    LogitWalk,
    PaperDPS,
    PromptTypes,
    RewardEMA,
    RunStart,
    Siblings,
    SolvingProgress,
    Trained,
)
from dps_pyro.storage import atomic_path, strict_json
from dps_pyro.tracking.tracker import is_fitted

LABELS = ["2", "3", "4", "5", "6"]
"""How many numbers a problem has: the groups that there are in any log, so that a posterior of one fits the others."""


def _operands(features: Features) -> list[str]:
    return [f"{float(value):.0f}" for value in features["operands"]]


MODELS: dict[str, Callable[[Features, Features], Any]] = {
    "PaperDPS": lambda *_: PaperDPS(),
    "BetaBernoulli, decay 0.5": lambda *_: BetaBernoulli(),
    "BetaBernoulli, decay 0.8": lambda *_: BetaBernoulli(decay=0.8),
    "BetaBernoulli, decay 1": lambda *_: BetaBernoulli(decay=1.0),
    "RewardEMA": lambda *_: RewardEMA(),
    "SolvingProgress": lambda *_: SolvingProgress(),
    "Ladder": lambda *_: Ladder(),
    "RunStart": lambda *_: RunStart(),
    "PromptTypes": lambda *_: PromptTypes(),
    "Trained": lambda *_: Trained(),
    "Hierarchical, groups": lambda own, _: Hierarchical(_operands(own), LABELS),
    "Covariate": lambda own, reference: Covariate(own, reference=reference),
    "LogitWalk": lambda *_: LogitWalk(),
    "LogitWalk, groups": lambda own, _: LogitWalk(_operands(own), LABELS),
    "Siblings": lambda *_: Siblings(),
    "Siblings, groups": lambda own, _: Siblings(_operands(own)),
    "Siblings, features": lambda own, _: Siblings(features=own),
}
"""Each from the features of the prompts to be tracked, and those of the development logs, which say what an average
feature is. Groups are the numbers of operands."""

Prior = Literal["default", "fitted", "online", "both"]
PRIORS: tuple[Prior, ...] = ("default", "fitted", "online", "both")
PROTOCOLS = ("uniform", "own", "ceiling")
CEILING = ("Hierarchical, groups", "LogitWalk", "LogitWalk, groups")
FITTED = (
    "SolvingProgress",
    "RunStart",
    "Ladder",
    "Hierarchical, groups",
    "Covariate",
    "LogitWalk",
    "LogitWalk, groups",
    "Siblings",
    "Siblings, groups",
    "Siblings, features",
)
"""Models that are played from a fitted prior, too; `Siblings` from the prior of `LogitWalk`, which it filters with."""
ONLINE = ("Covariate", "SolvingProgress", "RunStart", "LogitWalk")
"""Models that are fitted again as they go: a dozen fits a cell, of protocol "uniform" alone."""
BOTH = ("SolvingProgress", "RunStart", "LogitWalk")
"""Those that are also fitted again from a fitted prior."""
REPORT = [name for name in LOGS if name.startswith("report-")]
BASE_RATE = "base rate so far"
COLUMNS = (
    "log_score",
    "brier",
    "ece",
    "first",
    "unvisited",
    "unvisited_ece",
    "useful_chosen",
    "useful_top",
    "rollouts_to_target",
)


@dataclass(frozen=True)
class Cell:
    """One replay."""

    log: str
    protocol: str
    model: str
    prior: Prior

    @property
    def row(self) -> str:
        told = "fitted and online" if self.prior == "both" else self.prior
        return self.model if self.prior == "default" else f"{self.model}, {told}"

    def slug(self, source: str) -> str:
        name = f"{self.log}-{self.protocol}-{self.model}-{self.prior}"
        return "".join(letter if letter.isalnum() else "-" for letter in name) + f"-{source}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Replay what is missing, then print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", nargs="+", choices=list(LOGS), default=REPORT)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--priors", nargs="+", choices=PRIORS, default=PRIORS)
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=PROTOCOLS)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--refit-every", type=int, default=10)
    parser.add_argument("--fit-steps", type=int, default=1000, help="SVI steps at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the logs are")
    parser.add_argument("--runs", type=Path, default=Path("runs/replay"), help="where single cells are kept")
    parser.add_argument("--out", type=Path, help="a JSON file to write the result to")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    bench = Bench(options)
    found = {cell: bench.result(cell) for cell in bench.cells()}
    tables = {
        protocol: {
            "report": _table(found, protocol, [name for name in options.logs if name.startswith("report-")]),
            "develop": _table(found, protocol, [name for name in options.logs if name.startswith("develop-")]),
        }
        for protocol in options.protocols
    }
    for protocol, parts in tables.items():
        for part, rows in parts.items():
            _show(f"{protocol}, {part} logs", rows)
    if options.out is not None:
        result = {
            "what": "the predicted chance of a useful group, scored on all prompts of full logs",
            "date": results.today(),
            "machine": results.machine(),
            "configuration": {"batch_size": options.batch_size, "refit_every": options.refit_every,
                              "fit_steps": options.fit_steps, "acquisition": "soft", "seed": options.seed},
            "logs": {name: LOGS[name] for name in options.logs},
            "tables": tables,
            "curves": _curves(found),
        }  # fmt: skip
        options.out.parent.mkdir(parents=True, exist_ok=True)
        results.write(options.out, _rounded(result))


class Bench:
    """The cells, each made once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.log = cache(lambda name: RolloutHistory.from_parquet(options.folder / f"{name}.parquet"))
        self.develop = [name for name in LOGS if name.startswith("develop-")]
        self.reference = cache(lambda: joined([self.log(name) for name in self.develop]).features)

    def cells(self) -> Iterator[Cell]:
        """All of them, the cheap ones first."""
        for prior in self.options.priors:
            for log in self.options.logs:
                for protocol in self.options.protocols:
                    for model in self.options.models:
                        if prior == "fitted" and model not in FITTED:
                            continue
                        refitted = {"online": ONLINE, "both": BOTH}.get(prior)
                        if refitted is not None and (model not in refitted or protocol != "uniform"):
                            continue
                        if protocol == "ceiling" and (model not in CEILING or prior != "fitted"):
                            continue
                        made = self.model(model, self.log(log))
                        if prior == "default" or is_fitted(made) or isinstance(made, Siblings):
                            yield Cell(log, protocol, model, prior)

    def model(self, name: str, log: RolloutHistory) -> Any:
        return MODELS[name](log.features, self.reference())

    def result(self, cell: Cell) -> dict[str, Any]:
        """A cell's numbers; from its file where it was made before."""
        options, log = self.options, self.log(cell.log)
        model = self.model(cell.model, log)
        kept = options.runs / f"{cell.slug(self._stamp(model))}.json"
        if kept.exists():
            return dict(json.loads(kept.read_text(encoding="utf-8")))
        played = self.play(cell)
        result = played.to_dict()
        if cell.protocol == "uniform":
            result["base_rate"] = base_rate(played).to_dict()
        with atomic_path(kept) as aside:
            aside.write_text(strict_json(result), encoding="utf-8")
        shown = f"log score {result['summary']['log_score']:.3f}, ECE {result['summary']['ece']:.3f}"
        print(
            f"{cell.log}, {cell.protocol}: {cell.row}: {shown}, {result['about']['seconds']} s",
            file=sys.stderr,
            flush=True,
        )
        return dict(json.loads(strict_json(result)))

    def play(self, cell: Cell) -> Replay:
        """A cell's replay."""
        options, log = self.options, self.log(cell.log)
        model = self.model(cell.model, log)
        sampler = PromptSampler(
            model,
            log.ids if log.ids is not None else log.num_prompts,
            acquisition="soft",
            posterior=self.prior(cell, model) if cell.prior in ("fitted", "both") else None,
            features=log.features,
            seed=options.seed,
            refit_every=options.refit_every if cell.prior in ("online", "both") else None,
        )
        return replay(
            log,
            sampler,
            selection="own" if cell.protocol == "own" else "uniform",
            batch_size=log.num_prompts if cell.protocol == "ceiling" else options.batch_size,
            seed=options.seed,
        )

    def prior(self, cell: Cell, model: Any) -> Posterior:
        """What random groups of the development logs other than the cell's teach of a population."""
        if isinstance(model, Siblings):
            cell, model = replace(cell, model="LogitWalk"), model.dynamics
        names = [name for name in self.develop if name != cell.log]
        slug = Cell("+".join(names), "prior", cell.model, "fitted").slug(self._stamp(model))
        kept = self.options.runs / "priors" / slug
        if kept.exists():
            return Posterior.load(kept)
        history = joined([shown(self.log(name), self.options.batch_size, self.options.seed) for name in names])
        learner: Dynamics[Any] = self.model(cell.model, history)
        method = SVI(guide="normal", steps=self.options.fit_steps, draws=50)
        posterior = fit(learner, history, method, seed=self.options.seed).population()
        posterior.save(kept)
        about = posterior.about
        print(f"{cell.model}: fitted to {', '.join(names)}: {about['steps']} steps, {about['seconds']} s, "
              f"{'flat' if posterior.converged else 'still moving'}", file=sys.stderr, flush=True)  # fmt: skip
        return posterior

    def _stamp(self, model: Any) -> str:
        """Of the model's source and of the settings that every cell depends on."""
        options = self.options
        settings = f"{options.batch_size} {options.refit_every} {options.fit_steps} {options.seed}"
        source = inspect.getsource(sys.modules[type(model).__module__])
        return hashlib.sha256((settings + source).encode()).hexdigest()[:8]


def base_rate(played: Replay) -> Replay:
    """What somebody would have predicted who knows only the share of useful groups among those shown so far."""
    shown, useful = played.chosen.sum(1), (played.useful & played.chosen).sum(1)
    rate = (useful.cumsum(0) - useful + 0.5) / (shown.cumsum(0) - shown + 1)
    chance = rate.double().unsqueeze(1).expand(played.chance.shape)
    return Replay(chance, played.useful, played.chosen, played.trials, {"model": BASE_RATE})


def _table(found: dict[Cell, dict[str, Any]], protocol: str, logs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Row -> column -> mean and standard deviation over logs, and the single values."""
    rows: dict[str, dict[str, Any]] = {}
    for cell, result in found.items():
        if cell.protocol == protocol and cell.log in logs:
            rows.setdefault(cell.row, {})[cell.log] = _numbers(result["summary"])
            if "base_rate" in result:
                rows.setdefault(BASE_RATE, {})[cell.log] = _numbers(result["base_rate"]["summary"])
    return {
        row: {column: _spread([by_log[name][column] for name in logs if name in by_log]) for column in COLUMNS}
        for row, by_log in sorted(rows.items(), key=lambda item: -_score(item[1]))
    }


def _score(by_log: dict[str, dict[str, float]]) -> float:
    return statistics.fmean(numbers["log_score"] for numbers in by_log.values())


def _numbers(summary: dict[str, Any]) -> dict[str, Any]:
    parts = {name: summary[name]["log_score"] for name in ("first", "unvisited")}
    return {**summary, **parts, "unvisited_ece": summary["unvisited"]["ece"]}


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if len(known) == len(values) else math.nan
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0
    return {"mean": mean, "sd": deviation, "values": list(values)}


def _curves(found: dict[Cell, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By protocol and row: the mean log score over the report logs, step by step, and the reliability diagram of all of
    them together."""
    parts: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for cell, result in found.items():
        if cell.log.startswith("report-") and cell.protocol != "ceiling":
            parts.setdefault(cell.protocol, {}).setdefault(cell.row, []).append(result)
    return {
        protocol: {
            row: {
                "log_score": torch.tensor([one["steps"]["log_score"] for one in made]).double().mean(0).tolist(),
                "calibration": _pooled([one["calibration"]["width"] for one in made]),
            }
            for row, made in rows.items()
        }
        for protocol, rows in parts.items()
    }  # fmt: skip


def _pooled(diagrams: Sequence[dict[str, list[float]]], bins: int = 15) -> dict[str, list[float]]:
    """Reliability diagrams over the same bins of equal width as one, of the bins that are not empty."""
    sums = torch.zeros(3, bins, dtype=torch.float64)
    for diagram in diagrams:
        predicted, happened, size = (torch.tensor(diagram[name]).double() for name in ("predicted", "happened", "size"))
        place = (predicted * bins).long().clamp_max(bins - 1)
        sums.index_add_(1, place, torch.stack([predicted * size, happened * size, size]))
    predicted, happened, size = sums[:, sums[2] > 0]
    return {"predicted": (predicted / size).tolist(), "happened": (happened / size).tolist(), "size": size.tolist()}


def _show(title: str, rows: dict[str, dict[str, Any]]) -> None:
    if not rows:
        return
    names = ("log score", "Brier", "ECE", "first 15", "unvisited", "its ECE", "chosen", "top", "to target")
    print(f"\n{title}\n{'':34s}" + "".join(f"{name:>16s}" for name in names))
    for row, numbers in rows.items():
        cells = []
        for column in COLUMNS:
            mean, deviation = numbers[column]["mean"], numbers[column]["sd"]
            digits = 0 if column == "rollouts_to_target" else 3
            cells.append("–" if math.isnan(mean) else f"{mean:.{digits}f} ± {deviation:.{digits}f}")
        print(f"{row:34s}" + "".join(f"{text:>16s}" for text in cells))


def _rounded(value: Any) -> Any:
    """With four digits after the point."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
