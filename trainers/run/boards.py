"""The boards that show metrics during a run: TensorBoard, and Weights & Biases if it is configured."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Boards", "require_wandb"]


def require_wandb() -> Any:
    """The wandb package.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise ValueError("wandb: expected wandb to be installed: pip install 'dps_pyro[wandb]'") from error
    return wandb


class Boards:
    """Draws the numbers of metric entries.

    A resumed run goes on with its own Weights & Biases run, whose id lies in the folder's `wandb/id`; steps that are
    done again are the same again, and it keeps the first. WANDB_MODE=offline, and wandb's other variables, work.

    Args:
        folder: the run's.
        step: the steps that the run has done.
        kept: the metrics so far.
        project: Weights & Biases' project; None: TensorBoard alone.
        config: the run's settings, to be shown there.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        kept: Iterable[Mapping[str, Any]],
        project: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        again = (folder / "tensorboard").exists()
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step if again else None)
        self._run: Any = None
        if project is not None:
            self._run = require_wandb().init(
                project=project, id=_identity(folder), resume="allow", dir=folder, name=folder.resolve().name,
                config=dict(config or {}),
            )  # fmt: skip
        for entry in kept:
            if entry["step"] == step:  # purged with the steps to be done again, but will not be
                self._tensorboard(_numbers(entry), step)

    def draw(self, entry: Mapping[str, Any]) -> None:
        """Draw one entry's numbers at its step: under their own names where those have a slash, else under its kind."""
        numbers = _numbers(entry)
        self._tensorboard(numbers, entry["step"])
        if self._run is not None:
            self._run.log(numbers, step=entry["step"])

    def close(self, *, failed: bool) -> None:
        """End both; nothing of theirs stays running."""
        self._board.close()
        if self._run is not None:
            self._run.finish(exit_code=int(failed))

    def _tensorboard(self, numbers: Mapping[str, float], step: int) -> None:
        for tag, value in numbers.items():
            self._board.add_scalar(tag, value, step)
        self._board.flush()


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    return {
        name if "/" in name else f"{entry['kind']}/{name}": value
        for name, value in entry.items()
        if isinstance(value, int | float) and name != "step"
    }


def _identity(folder: Path) -> str:
    """The id of the folder's Weights & Biases run, made the first time."""
    file = folder / "wandb" / "id"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()
