"""Whether two runs are the same, number for number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from helpers.runs.tiny import metrics, tiny

from dps_pyro.storage import load_state
from dps_pyro.trainers.config.settings import TrainConfig

__all__ = ["assert_same_run", "flat", "settings"]


def settings(out: Path) -> TrainConfig:
    """Two optimizer steps a step; checkpoints of steps 2, 4, 6, 7; evaluations after 0, 3, 6, 7."""
    return tiny(out, steps=7, checkpoint_every=2, eval_every=3, mini_batches=2, learning_rate=1e-3)


def assert_same_run(run: Path, straight: Path) -> None:
    """Metrics number for number; weights, history and the rest of the last checkpoint bit for bit."""
    assert metrics(run) == metrics(straight)
    last = max((straight / "checkpoints").iterdir()).relative_to(straight)
    for name in [file.relative_to(straight) for file in (straight / last / "policy").glob("*.safetensors")]:
        assert (run / name).read_bytes() == (straight / name).read_bytes(), name
    assert (run / "history.parquet").read_bytes() == (straight / "history.parquet").read_bytes()
    state, expected = (flat(load_state(folder / last)) for folder in (run, straight))
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        if not name.startswith("/rng"):  # the global generators are the process's: nothing of ours draws from them
            assert torch.equal(state[name], value) if isinstance(value, torch.Tensor) else state[name] == value, name
    entries = {str(file.relative_to(run)) for file in run.rglob("*") if "tensorboard" not in str(file)}
    assert entries == {
        str(file.relative_to(straight)) for file in straight.rglob("*") if "tensorboard" not in str(file)
    }


def flat(state: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Optimizer moments, beliefs, counts, generators, ... by their path."""
    parts: dict[str, Any] = {}
    for name, value in state.items():
        parts |= flat(value, f"{prefix}/{name}") if isinstance(value, dict) else {f"{prefix}/{name}": value}
    return parts
