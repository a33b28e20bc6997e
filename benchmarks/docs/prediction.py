"""The tables of what models predict, from the results of `benchmarks.prediction`."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.results import table

__all__ = ["reading", "refits", "replay", "strangers", "told"]

REPLAY = {
    "log_score": "log score",
    "ece": "ECE",
    "first": "first 15 steps",
    "unvisited": "never visited",
    "unvisited_ece": "its ECE",
    "useful_chosen": "useful, chosen",
    "useful_top": "useful, top",
}
"""Column of the result file -> its heading."""


def replay(result: dict[str, Any], protocol: str) -> str:
    """Scores of the predicted chance over the held-out logs, the best of each column in bold."""
    rows = result["tables"][protocol]["report"]
    if protocol == "uniform":
        rows = rows | {f"{row} (all shown)": found for row, found in result["tables"]["ceiling"]["report"].items()}
    ranked = sorted(rows.items(), key=lambda item: -item[1]["log_score"]["mean"])
    columns = [column for column in REPLAY if protocol == "own" or column != "useful_chosen"]
    fair = [found for row, found in ranked if not row.endswith("(all shown)")]
    best = {
        column: (min if column.endswith("ece") else max)(round(found[column]["mean"], 3) for found in fair)
        for column in columns
    }
    told = []
    for row, found in ranked:
        cells = [row]
        for column in columns:
            mean = found[column]["mean"]
            bold = "**" if found in fair and round(mean, 3) == best[column] else ""
            cells.append(f"{bold}{mean:.3f}{bold}" if mean == mean else "–")
        told.append(cells)
    settings = result["configuration"]
    note = (
        f"Means over {len(result['logs'])} logs ({', '.join(result['logs'])}), {settings['batch_size']} prompts per "
        f"step, refits every {settings['refit_every']} steps; in bold the best of a column. "
        f"{result['machine']}; {result['date']}."
    )
    return table(["model, prior", *(REPLAY[column] for column in columns)], told, note)


def refits(result: dict[str, Any]) -> str:
    """Refits in the course of a run from the model's own prior and from a fitted prior, log by log."""
    columns = ("log score, own prior", "fitted", "fitted less own", "ECE never visited, own prior", "fitted")
    rows = []
    for row in result["rows"]:
        own, fitted, ahead = row["own"], row["fitted"], row["ahead"]
        scores = [f"{way['log_score']:.3f}" for way in (own, fitted)]
        errors = [f"{way['unvisited']['all']['ece']:.3f}" for way in (own, fitted)]
        less = f"{ahead['mean']:+.4f} ± {ahead['error']:.4f}"
        rows.append([row["model"], row["log"], *scores, less, *errors])
    settings = result["configuration"]
    note = (
        f"{settings['batch_size']} random prompts per step; a fit every {settings['refit_every']} steps to what was "
        f"shown so far. Its prior is the model's own, or was fitted to two other runs. Difference ± standard error "
        f"over prompts. {result['machine']}; {result['date']}."
    )
    return table(["model", "log", *columns], rows, note)


def strangers(result: dict[str, Any]) -> str:
    """What refits from a fitted prior predict for prompts that were never visited, before the first refit and after."""
    columns = ("predicted", "useful", "ECE")
    periods = {"before": "before the first refit", "after": "after it"}
    heads = [f"{column} {told}" for told in periods.values() for column in columns]
    rows = []
    for row in result["rows"]:
        parts = [row["fitted"]["unvisited"][period] for period in periods]
        cells = [f"{part[name]:.3f}" for part in parts for name in ("predicted", "useful", "ece")]
        rows.append([row["model"], row["log"], *cells])
    told = {"same": "true", "other": "true, with parameters drawn from its prior"}
    errors = result["simulated"]
    parts = [
        f"{np.mean(errors[kind]):.3f} ± {np.std(errors[kind]):.3f} where the fitted LogitWalk is {what}"
        for kind, what in told.items()
    ]
    note = f"ECE on {len(errors['same'])} simulated logs of each kind, without refits: {'; '.join(parts)}."
    return table(["model", "log", *heads], rows, note)


def reading(result: dict[str, Any]) -> str:
    """How much of the success rates' variance groups and the policy's own reading explain, before and in training."""
    steps = list(dict.fromkeys(row["step"] for row in result["rows"]))
    heads = [f"{told}, {amount}" for told in (f"step {step}" for step in steps) for amount in ("all prompts", "few")]
    rows = []
    for testbed, name in dict.fromkeys((row["testbed"], row["regressors"]) for row in result["rows"]):
        of = {row["step"]: row for row in result["rows"] if (row["testbed"], row["regressors"]) == (testbed, name)}
        cells = [f"{of[step][amount]:.2f}" for step in steps for amount in ("all", "few")]
        rows.append([testbed, name, *cells])
    settings = result["configuration"]
    note = (
        f"Share of the variance between prompts that is explained on prompts left out; {settings['prompts']} prompts, "
        f"{settings['rollouts']} rollouts each; seed {settings['seed']}."
    )
    return table(["testbed", "regressed on", *heads], rows, note)


def told(result: dict[str, Any]) -> str:
    """The log-probability of groups before they were seen, by what `Siblings` is told."""
    rows = [
        [row["testbed"], row["told"], *(f"{row[part]:.3f}" for part in ("all", "first", "again"))]
        for row in result["rows"]
    ]
    settings = result["configuration"]
    note = (
        f"Mean log-probability of a group of four, in nats; {settings['steps']} steps with prompts chosen at random; "
        f"the reading has {settings['components']} components; seed {settings['seed']}."
    )
    return table(["testbed", "told", "all groups", "first of a prompt", "later ones"], rows, note)
