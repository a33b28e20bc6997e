"""One checkpoint: policy, optimizer, generators and everything else a resumed run needs, with checksums; no pickle."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from dps_pyro.storage import load_state, save_state
from dps_pyro.trainers.policy.load import quiet
from dps_pyro.trainers.policy.lora import save_trained
from dps_pyro.trainers.policy.processors import Reader

__all__ = ["Checkpoint", "read_checkpoint", "write_checkpoint"]


class Checkpoint(NamedTuple):
    """A loaded checkpoint. The policy is in its `policy/` folder, as transformers saved it; with LoRA
    that holds the adapters, as peft saved them."""

    path: Path
    state: dict[str, Any]

    def restore_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Go on with the saved moments, and with the learning rate and decay that `optimizer` has now."""
        saved = self.state["optimizer"]
        groups = zip(optimizer.param_groups, saved["groups"], strict=True)
        settings = [{**group, "params": was["params"]} for group, was in groups]
        moments = {int(key): value for key, value in saved["state"].items()}
        optimizer.load_state_dict({"state": moments, "param_groups": settings})

    def restore_rng(self) -> None:
        """Set the global generators of torch, NumPy and Python as they were."""
        saved = self.state["rng"]
        torch.set_rng_state(saved["torch"])
        kind, position, has_gauss, gauss = saved["numpy"]
        keys = saved["numpy_keys"].numpy().astype(np.uint32)
        np.random.set_state((kind, keys, position, has_gauss, gauss))  # noqa: NPY002
        version, internal, gauss_next = saved["python"]
        random.setstate((version, tuple(internal), gauss_next))


def write_checkpoint(
    folder: Path,
    state: dict[str, Any],
    policy: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    tokenizer: Reader,
) -> None:
    """Fill a new folder; make it whole with `atomic_path`."""
    folder.mkdir()
    with quiet():
        save_state(folder, {**state, "optimizer": _optimizer_state(optimizer), "rng": _rng_state()})
        save_trained(policy, tokenizer, folder / "policy")
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    sums = {str(file.relative_to(folder)): _checksum(file) for file in files}
    (folder / "checksums.json").write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify one.

    Raises:
        OSError, ValueError: it is damaged; the message names the file.
    """
    _verify(folder)
    return Checkpoint(folder, load_state(folder))


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    saved = optimizer.state_dict()
    return {"state": {str(key): value for key, value in saved["state"].items()}, "groups": saved["param_groups"]}


def _rng_state() -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "numpy": [kind, int(position), int(has_gauss), float(gauss)],
        "numpy_keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "python": random.getstate(),
    }


def _verify(path: Path) -> None:
    """Compare a checkpoint's files with their checksums; raises OSError or ValueError, which name the file."""
    try:
        sums = dict(json.loads((path / "checksums.json").read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"checksums.json: {error}") from error
    for name, expected in sums.items():
        if _checksum(path / name) != expected:
            raise ValueError(f"{name} is not what was written")


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
