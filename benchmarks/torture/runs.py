"""Tiny runs of every kind, each in a process that can be killed, and the comparison of two run folders."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dps_pyro.cli import main
from dps_pyro.storage import load_state
from dps_pyro.trainers.config.config_file import save_config
from dps_pyro.trainers.config.settings import TrainConfig

__all__ = [
    "CONFIGURATIONS",
    "barrier",
    "begin",
    "command",
    "differences",
    "finish",
    "make_config",
    "text_of",
    "warm_up",
]

_TINY: dict[str, Any] = {
    "task_args": {"train_size": 16, "test_size": 4},
    "batch_size": 3,
    "group_size": 4,
    "steps": 4,
    "checkpoint_every": 2,
    "eval_every": 2,
    "eval_samples": 1,
    "log_completions": 1,
    "learning_rate": 1e-3,
    "threads": 1,
    "report": False,
    "device": "cpu",
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "blocks": {"task": "blocks"},
    "math": {"task": "math"},
    "geometry": {"task": "geometry", "steps": 3},
    "refit": {"refit_every": 2},
    "async": {"async_rollouts": True},
    "epochs": {"epochs": 2, "mini_batches": 2},
    "dynamic sampling": {"dynamic_sampling": 2},
    "full log": {"full_log": True, "steps": 4},
    "thompson": {"acquisition": "thompson"},
}
"""What differs from the plain run, by name."""

_IMPORTED = (
    *("benchmarks.torture.runs", "dps_pyro.trainers.grpo", "dps_pyro.cli.train", "dps_pyro.rollouts.transformers"),
    *("pandas", "pyarrow.parquet", "pyarrow.pandas_compat", "torch.utils.tensorboard", "tyro"),
    *("transformers.models.llama.modeling_llama", "transformers.models.idefics3.modeling_idefics3"),
    *("transformers.models.idefics3.processing_idefics3", "transformers.models.idefics3.image_processing_pil_idefics3"),
)
"""What a run imports as it goes, so that each process has it from the start."""

_CONTEXT = multiprocessing.get_context("forkserver")


def make_config(file: Path, **settings: Any) -> Path:
    """Write the configuration of a tiny run; returns its file."""
    file.write_text(save_config(TrainConfig.flat(**{**_TINY, **settings})), encoding="utf-8")
    return file


def command(run: Path, config: Path | None) -> list[str]:
    """The command that starts the run at `run`, or resumes it."""
    first = [] if config is None or (run / "config.yaml").exists() else ["--config", str(config)]
    return ["train", *first, "--resume", "--out", str(run)]


class Doom(NamedTuple):
    """When a process is to be killed: after so many file events, such as an open, a rename or a removal, and a delay.
    Counted in events and not in seconds alone, the moments are spread over a run on a busy machine, too."""

    events: int
    delay: float  # seconds


def begin(arguments: Sequence[str], log: Path, barrier: Any = None, doom: Doom | None = None) -> ForkServerProcess:
    """Start `dps-pyro` with these arguments in a process of its own, what it says going to `log`.

    The process is forked from one that has imported everything, which takes a few milliseconds. With a `barrier` it
    waits there first. With `doom` it is killed then; without, it leaves the number of its file events in `log`.events.
    """
    _CONTEXT.set_forkserver_preload(list(_IMPORTED))
    process = _CONTEXT.Process(target=_child, args=(list(arguments), log, barrier, doom))
    process.start()
    return process


def warm_up(log: Path) -> None:
    """Start the process that the others are forked from, so that its imports are not taken for a run's time."""
    finish(begin(["--version"], log))


def finish(process: ForkServerProcess, seconds: float = 600.0) -> int:
    """Wait for the process; returns its exit status, negative for a signal.

    Raises:
        TimeoutError: it has not ended after so many seconds; it is killed.
    """
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"expected the run to end within {seconds:g} seconds")
    return process.exitcode


def barrier(parties: int) -> Any:
    """A barrier for processes started with `begin`."""
    return _CONTEXT.Barrier(parties)


def text_of(log: Path) -> str:
    """What a process said."""
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""


def differences(run: Path, straight: Path) -> list[str]:
    """What differs between a run and the one that nobody touched; times of the clock are left out.

    Compared are the metrics and the summary, number for number; policies, completions, histories and the rest of the
    last checkpoint, bit for bit; and which files there are.
    """
    found = []
    if _metrics(run) != _metrics(straight):
        found.append("metrics.jsonl")
    if _summary(run) != _summary(straight):
        found.append("summary.json")
    names = [_names(folder) for folder in (run, straight)]
    found += [f"{name} (missing)" for name in sorted(names[1] - names[0])]
    found += [f"{name} (too many)" for name in sorted(names[0] - names[1])]
    exact = (name for name in sorted(names[0] & names[1]) if name.endswith((".safetensors", ".parquet")))
    for name in exact:
        if "state.safetensors" not in name and (run / name).read_bytes() != (straight / name).read_bytes():
            found.append(name)
    last = max((straight / "checkpoints").iterdir()).relative_to(straight)
    with contextlib.suppress(OSError, ValueError):  # a checkpoint that is missing is named above
        states = [_flat(load_state(folder / last)) for folder in (run, straight)]
        found += [f"{last}{name}" for name in states[1] if not _same(states[0].get(name), states[1][name])]
    return found


def events_of(log: Path) -> int:
    """The number of file events of a process that ended by itself."""
    return int(Path(f"{log}.events").read_text(encoding="ascii"))


def _child(arguments: list[str], log: Path, barrier: Any, doom: Doom | None) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    count = 0

    def hear(event: str, _: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open" or event.startswith(("os.", "shutil.")):
            count += 1
            if doom is not None and count == doom.events:
                threading.Timer(doom.delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    sys.addaudithook(hear)
    if barrier is not None:
        barrier.wait()
    status = main(arguments)
    Path(f"{log}.events").write_text(str(count), encoding="ascii")
    sys.exit(status)


def _metrics(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [_untimed(json.loads(line)) for line in lines]


def _summary(run: Path) -> dict[str, Any]:
    return _untimed(json.loads((run / "summary.json").read_text(encoding="utf-8")))


def _untimed(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if not name.startswith(("seconds", "selection_share"))}


def _names(run: Path) -> set[str]:
    names = {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file()}
    return {name for name in names if not name.startswith(("tensorboard/", ".lock"))}


def _flat(state: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for name, value in state.items():
        parts |= _flat(value, f"{prefix}/{name}") if isinstance(value, dict) else {f"{prefix}/{name}": value}
    # The process's global generators: nothing of ours draws from them.
    return {name: value for name, value in parts.items() if not name.startswith("/rng")}


def _same(one: Any, other: Any) -> bool:
    if isinstance(other, torch.Tensor):
        alike = isinstance(one, torch.Tensor) and one.dtype == other.dtype and one.shape == other.shape
        return alike and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    return bool(one == other)
