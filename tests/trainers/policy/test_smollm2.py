"""A real language model learns here: SmolLM2-135M-Instruct on one-digit sums, rollouts by vLLM on the CPU.

python scripts/get_smollm2.py models-here/smollm2      # or name its folder in DPS_PYRO_SMOLLM2
pytest tests/trainers/policy/test_smollm2.py                           # some minutes
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pandas
import pytest
from helpers.runs.tiny import call, metrics

from benchmarks.learning.smollm2 import SETTINGS

ROOT = Path(__file__).parents[3]
MODEL = Path(os.environ.get("DPS_PYRO_SMOLLM2", ROOT / "models-here" / "smollm2"))

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.skipif(not (MODEL / "config.json").exists(), reason=f"no SmolLM2 in {MODEL}: scripts/get_smollm2.py"),
]


def test_reward_rises_and_the_engine_stays_in_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = SETTINGS | {
        "out": str(tmp_path / "run"), "task": f"{ROOT / 'examples' / 'addition.py'}:Addition", "model": str(MODEL),
        "task_args": {"largest": 9, "train_size": 64, "test_size": 8}, "steps": 6, "eval_every": 0, "eval_samples": 1,
        "checkpoint_every": 100, "keep_best": False, "log_completions": 5, "report": False, "threads": 1,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    status, _, err = call(capsys, "train", "--config", str(tmp_path / "run.yaml"))
    assert status == 0, err
    steps = [line for line in metrics(tmp_path / "run", timings=True) if line["kind"] == "train"]
    reward = [line["reward"] for line in steps]
    assert sum(reward[-2:]) / 2 > sum(reward[:2]) / 2 + 0.05, reward
    assert all(line["engine_kl"] < 1e-6 for line in steps if line["engine_kl"] is not None)
    assert any(line["engine_kl"] is not None for line in steps)
    assert all(line["truncated_weights"] == 0 for line in steps if line["truncated_weights"] is not None)
    summary = json.loads((tmp_path / "run/summary.json").read_text(encoding="utf-8"))
    assert summary["selection_share"] < 0.01
    assert all(line["selection_share"] < 0.01 for line in steps)
    completions = pandas.read_parquet(tmp_path / "run/completions")
    assert completions["completion"].str.contains(r"\d").mean() > 0.2  # it answers
