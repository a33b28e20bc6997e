"""A run on disk: configuration, metrics, history, checkpoints; whole at every moment."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dps_pyro.storage import atomic_path, load_state, save_state

__all__ = ["Checkpoint", "RunFolder"]


class Checkpoint(NamedTuple):
    """A loaded checkpoint. The policy is in its `policy/` folder, as transformers saved it."""

    path: Path
    state: dict[str, Any]

    def optimizer_state(self) -> dict[str, Any]:
        """What `Optimizer.load_state_dict` takes."""
        saved = self.state["optimizer"]
        groups = [{**group, "betas": tuple(group["betas"])} for group in saved["groups"]]
        return {"state": {int(key): value for key, value in saved["state"].items()}, "param_groups": groups}

    def restore_rng(self) -> None:
        """Set the global generators of torch, NumPy and Python as they were."""
        saved = self.state["rng"]
        torch.set_rng_state(saved["torch"])
        kind, position, has_gauss, gauss = saved["numpy"]
        np.random.set_state((kind, saved["numpy_keys"].numpy().astype(np.uint32), position, has_gauss, gauss))
        version, internal, gauss_next = saved["python"]
        random.setstate((version, tuple(internal), gauss_next))


class RunFolder:
    """The folder of one training run.

    Args:
        path: the folder; made if it is not there. None: runs/001, runs/002, ...
        resume: whether the run there goes on. A folder with a run in it is otherwise refused.

    Raises:
        ValueError: there is a run to keep, or none to resume.
    """

    def __init__(self, path: Path | None, *, resume: bool = False) -> None:
        if path is None:
            if resume:
                raise ValueError("resume: expected --out, the folder of the run to go on with")
            taken = [int(entry.name) for entry in Path("runs").glob("*") if entry.name.isdigit()]
            path = Path("runs") / f"{max(taken, default=0) + 1:03d}"
        if resume and not (path / "config.yaml").is_file():
            raise ValueError(f"resume: expected a run folder with a config.yaml, got {path}")
        if not resume and (path / "config.yaml").exists():
            raise ValueError(f"out: expected a new folder, but {path} holds a run; --resume goes on with it")
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._board: Any = None

    def begin(self, config: str, resumed_at: int | None) -> None:
        """Write the configuration; forget what a resumed run logged after its checkpoint and will log again."""
        from torch.utils.tensorboard import SummaryWriter

        self.write_text("config.yaml", config)
        steps = -1 if resumed_at is None else resumed_at
        kept = [line for line in self.metrics() if line["step"] < steps + (line["kind"] == "eval")]
        self.write_text("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        purge = None if resumed_at is None else resumed_at
        self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=purge)

    def write_text(self, name: str, text: str) -> Path:
        """Write a small file, atomically."""
        with atomic_path(self.path / name) as aside:
            aside.write_text(text, encoding="utf-8")
        return self.path / name

    # --------------------------------------------------------------------------------------------------- metrics

    def log(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Append one line to metrics.jsonl, and its numbers to TensorBoard; returns the entry."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        for name, value in entry.items():
            if isinstance(value, int | float) and name != "step":
                tag = name if "/" in name else f"{entry['kind']}/{name}"
                self._board.add_scalar(tag, value, entry["step"])
        self._board.flush()
        return entry

    def metrics(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl; half a line, which a killed run may leave, is none."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    # ----------------------------------------------------------------------------------------------- checkpoints

    def save_checkpoint(
        self,
        step: int,
        state: dict[str, Any],
        policy: PreTrainedModel,
        optimizer: torch.optim.Optimizer,
        tokenizer: PreTrainedTokenizerBase,
        *,
        keep: int,
    ) -> Path:
        """Write `checkpoints/step-<step>`: an ordinary transformers folder `policy/`, everything else as safetensors
        and JSON, and checksums. It appears whole or not at all. The `keep` newest stay."""
        path = self._checkpoint(step)
        with atomic_path(path) as aside:
            aside.mkdir()
            save_state(aside, {**state, "optimizer": _optimizer_state(optimizer), "rng": _rng_state()})
            policy.save_pretrained(aside / "policy")
            tokenizer.save_pretrained(aside / "policy")
            files = sorted(file for file in aside.rglob("*") if file.is_file())
            sums = {str(file.relative_to(aside)): _checksum(file) for file in files}
            (aside / "checksums.json").write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(self._checkpoint(old))
        return path

    def checkpoints(self) -> list[int]:
        """The steps of the checkpoints there are, in order."""
        found = (re.fullmatch(r"step-(\d+)", entry.name) for entry in (self.path / "checkpoints").glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def load_checkpoint(self) -> Checkpoint | None:
        """The last checkpoint; None where there is none yet.

        Raises:
            ValueError: it is damaged. The message names the file, and the checkpoint before it.
        """
        steps = self.checkpoints()
        if not steps:
            return None
        path = self._checkpoint(steps[-1])
        try:
            sums = json.loads((path / "checksums.json").read_text(encoding="utf-8"))
            for name, expected in sums.items():
                if _checksum(path / name) != expected:
                    raise ValueError(f"{name} is not what was written")
            return Checkpoint(path, load_state(path))
        except (OSError, ValueError) as error:
            offer = "there is none before it, and the run starts anew"
            if len(steps) > 1:
                offer = f"the one before, {self._checkpoint(steps[-2])}, then takes its place"
            raise ValueError(f"{path} is damaged: {error}. Remove it and resume again: {offer}.") from error

    def _checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    saved = optimizer.state_dict()
    return {"state": {str(key): value for key, value in saved["state"].items()}, "groups": saved["param_groups"]}


def _rng_state() -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "numpy": [kind, int(position), int(has_gauss), float(gauss)],
        "numpy_keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "python": random.getstate(),
    }


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
