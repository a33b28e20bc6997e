"""A run on disk: configuration, metrics, history, checkpoints; whole at every moment."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from dps_pyro.history.log import RolloutHistory
from dps_pyro.storage import atomic_path, strict_json
from dps_pyro.trainers.policy.load import quiet
from dps_pyro.trainers.policy.lora import save_merged
from dps_pyro.trainers.policy.processors import Reader
from dps_pyro.trainers.run.boards import Boards
from dps_pyro.trainers.run.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    pass

__all__ = ["RunFolder", "forget_completions"]


class RunFolder:
    """The folder of one training run, and a context manager: it says how to go on when the run is interrupted.

    Args:
        path: the folder; it is made by `starting`. None: runs/001, runs/002, ...
        resume: whether the run there goes on, or starts where it was killed before it wrote anything. A folder with a
            run in it is otherwise refused.

    Attributes:
        path: the folder.
        blank: whether there is no run in it yet.

    Raises:
        ValueError: there is a run to keep, or something else than a run to resume.
    """

    def __init__(self, path: Path | None, *, resume: bool = False) -> None:
        if path is None:
            if resume:
                raise ValueError("resume: expected --out, the folder of the run to go on with")
            taken = [int(entry.name) for entry in Path("runs").glob("*") if entry.name.isdigit()]
            path = Path("runs") / f"{max(taken, default=0) + 1:03d}"
        self.blank = not (path / "config.yaml").exists()
        # Hidden files are what a killed write leaves.
        if resume and self.blank and path.exists() and any(entry.name[0] != "." for entry in path.iterdir()):
            raise ValueError(f"resume: expected a run folder with a config.yaml, got {path}")
        if not resume and not self.blank:
            raise ValueError(f"out: expected a new folder, but {path} holds a run; --resume goes on with it")
        self.path = path
        self._boards: Boards | None = None

    @contextmanager
    def starting(self, config: str) -> Iterator[None]:
        """The time until `begin`, in which models are loaded: a new run writes its configuration before, so that it can
        be resumed if it is killed meanwhile. An error, such as a wrong setting, leaves no folder behind."""
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        if self.blank:
            self.write_text("config.yaml", config)
        try:
            yield
        except Exception:
            if self.blank and self._boards is None:
                (self.path / "config.yaml").unlink()
                with suppress(OSError):  # something else is in it
                    for folder in made:
                        folder.rmdir()
            raise
        except KeyboardInterrupt as stop:
            stop.add_note(self._how_to_go_on())
            raise

    def begin(self, config: str, step: int, history: RolloutHistory | None = None, *, wandb: str | None = None) -> None:
        """Write the configuration; forget what an interrupted run left half-written or logged after `step`, the number
        of steps its checkpoint has done (0: start anew), and will log again. `history` is the checkpoint's; `wandb` the
        project to show the run in."""
        of_fewer_steps = "summary.json", "report.html", "posterior", "policy"
        ended = (self.path / name for name in (*of_fewer_steps, *(() if step else ("best",))))
        for left in (
            *self.path.glob(".*.tmp"),
            *self.path.glob(".*.old"),
            *self.path.glob("checkpoints/.*.tmp"),
            *ended,
        ):
            if left.exists():
                _remove(left)
        kept = [line for line in self.metrics() if step and line["step"] < step + (line["kind"] == "eval")]
        self.write_text("metrics.jsonl", "".join(strict_json(line) + "\n" for line in kept))
        if history is not None and len(history):
            history.to_parquet(self.path / "history.parquet")
        else:
            (self.path / "history.parquet").unlink(missing_ok=True)
        self.write_text("config.yaml", config)
        forget_completions(self.path, step)
        self._boards = Boards(self.path, step, kept, wandb, {"config": config})

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._boards is None:
            return
        self._boards.close(failed=error is not None)
        if error is not None:
            error.add_note(self._how_to_go_on())

    def _how_to_go_on(self) -> str:
        steps = self.checkpoints()
        kept = f"The last checkpoint is of step {steps[-1]}" if steps else "There is no checkpoint yet"
        return f"{kept}; go on with: dps-pyro train --resume --out {shlex.quote(str(self.path))}"

    def write_text(self, name: str, text: str) -> Path:
        """Write a small file, atomically."""
        with atomic_path(self.path / name) as aside:
            aside.write_text(text, encoding="utf-8")
        return self.path / name

    # --------------------------------------------------------------------------------------------------- metrics

    def log(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Append one line to metrics.jsonl, and its numbers to TensorBoard; returns the entry."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(strict_json(entry) + "\n")
        if self._boards is not None:
            self._boards.draw(entry)
        return entry

    def metrics(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl; half a line, which a killed run may leave, is none."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.exists() else []
        try:
            return [json.loads(line) for line in lines]
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: expected one JSON object a line, got {error.doc[:80]!r}") from error

    def finished(self, steps: int) -> dict[str, Any] | None:
        """The summary of a run that has done `steps` steps to the end; None of another."""
        path = self.path / "summary.json"
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"steps": 0}
        return summary if summary["steps"] >= steps else None

    # ----------------------------------------------------------------------------------------------- checkpoints

    def save_checkpoint(
        self,
        step: int,
        state: dict[str, Any],
        policy: PreTrainedModel,
        optimizer: torch.optim.Optimizer,
        tokenizer: Reader,
        *,
        keep: int,
    ) -> Path:
        """Write `checkpoints/step-<step>`: an ordinary transformers folder `policy/` (with LoRA the adapters),
        everything else as safetensors and JSON, and checksums. It appears whole or not at all, after its metrics. The
        `keep` newest stay."""
        with (self.path / "metrics.jsonl").open("rb") as file:
            os.fsync(file.fileno())
        path = self._checkpoint(step)
        with atomic_path(path) as aside:
            write_checkpoint(aside, state, policy, optimizer, tokenizer)
        for old in self.checkpoints()[:-keep]:
            going = self._checkpoint(old)  # renamed first: half a checkpoint never has a checkpoint's name
            shutil.rmtree(going.rename(going.with_name(f".{going.name}.tmp")))
        return path

    def keep_best(self, result: dict[str, Any], policy: PreTrainedModel, tokenizer: Reader) -> bool:
        """Write the policy to `best/`, an ordinary transformers folder, if its evaluation is better than that of the
        one there. What was best lies in the folder itself (`evaluation.json`), so that the two cannot disagree."""
        file = self.path / "best" / "evaluation.json"
        if file.exists() and json.loads(file.read_text(encoding="utf-8"))["accuracy"] >= result["accuracy"]:
            return False
        self.save_policy("best", policy, tokenizer, result)
        return True

    def save_policy(
        self,
        name: str,
        policy: PreTrainedModel,
        tokenizer: Reader,
        result: dict[str, Any] | None = None,
    ) -> None:
        """Write an ordinary transformers folder, adapters merged, and the policy's evaluation beside it."""
        with atomic_path(self.path / name) as aside, quiet():
            aside.mkdir()
            save_merged(policy, tokenizer, aside)
            if result is not None:
                (aside / "evaluation.json").write_text(strict_json(result, indent=1) + "\n", encoding="utf-8")

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
            return read_checkpoint(path)
        except (OSError, ValueError) as error:
            offer = "there is none before it, and the run starts anew"
            if len(steps) > 1:
                offer = f"the one before, {self._checkpoint(steps[-2])}, then takes its place"
            raise ValueError(f"{path} is damaged: {error}. Remove it and resume again: {offer}.") from error

    def _checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def forget_completions(folder: Path, step: int) -> None:
    """Remove those of step `step` and after, which will be made again, and what a killed write left."""
    for file in (folder / "completions").glob("*"):
        if file.name.startswith(".") or int(file.stem.partition("-")[2]) >= step:
            file.unlink()
