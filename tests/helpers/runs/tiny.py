"""Training runs small enough for a test: a second each, with the real policy, task, sampler and optimizer.

And the command line as a function.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dps_pyro.cli import main
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.grpo import train

TINY: dict[str, Any] = {
    "dynamics": "SolvingProgress",
    "acquisition": "thompson",
    "task_args": {"train_size": 32, "test_size": 8},
    "batch_size": 4,
    "group_size": 4,
    "steps": 1,
    "eval_samples": 1,
    "threads": 1,
    "report": False,
}


def tiny(out: Path, **settings: Any) -> TrainConfig:
    return TrainConfig.flat(**{**TINY, "out": out, **settings})


def metrics(folder: Path, *, timings: bool = False) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, read as the JSON standard has it; without the wall-clock times unless wanted."""

    def refuse(token: str) -> None:
        raise ValueError(f"{token} is not JSON")

    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    timed = "seconds/", "selection_share"
    return [{name: x for name, x in line.items() if timings or not name.startswith(timed)} for line in lines]


def _signal_at(number: int, event: str, path: str, count: int) -> None:
    """Send this process a signal before `event` (a Python audit event, such as "open" or "os.rename") touches a path
    with `path` in it for the count-th time."""
    left = count

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if name == event and path in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def die_at(config: TrainConfig, event: str, path: str, count: int) -> None:
    """Train in this process, and kill it (SIGKILL) before the event, as in `_signal_at`."""
    _signal_at(signal.SIGKILL, event, path, count)
    train(config)


def press_ctrl_c(arguments: list[str], errors: Path, event: str, path: str, count: int) -> None:
    """Run a command in this process, press Ctrl-C before the event, as in `_signal_at`, and exit with the command's
    status. What the command says goes to the file `errors`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _signal_at(signal.SIGINT, event, path, count)
    with errors.open("w", encoding="utf-8") as sys.stderr:
        status = main(arguments)
    sys.stderr = sys.__stderr__
    sys.exit(status)


def interrupted(arguments: list[str], errors: Path, event: str, path: str, count: int = 1) -> str:
    """Run `press_ctrl_c` in a process of its own, check that the command ended with status 130, and return what it
    said."""
    assert _ended(press_ctrl_c, arguments, errors, event, path, count) == 130
    return errors.read_text(encoding="utf-8")


def killed(config: TrainConfig, event: str, path: str, count: int = 1) -> None:
    """Run `die_at` in a process of its own, and check that it was killed."""
    _dies(die_at, config, event, path, count)


def die_within(config: TrainConfig, part: str, count: int) -> None:
    """Train in this process, and kill it within a decoding step of the rollouts ("rollout") or of an evaluation, or
    within a backward pass ("backward"): the count-th of them."""
    left = count

    def kill(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        if logits is None:
            return
        if part == "rollout" and not torch.is_grad_enabled():
            kill()
        if part == "backward" and logits.requires_grad:
            logits.register_hook(kill)

    torch.nn.modules.module.register_module_forward_hook(hook)
    train(config)


def killed_within(config: TrainConfig, part: str, count: int) -> None:
    """Run `die_within` in a process of its own, and check that it was killed."""
    _dies(die_within, config, part, count)


def _dies(target: Callable[..., None], *arguments: Any) -> None:
    assert _ended(target, *arguments) == -signal.SIGKILL


def _ended(target: Callable[..., None], *arguments: Any) -> int | None:
    """The exit code of a call in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    # Imported once for all of them. (By name it would not be found: that process does not know this folder.)
    context.set_forkserver_preload(["dps_pyro.trainers.grpo", "pandas", "torch.utils.tensorboard"])
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    try:
        status: Any = main(list(arguments))
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return int(status or 0), captured.out, captured.err


def words(text: str) -> str:
    """Without frames and line breaks."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


MINE = '''
from __future__ import annotations

from dataclasses import dataclass

from dps_pyro.models import SolvingProgress


@dataclass
class Taste:
    sharpness: float = 1.0


class Mine(SolvingProgress):
    """A model of one's own."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self.taste = Taste(sharpness)


number = 3
'''
