"""Weights & Biases, offline: one run for one folder, whatever happens to the process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from helpers.runs.tiny import call, tiny

from dps_pyro.trainers.grpo import train


@pytest.mark.filterwarnings("ignore")  # wandb's own
def test_a_run_and_its_resumption_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = tiny(tmp_path / "run", steps=1, wandb="dps-pyro-tests")
    train(config)
    identity = (tmp_path / "run/wandb/id").read_text(encoding="utf-8").strip()
    assert len(list((tmp_path / "run/wandb").glob(f"offline-run-*-{identity}"))) == 1
    train(config.replaced(resume=True, steps=2))
    assert (tmp_path / "run/wandb/id").read_text(encoding="utf-8").strip() == identity
    logs = list((tmp_path / "run/wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert logs
    content = b"".join(log.read_bytes() for log in logs)
    for name in (b"train/reward", b"eval/accuracy", b"seconds/update"):
        assert name in content


def test_without_wandb_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    status, _, err = call(capsys, "train", "--out", str(tmp_path / "run"), "--wandb", "mine")
    assert status == 2
    assert err == "dps-pyro train: wandb: expected wandb to be installed: pip install 'dps_pyro[wandb]'\n"
    assert not (tmp_path / "run").exists()
