"""The benchmark of predictors, on logs small enough for a test."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.prediction import refits
from benchmarks.prediction import replay as benchmark
from benchmarks.prediction.logs import LOGS
from dps_pyro import PromptSampler, Refit, RolloutHistory
from dps_pyro.evaluation.replays import replay
from dps_pyro.evaluation.scores import calibration
from dps_pyro.evaluation.simulation import simulate
from dps_pyro.models import SolvingProgress


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of the recorded ones' names, of ten prompts and five steps."""
    folder = tmp_path_factory.mktemp("logs")
    for seed, name in enumerate(LOGS):
        features = {"operands": [float(2 + row % 5) for row in range(10)], "target": list(map(float, range(10)))}
        progress = [0.1 * (seed + 1)] * 5
        log = simulate(SolvingProgress(), 10, 5, 4, progress=progress, features=features, seed=seed).log
        log.to_parquet(folder / f"{name}.parquet")
    return folder


def test_logs_are_joined_side_by_side(folder: Path) -> None:
    logs = [RolloutHistory.from_parquet(folder / f"{name}.parquet") for name in list(LOGS)[:2]]
    both = benchmark.joined(logs)
    assert (both.num_prompts, both.num_steps, len(both)) == (20, 5, 100)
    for place, log in enumerate(logs):
        rows = slice(10 * place, 10 * place + 10)
        solved, whole = log.dense().solved, both.dense().solved
        assert solved is not None and whole is not None
        assert torch.equal(whole[rows], solved)
        assert both.features["target"][rows] == log.features["target"]
    assert both.progress().tolist() == pytest.approx([0.15] * 5)


def test_what_a_run_would_have_left_is_so_many_groups_a_step_of_the_log(folder: Path) -> None:
    log = RolloutHistory.from_parquet(folder / "develop-default.parquet")
    part = benchmark.shown(log, 3, seed=0)
    (solved, trials, *_), (whole, *_) = part.dense(), log.dense()
    assert solved is not None and whole is not None
    assert (trials > 0).sum(0).tolist() == [3] * 5
    assert torch.equal(solved, torch.where(trials > 0, whole, 0.0))
    assert part.features == log.features
    assert not torch.equal(trials[:, 0], trials[:, 1])


def test_the_base_rate_is_that_of_the_groups_shown_so_far(folder: Path) -> None:
    log = RolloutHistory.from_parquet(folder / "report-easy.parquet")
    played = replay(log, PromptSampler(SolvingProgress(), 10), selection="uniform", batch_size=3, progress=False)
    rated = benchmark.base_rate(played)
    seen: list[bool] = []
    for step in range(5):
        assert rated.chance[step].tolist() == pytest.approx([(sum(seen) + 0.5) / (len(seen) + 1)] * 10)
        seen += played.useful[step][played.chosen[step]].tolist()


def test_pooled_diagrams_are_the_diagram_of_all() -> None:
    chance = torch.rand(3, 50, dtype=torch.float64)
    happened = torch.rand(3, 50) < 0.5
    parts = [calibration(p, came) for p, came in zip(chance, happened, strict=True)]
    pooled = benchmark._pooled([{name: part.tolist() for name, part in one._asdict().items()} for one in parts])
    whole = calibration(chance, happened)
    assert pooled["size"] == whole.size.tolist()
    assert pooled["predicted"] == pytest.approx(whole.predicted.tolist())
    assert pooled["happened"] == pytest.approx(whole.happened.tolist())


def test_it_fills_its_table_and_goes_on_where_it_was(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, runs = tmp_path / "replay.json", tmp_path / "runs"
    brief = Refit(first=10, steps=5)  # where the first is of 300 steps
    monkeypatch.setattr(benchmark, "PromptSampler", partial(PromptSampler, refit=brief))
    arguments = [
        "--logs", "develop-middle", "report-easy", "report-hard", "--models", "PaperDPS", "Hierarchical, groups",
        "LogitWalk", "--batch-size", "3", "--fit-steps", "5", "--refit-every", "3", "--folder", str(folder), "--runs",
        str(runs), "--out", str(out),
    ]  # fmt: skip
    benchmark.main([*arguments, "--priors", "default", "fitted"])
    table = json.loads(out.read_text(encoding="utf-8"))["tables"]["uniform"]["report"]
    models = ["PaperDPS", "Hierarchical, groups", "LogitWalk"]
    assert set(table) == {*models, *(f"{name}, fitted" for name in models[1:]), benchmark.BASE_RATE}
    scores = [row["log_score"]["mean"] for row in table.values()]
    assert scores == sorted(scores, reverse=True)
    assert all(len(row["log_score"]["values"]) == 2 for row in table.values())
    kept = {path: path.read_bytes() for path in runs.glob("*.json")}
    single = [json.loads(text) for path, text in kept.items() if path.name.startswith("report-easy-uniform-PaperDPS")]
    assert table["PaperDPS"]["log_score"]["values"][0] == pytest.approx(single[0]["summary"]["log_score"], abs=1e-4)
    assert len(list((runs / "priors").iterdir())) == 4  # of both development logs, and of the other one

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("made before")

    with monkeypatch.context() as patched:
        patched.setattr(benchmark, "replay", never)
        benchmark.main([*arguments, "--priors", "default", "fitted"])
    assert json.loads(out.read_text(encoding="utf-8"))["tables"]["uniform"]["report"] == table
    # Of options given twice the last counts.
    benchmark.main([*arguments, "--priors", "online", "--protocols", "uniform", "--models", "Covariate",
                    "--logs", "report-easy"])  # fmt: skip
    rows = json.loads(out.read_text(encoding="utf-8"))["tables"]["uniform"]["report"]
    assert set(rows) == {"Covariate, online", benchmark.BASE_RATE}
    assert not math.isnan(rows["Covariate, online"]["log_score"]["mean"])
    benchmark.main([*arguments, "--priors", "both", "--protocols", "uniform", "--models", "RunStart",
                    "--logs", "report-easy"])  # fmt: skip
    rows = json.loads(out.read_text(encoding="utf-8"))["tables"]["uniform"]["report"]
    assert set(rows) == {"RunStart, fitted and online", benchmark.BASE_RATE}
    assert all(path.read_bytes() == before for path, before in kept.items())
    assert "uniform, report logs" in capsys.readouterr().out


def test_refits_are_compared_prompt_by_prompt(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "PromptSampler", partial(PromptSampler, refit=Refit(first=10, steps=5)))
    refits.main([
        "--logs", "report-easy", "--models", "SolvingProgress", "--batch-size", "3", "--fit-steps", "5",
        "--refit-every", "2", "--simulations", "2", "--folder", str(folder), "--runs", str(tmp_path / "runs"),
        "--out", str(tmp_path / "refits.json"),
    ])  # fmt: skip
    result = json.loads((tmp_path / "refits.json").read_text(encoding="utf-8"))
    (row,), errors = result["rows"], result["simulated"]
    assert [len(errors[kind]) for kind in ("same", "other")] == [2, 2]
    assert all(0 <= error <= 1 for kind in errors.values() for error in kind)
    assert (row["model"], row["log"]) == ("SolvingProgress", "report-easy")
    assert row["ahead"]["mean"] == pytest.approx(row["fitted"]["log_score"] - row["own"]["log_score"])
    assert row["ahead"]["error"] > 0
    for way in ("own", "fitted"):
        parts = row[way]["unvisited"]
        assert parts["before"]["size"] + parts["after"]["size"] == parts["all"]["size"]
        assert parts["before"]["size"] == 10 + 7  # of two steps, three prompts of the first being known in the second
    assert "SolvingProgress, report-easy" in capsys.readouterr().out
