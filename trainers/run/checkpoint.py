"""One checkpoint: policy, optimizer, random generators and everything else that a resumed run needs, with checksums.

A checkpoint also holds the run's metrics up to its step, so that a resumed run continues them without a gap whatever
happened to `metrics.jsonl` meanwhile. Nothing is pickled.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from dps_pyro.storage import checksums, load_state, naming, not_as_written, parse_json, save_state, strict_json
from dps_pyro.trainers.policy.load import quiet
from dps_pyro.trainers.policy.lora import save_trained
from dps_pyro.trainers.policy.processors import Reader

__all__ = ["Checkpoint", "Label", "read_checkpoint", "write_checkpoint"]

CHECKSUMS = "checksums.json"
"""The file that says whose checkpoint this is, of which step, and the checksum of every other file in it."""


class Label(NamedTuple):
    """Which checkpoint this is."""

    run: str  # the id of the run
    step: int  # the training steps done


class Checkpoint(NamedTuple):
    """A loaded checkpoint. The policy is in its `policy/` folder, as transformers saved it; with LoRA
    that folder holds the adapters, as peft saved them."""

    path: Path
    state: dict[str, Any]
    metrics: list[dict[str, Any]]  # the lines of the run's metrics up to the checkpoint's step
    beside: dict[str, str]  # the checksums of the completions that the run had logged by then

    def restore_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Load the saved moments. The learning rate and the weight decay stay those that `optimizer` has now."""
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
    label: Label,
    state: Mapping[str, Any],
    *,
    metrics: str,
    completions: Mapping[str, str],
    policy: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    tokenizer: Reader,
) -> None:
    """Write a checkpoint into a new folder; `atomic_path` makes it appear as a whole.

    Args:
        folder: A path where nothing is yet.
        label: The run and the step.
        state: What the loop needs to continue, as `save_state` takes it.
        metrics: The content of the run's `metrics.jsonl`.
        completions: The checksums of the run's logged completions.
        policy: The model that is trained.
        optimizer: The optimizer of the policy.
        tokenizer: The tokenizer of the policy, or its processor.
    """
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(metrics, encoding="utf-8")
    (folder / "completions.json").write_text(strict_json(dict(completions)) + "\n", encoding="utf-8")
    with quiet():
        save_state(folder, {**state, "optimizer": _optimizer_state(optimizer), "rng": _rng_state()})
        save_trained(policy, tokenizer, folder / "policy")
    sums = checksums(folder, (file for file in folder.rglob("*") if file.is_file()))
    about = {**label._asdict(), "files": sums}
    (folder / CHECKSUMS).write_text(strict_json(about, indent=1) + "\n", encoding="utf-8")


def read_checkpoint(folder: Path, label: Label) -> Checkpoint:
    """Read and verify a checkpoint.

    Args:
        folder: the checkpoint.
        label: the run that it has to belong to, and the step that its name says.

    Raises:
        OSError, ValueError: the checkpoint is damaged, or is another one; the message names the file.
    """
    _verify(folder, label)
    with naming(folder):
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        beside = parse_json((folder / "completions.json").read_text(encoding="utf-8"))
        return Checkpoint(folder, load_state(folder), [parse_json(line) for line in lines], beside)


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


def _verify(folder: Path, label: Label) -> None:
    """Compare a checkpoint with its label and its checksums.

    Raises:
        OSError, ValueError: something differs; the message names the file.
    """
    try:
        about = parse_json((folder / CHECKSUMS).read_text(encoding="utf-8"))
        run, step, sums = str(about["run"]), int(about["step"]), dict(about["files"])
    except (ValueError, TypeError, KeyError) as error:
        expected = "the run, the step and the checksum of every file"
        raise ValueError(f"{CHECKSUMS}: expected {expected}, got {type(error).__name__}: {error}") from error
    if run != label.run:
        raise ValueError(
            f"{CHECKSUMS}: expected a checkpoint of this run, {label.run} by the file run_id, got one of the run {run}"
        )
    if step != label.step:
        raise ValueError(f"{CHECKSUMS}: expected a checkpoint of step {label.step}, as its name says, got step {step}")
    seen = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    there = {str(file.relative_to(folder)) for file in seen} - {CHECKSUMS}
    if unlisted := sorted(there - sums.keys()):
        raise ValueError(f"{unlisted[0]} is not among the files of {CHECKSUMS}; if it is yours, move it away")
    needed = {"metrics.jsonl", "completions.json", "state.json", "state.safetensors"} - sums.keys()
    if needed or not any(name.startswith("policy/") for name in sums):
        raise ValueError(f"{CHECKSUMS}: expected the checksum of {', '.join(sorted(needed)) or 'a policy'}, got none")
    if (wrong := not_as_written(folder, sums)) is not None:
        raise ValueError(f"{wrong} is not what was written")
