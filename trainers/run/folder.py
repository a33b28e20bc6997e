"""A run on disk: its configuration, metrics, history and checkpoints, whole at every moment."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from transformers import PreTrainedModel

from dps_pyro.history.log import RolloutHistory
from dps_pyro.storage import atomic_path, checksums, naming, not_as_written, parse_json, strict_json
from dps_pyro.support.files.file_errors import said_of
from dps_pyro.support.interrupts import uninterrupted
from dps_pyro.trainers.policy.load import quiet
from dps_pyro.trainers.policy.lora import save_merged
from dps_pyro.trainers.policy.processors import Reader
from dps_pyro.trainers.run.boards import Boards
from dps_pyro.trainers.run.checkpoint import Checkpoint, Label, read_checkpoint, write_checkpoint
from dps_pyro.trainers.run.seals import SEAL, broken_seal, seal, sealed_text

__all__ = ["RunFolder", "forget_completions"]

_RUN = "run_id"
"""The file with the run's id, by which its checkpoints are told from those of other runs."""


class RunFolder:
    """The folder of one training run, and a context manager that says how to continue when the run is interrupted.

    Whoever writes to the folder holds its lock (`dps_pyro.trainers.run.lock.claimed`).

    Args:
        path: the folder.
        resume: whether the run there continues. A folder without a run is accepted then too, because the run may have
            been killed before it wrote anything; a folder that holds a run is refused otherwise.

    Attributes:
        path: the folder.
        blank: whether there is no run in it yet.

    Raises:
        ValueError: there is a run in the folder that must not be overwritten, or there is something else than a run
            to resume.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.blank = not (path / "config.yaml").exists()
        # Hidden files are the lock, and what a killed write leaves.
        if resume and self.blank and path.exists() and any(entry.name[0] != "." for entry in path.iterdir()):
            raise ValueError(f"resume: expected a run folder with a config.yaml, got {path}")
        if not resume and not self.blank:
            raise ValueError(f"out: expected a new folder, but {path} holds a run; --resume goes on with it")
        self.path = path
        self._boards: Boards | None = None
        self._completions: dict[str, str] = {}  # the checksums of those that are logged

    @contextmanager
    def starting(self, config: str) -> Iterator[None]:
        """The time until `begin`, in which models are loaded.

        A new run writes its configuration first, so that it can be resumed if it is killed meanwhile. An error, such as
        a wrong setting, takes the configuration away again.
        """
        if self.blank:
            self.write_text("config.yaml", sealed_text(config))
        try:
            yield
        except Exception:
            if self.blank and self._boards is None:
                (self.path / "config.yaml").unlink()
            raise
        except KeyboardInterrupt as stop:
            stop.add_note(self._how_to_go_on())
            raise

    def begin(
        self,
        config: str,
        step: int,
        history: RolloutHistory | None = None,
        *,
        metrics: Sequence[dict[str, Any]] = (),
        wandb: str | None = None,
    ) -> None:
        """Write the configuration, and bring the folder to the moment of the checkpoint that the run continues from.

        What an interrupted run left half-written is removed, and so is what it came to after the checkpoint, since
        those steps are done again.

        Args:
            config: the configuration as YAML.
            step: the number of steps that the checkpoint has done; 0 starts the run from the beginning.
            history: the checkpoint's rollouts.
            metrics: the checkpoint's lines of `metrics.jsonl`.
            wandb: the project of Weights & Biases to show the run in.

        Raises:
            ValueError: the best policy so far is damaged; the message names the file.
            OSError: a file cannot be written.
        """
        best = self.path / "best"
        if step and best.exists() and (wrong := broken_seal(best)) is not None:
            raise ValueError(
                f"{best / wrong} is not what was written. Remove {best} and resume: the best policy of the evaluations "
                "to come is kept there"
            )
        of_fewer_steps = "summary.json", "report.html", "posterior", "policy", SEAL
        ended = (self.path / name for name in (*of_fewer_steps, *(() if step else ("best", _RUN))))
        for left in (
            *self.path.glob(".*.tmp"),
            *self.path.glob(".*.old"),
            *self.path.glob("checkpoints/.*.tmp"),
            *ended,
        ):
            if left.exists():
                _remove(left)
        if not (self.path / _RUN).exists():
            self.write_text(_RUN, secrets.token_hex(8) + "\n")
        self.write_text("metrics.jsonl", "".join(strict_json(line) + "\n" for line in metrics))
        if history is not None and len(history):
            history.to_parquet(self.path / "history.parquet")
        else:
            (self.path / "history.parquet").unlink(missing_ok=True)
        self.write_text("config.yaml", sealed_text(config))
        forget_completions(self.path, step)
        self._boards = Boards(self.path, step, metrics, wandb, {"config": config})

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
        """Append one line to metrics.jsonl, and draw its numbers in TensorBoard; returns the entry."""
        path = self.path / "metrics.jsonl"
        with uninterrupted():
            with naming(path), path.open("a", encoding="utf-8") as file:
                file.write(strict_json(entry) + "\n")
            if self._boards is not None:
                with naming(self.path / "tensorboard"):
                    self._boards.draw(entry)
        return entry

    def metrics(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl. Half a line at the end, which a killed run may leave, is left out.

        Raises:
            ValueError: a line is no entry of a run's metrics; the message has the line.
        """
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.exists() else []
        entries = []
        for number, line in enumerate(lines, 1):
            try:
                entry = parse_json(line)
                if not {"kind", "step"} <= entry.keys():
                    raise ValueError("expected kind and step")
            except (ValueError, AttributeError) as error:
                raise ValueError(
                    f"{path}: expected one JSON object a line, got {line[:80]!r} in line {number}; resume the run to "
                    "write the file again from the last checkpoint"
                ) from error
            entries.append(entry)
        return entries

    def finished(self, steps: int, say: Callable[[str], None]) -> dict[str, Any] | None:
        """The summary of a run that has done `steps` steps to the end; None for any other run.

        A finished run of which a file is damaged counts as one that is not finished: it ends again from its last
        checkpoint, which writes its files anew. `say` is told which file that is.
        """
        path = self.path / "summary.json"
        sealed = (self.path / SEAL).exists()
        if not sealed and not path.exists():
            return None
        try:
            summary: Any = parse_json(path.read_text(encoding="utf-8"))
            done = int(summary["steps"])
        except (OSError, ValueError, TypeError, KeyError):
            done = steps
        if done < steps:
            return None
        if (wrong := broken_seal(self.path)) is None:
            return dict(summary)
        if sealed:
            say(f"{self.path / wrong} is not what was written: the run ends again from its last checkpoint.")
        return None

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
        """Write `checkpoints/step-<step>`.

        The checkpoint is an ordinary transformers folder `policy/` (with LoRA it holds the adapters), everything else
        as safetensors and JSON, and checksums. It appears whole or not at all, after its metrics.

        Args:
            step: the training steps done.
            state: what the loop needs to continue.
            policy: the model that is trained.
            optimizer: its optimizer.
            tokenizer: its tokenizer or processor.
            keep: how many of the newest checkpoints stay.

        Raises:
            OSError: a file cannot be written; the message names it.
        """
        metrics = self.path / "metrics.jsonl"
        with naming(metrics), metrics.open("rb") as file:
            os.fsync(file.fileno())
            lines = file.read().decode("utf-8")
        path = self._checkpoint(step)
        with atomic_path(path) as aside:
            trained: dict[str, Any] = {"policy": policy, "optimizer": optimizer, "tokenizer": tokenizer}
            label = Label(self._run(), step)
            write_checkpoint(aside, label, state, metrics=lines, completions=self._logged(), **trained)
        for old in self.checkpoints()[:-keep]:
            going = self._checkpoint(old)  # renamed first: half a checkpoint never has a checkpoint's name
            shutil.rmtree(going.rename(going.with_name(f".{going.name}.tmp")))
        return path

    def keep_best(self, result: dict[str, Any], policy: PreTrainedModel, tokenizer: Reader) -> bool:
        """Write the policy to `best/`, an ordinary transformers folder, if its evaluation is better than that of the
        one there. What was best lies in the folder itself (`evaluation.json`), so that the two cannot disagree."""
        file = self.path / "best" / "evaluation.json"
        with suppress(OSError, ValueError, TypeError, KeyError):  # damaged since `begin` checked it: it is replaced
            if parse_json(file.read_text(encoding="utf-8"))["accuracy"] >= result["accuracy"]:
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
        """Write an ordinary transformers folder, adapters merged, with the policy's evaluation and checksums in it."""
        with atomic_path(self.path / name) as aside, quiet():
            aside.mkdir()
            save_merged(policy, tokenizer, aside)
            if result is not None:
                (aside / "evaluation.json").write_text(strict_json(result, indent=1) + "\n", encoding="utf-8")
            seal(aside)

    def checkpoints(self) -> list[int]:
        """The steps of the checkpoints there are, in order."""
        found = (re.fullmatch(r"step-(\d+)", entry.name) for entry in (self.path / "checkpoints").glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def load_checkpoint(self) -> Checkpoint | None:
        """The last checkpoint; None if there is none yet.

        Raises:
            ValueError: it is damaged, or is another run's. The message names the file, and the checkpoint before it.
            PermissionError: a file of it may not be read.
        """
        steps = self.checkpoints()
        if not steps:
            return None
        path = self._checkpoint(steps[-1])
        run = self._run()
        try:
            return read_checkpoint(path, Label(run, steps[-1]))
        except PermissionError:
            raise  # it may be whole: nobody should remove it
        except (OSError, ValueError) as error:
            offer = "there is none before it, and the run starts anew"
            if len(steps) > 1:
                offer = f"the one before, {self._checkpoint(steps[-2])}, then takes its place"
            why = said_of(error) if isinstance(error, OSError) else error
            raise ValueError(f"{path} is damaged: {why}. Remove it and resume again: {offer}.") from error

    def damaged_completions(self, checkpoint: Checkpoint) -> list[str]:
        """The names of logged completions that are not as the run wrote them. People read them and nothing else does,
        so that a run continues without them; later checkpoints know them as they are."""
        wrong = [name for name, one in checkpoint.beside.items() if not_as_written(self.path, {name: one}) is not None]
        self._completions = dict(checkpoint.beside)
        return wrong

    def _logged(self) -> dict[str, str]:
        """The checksums of the logged completions; each file is read once."""
        files = (self.path / "completions").glob("step-*.parquet")
        names = {str(file.relative_to(self.path)) for file in files}
        known = {name: one for name, one in self._completions.items() if name in names}
        known |= checksums(self.path, (self.path / name for name in names - known.keys()))
        self._completions = dict(sorted(known.items()))
        return self._completions

    def _run(self) -> str:
        """The id of this run, which its checkpoints carry.

        Raises:
            ValueError: the file with the id is missing or damaged.
        """
        path = self.path / _RUN
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if not re.fullmatch(r"[0-9a-f]{16}\n", text):
            last = self._checkpoint(self.checkpoints()[-1]) / SEAL if self.checkpoints() else "a new run"
            raise ValueError(
                f"{path}: expected the 16 digits of the run's id, got {text[:40]!r}. If the checkpoints in this folder "
                f"are its own, write the id there that stands in {last}, as `run`"
            )
        return text.strip()

    def _checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def forget_completions(folder: Path, step: int) -> None:
    """Remove the completions of step `step` and after, which will be made again, and what a killed write left. Other
    files in the folder are not the run's, and stay."""
    for file in (folder / "completions").glob("*"):
        named = re.fullmatch(r"step-(\d+)\.parquet", file.name)
        if re.fullmatch(r"\..*\.tmp", file.name) or (named and int(named[1]) >= step):
            _remove(file)
