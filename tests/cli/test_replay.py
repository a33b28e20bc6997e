"""`dps-pyro replay`: models side by side on full logs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.replays import QUIET, full
from helpers.runs.tiny import call, words

from dps_pyro import PromptSampler, RolloutHistory
from dps_pyro.evaluation.replays import replay
from dps_pyro.evaluation.simulation import simulate
from dps_pyro.models import PaperDPS, SolvingProgress


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two simulated logs with labelled prompts."""
    folder = tmp_path_factory.mktemp("logs")
    for name, seed in (("one", 0), ("two", 1)):
        labels = [str(row % 2) for row in range(40)]
        log, truth, _ = simulate(SolvingProgress(), 40, 12, features={"half": labels}, seed=seed)
        log.to_parquet(folder / f"{name}.parquet")
        truth.save(folder / f"{name}-truth")
    return [folder / "one.parquet", folder / "two.parquet"]


def test_the_command_compares_models_over_logs(
    logs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, prior = tmp_path / "out", logs[0].with_name("one-truth")
    status, text, _ = call(
        capsys, "replay", "--log", *map(str, logs), "--out", str(out), "--models", "SolvingProgress", "PaperDPS",
        "Covariate", "--model-args", "{Covariate: {features: [half]}}", "--prior", str(prior), "--batch-size", "8",
    )  # fmt: skip
    assert status == 0
    shown = words(text)
    assert "shown random batches, scored on all prompts" in shown
    assert "mean, and standard deviation over 2 logs" in shown
    assert (out / "replay.png").stat().st_size > 10_000
    kept = json.loads((out / "replay.json").read_text(encoding="utf-8"))
    assert list(kept["models"]) == ["SolvingProgress", "SolvingProgress (one-truth)", "PaperDPS", "Covariate"]
    log = RolloutHistory.from_parquet(logs[1])
    again = replay(log, PromptSampler(PaperDPS(), 40), selection="uniform", batch_size=8, **QUIET)
    entry = kept["models"]["PaperDPS"]
    assert entry["replays"]["two"]["summary"]["log_score"] == pytest.approx(again.summary()["log_score"])
    scores = [entry["replays"][name]["summary"]["log_score"] for name in ("one", "two")]
    assert entry["spreads"]["log score"] == pytest.approx(
        {"mean": np.mean(scores), "deviation": np.std(scores, ddof=1)}
    )
    means = {name: model["spreads"]["log score"]["mean"] for name, model in kept["models"].items()}
    best = max(means.values())
    assert f"{best:.3f}*" in shown
    assert all(f"{mean:.3f}*" not in shown for mean in means.values() if round(mean, 3) < round(best, 3))


def test_the_command_lets_models_select(logs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text, _ = call(
        capsys, "replay", "--log", str(logs[0]), "--out", str(tmp_path), "--models", "SolvingProgress", "--selection",
        "own", "--acquisition", "top", "--batch-size", "4", "--shift-at", "6", "--target", "100000",
    )  # fmt: skip
    assert status == 0
    assert "its own selection (top)" in words(text)
    kept = json.loads((tmp_path / "replay.json").read_text(encoding="utf-8"))
    summary = kept["models"]["SolvingProgress"]["replays"]["one"]["summary"]
    assert summary["rollouts_to_target"] is None
    assert summary["recovery"]["before"] < 0
    sampler = PromptSampler(SolvingProgress(), 40, acquisition="top", trials=8)
    again = replay(RolloutHistory.from_parquet(logs[0]), sampler, batch_size=4, **QUIET)
    assert summary["useful_chosen"] == pytest.approx(again.summary()["useful_chosen"])


def test_the_command_refits_what_can_be_fitted(
    logs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out, refit in (("once", []), ("again", ["--refit-every", "6"])):
        status, _, _ = call(
            capsys, "replay", "--log", str(logs[0]), "--out", str(tmp_path / out), "--models", "SolvingProgress",
            "PaperDPS", "--batch-size", "8", *refit,
        )  # fmt: skip
        assert status == 0
    once, again = (
        json.loads((tmp_path / out / "replay.json").read_text(encoding="utf-8"))["models"] for out in ("once", "again")
    )
    steps = [kept["SolvingProgress"]["replays"]["one"]["steps"]["log_score"] for kept in (once, again)]
    assert steps[0][:6] == steps[1][:6]
    assert steps[0][6:] != steps[1][6:]
    assert once["PaperDPS"]["spreads"] == again["PaperDPS"]["spreads"]


def test_the_command_tells_namesakes_apart(
    logs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for place in ("a", "b"):
        log = RolloutHistory.from_parquet(logs[0])
        paths.append(log.to_parquet(tmp_path / place / "full_log.parquet"))
    status, _, _ = call(
        capsys, "replay", "--log", *map(str, paths), "--out", str(tmp_path), "--models", "PaperDPS", "--batch-size", "8"
    )
    assert status == 0
    kept = json.loads((tmp_path / "replay.json").read_text(encoding="utf-8"))
    assert kept["logs"] == list(map(str, paths))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "Nothing"], "dynamics: expected one of"),
        (["--models", "PaperDPS", "--model-args", "{LogitWalk: {rungs: 9}}"],
         "model-args: expected models among PaperDPS, got 'LogitWalk'"),
        (["--model-args", "3"], "model-args: expected settings by model"),
        (["--model-args", "{"], "model-args: expected YAML"),
        (["--models", "PaperDPS", "--prior", "one-truth"],
         "prior: expected one of PaperDPS, got .* which was fitted with SolvingProgress"),
        (["--acquisition", "best"], "acquisition: expected one of"),
        (["--first", "0"], "first: expected a whole number of at least 1, got 0"),
        (["--batch-size", "41"], "batch_size: expected a whole number"),
    ],
)  # fmt: skip
def test_the_command_says_what_it_expected(
    options: list[str], message: str, logs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(logs[0].with_name(option)) if option == "one-truth" else option for option in options]
    status, _, err = call(capsys, "replay", "--log", str(logs[0]), "--out", str(tmp_path), *given)
    assert status == 2
    assert err.startswith("dps-pyro replay: ")
    assert re.search(message, err)
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_a_log_with_holes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = full(4, 3).where(torch.arange(12) != 5).to_parquet(tmp_path / "holes.parquet")
    status, _, err = call(
        capsys, "replay", "--log", str(path), "--out", str(tmp_path), "--models", "PaperDPS", "--batch-size", "2"
    )
    assert (status, err.count("\n")) == (2, 1)
    assert "got 11 groups, 1 missing" in err
