"""The run as it happens, in the terminal: a live view for a person, plain lines for a log file.

A step's numbers are those of the run folder's `metrics.jsonl`; any of them may be missing or NaN.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dps_pyro.report.run import number
from dps_pyro.support.console import plain_console

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

__all__ = ["LiveView", "sparkline"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN_BLOCKS = "_.-~=+*#"  # for terminals that are not UTF-8


class LiveView:
    """A context manager that shows training to whoever is looking.

    Args:
        steps: the optimizer steps of the whole run.
        done: steps that an earlier part of the run has done already, when it resumes from a checkpoint.
        folder: the run folder, named in the closing table.
        every: on an output that is not a terminal, print a line every so many steps.
        console: where to; standard output by default. Rich respects `NO_COLOR` and `COLUMNS`.
        clock: seconds from any start, for the time left.

    Example::

        with LiveView(steps=200, folder=folder) as view:
            for step in range(200):
                view.update(train_metrics)  # {"step": 0, "rollouts": 256, "reward": 0.1, "useful": 0.5, ...}
            view.evaluated(eval_metrics)    # {"step": 200, "accuracy": 0.41, "stderr": 0.01, ...}
            view.close(summary)             # the closing table; without it (an exception) the last state stays visible
    """

    def __init__(
        self,
        steps: int,
        *,
        done: int = 0,
        folder: Path | None = None,
        every: int = 10,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if steps < 0 or every < 1:
            raise ValueError(f"expected steps >= 0 and every >= 1, got steps={steps}, every={every}")
        self.steps = steps
        self.done = done
        self._resumed = done > 0
        self.folder = folder
        self.every = every
        self.console = console or plain_console()
        self._clock = clock
        self._last: Mapping[str, Any] = {}
        self._accuracies: list[tuple[float, float]] = []  # (accuracy, standard error)
        self._trail: dict[str, deque[float]] = {
            key: deque(maxlen=24) for key in ("reward", "useful", "useful_predicted")
        }
        self._pool: tuple[float, int] = (0.0, 0)  # sum and number of the pool's predicted shares
        self._paces: deque[float] = deque(maxlen=50)  # seconds between steps, evaluations included
        self._then = clock()
        self._live: Live | None = None

    def __enter__(self) -> LiveView:
        self._then = self._clock()
        if self.console.is_interactive:
            # Drawn when there is news: no thread reads the state while a step writes it.
            self._live = Live(console=self.console, get_renderable=self._view, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def update(self, train_metrics: Mapping[str, Any]) -> None:
        """Show a training step."""
        now = self._clock()
        self._paces.append(now - self._then)
        self._then = now
        self._last = train_metrics
        step = number(train_metrics.get("step"))
        self.done = int(step) + 1 if math.isfinite(step) else self.done + 1
        for key, trail in self._trail.items():
            trail.append(number(train_metrics.get(key)))
        pool = number(train_metrics.get("useful_pool"))
        if math.isfinite(pool):
            self._pool = (self._pool[0] + pool, self._pool[1] + 1)
        if self._live is not None:
            self._live.refresh()
        elif self.done % self.every == 0 or self.done == self.steps or len(self._paces) == 1:
            self._print(self._line())

    def evaluated(self, eval_metrics: Mapping[str, Any]) -> None:
        """Show an evaluation on the held-out prompts."""
        self._accuracies.append((number(eval_metrics.get("accuracy")), number(eval_metrics.get("stderr"))))
        if self._live is not None:
            self._live.refresh()
        else:
            step = _count(number(eval_metrics.get("step")))
            self._print(f"evaluation after {step} steps: accuracy {self._accuracy('+-')}")

    def close(self, summary: Mapping[str, Any]) -> None:
        """End the live view and print what the run came to (`summary.json`'s keys)."""
        if self._live is not None:
            self._live.transient = True  # the closing table takes its place
        self._stop()
        self.console.print(self._closing(summary))

    def say(self, text: str, style: str = "") -> None:
        """Print a sentence; a live view stays below it."""
        self.console.print(Text(text, style), soft_wrap=not self.console.is_terminal)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, line: str) -> None:
        # soft_wrap: a log file has no width, and one step should stay one line
        self.console.print(Text(line), soft_wrap=True)

    # ------------------------------------------------------------------------------------------------ what is shown

    @property
    def _ascii(self) -> bool:
        return self.console.options.ascii_only

    def _metric(self, key: str) -> float:
        return number(self._last.get(key))

    def _accuracy(self, plus_minus: str) -> str:
        value, error = self._accuracies[-1] if self._accuracies else (math.nan, math.nan)
        return _percent(value) + (f" {plus_minus} {error * 100:.1f}" if math.isfinite(error) else "")

    def _left(self) -> str:
        """The time that the remaining steps will take at the recent pace."""
        if not self._paces:
            return "-:--"
        return _clock_time(sum(self._paces) / len(self._paces) * max(0, self.steps - self.done))

    def _line(self) -> str:
        useful = (
            f"useful {_percent(self._metric('useful'))} (predicted {_percent(self._metric('useful_predicted'))}, "
            f"pool {_percent(self._metric('useful_pool'))})"
        )
        parts = [
            f"step {self.done}/{self.steps}",
            f"reward {_decimal(self._metric('reward'))}",
            useful,
            f"rollouts {_count(self._metric('rollouts'))}",
            f"saved ~{_count(self._metric('saved'))}",
        ]
        if self._accuracies:
            parts.append(f"accuracy {self._accuracy('+-')}")
        return "  ".join([*parts, f"left {self._left()}"])

    def _view(self) -> RenderableType:
        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(
            total=max(1, self.steps), completed=min(self.done, self.steps), complete_style="cyan", finished_style="cyan"
        )
        head.add_row(Text(f"step {self.done}/{self.steps}", "bold"), bar, Text(f"{self._left()} left"))

        body = Table.grid(padding=(0, 2))
        body.add_column(style="dim", no_wrap=True)
        body.add_column(justify="right", no_wrap=True)
        body.add_column(no_wrap=True)
        body.add_row("reward", _decimal(self._metric("reward")), self._spark("reward", "green"))
        body.add_row("useful groups", _percent(self._metric("useful")), self._spark("useful", "cyan"))
        pool = Text(f"  pool {_percent(self._metric('useful_pool'))}", "dim")
        body.add_row(
            "  predicted", _percent(self._metric("useful_predicted")), self._spark("useful_predicted", "blue") + pool
        )
        saved = self._metric("saved")
        against = "more than" if saved < 0 else "saved against"
        estimate = Text(f"about {_count(abs(saved))} {against} dynamic sampling", "dim")
        body.add_row("rollouts", _count(self._metric("rollouts")), estimate)
        # A resumed run has not seen where it started.
        first = self._accuracies[0][0] if len(self._accuracies) > 1 and not self._resumed else math.nan
        before = Text(f"from {_percent(first)}" if math.isfinite(first) else "", "dim")
        body.add_row("accuracy", self._accuracy("+-" if self._ascii else "±"), before)
        return Group(head, body)

    def _spark(self, key: str, colour: str) -> Text:
        return Text(sparkline(self._trail[key], blocks=_PLAIN_BLOCKS if self._ascii else _BLOCKS), colour)

    def _closing(self, summary: Mapping[str, Any]) -> RenderableType:
        first, last = self._accuracies[:1], self._accuracies[1:][-1:]
        before = number(summary.get("accuracy_before", first[0][0] if first else None))
        after = number(summary.get("accuracy_after", last[0][0] if last else None))
        uniform = summary.get("uniform")
        arm = number(uniform.get("useful_share")) if isinstance(uniform, Mapping) else math.nan
        pool = number(summary.get("useful_pool"))
        if not math.isfinite(pool) and self._pool[1]:
            pool = self._pool[0] / self._pool[1]
        gain = f"  ({(after - before) * 100:+.1f} points)" if math.isfinite(after - before) else ""
        rollouts, saved = (number(summary.get(key, self._last.get(key))) for key in ("rollouts", "saved"))
        share = f"{abs(saved) / (rollouts + saved):.0%} " if rollouts + saved > 0 else ""
        against = f"{share}more than" if saved < 0 else f"{share}of what"
        would = f"  ({against} dynamic sampling would need)" if share or saved < 0 else ""

        table = Table(
            title="Run finished", title_justify="left", title_style="bold", show_header=False, highlight=False
        )
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        table.add_row(
            "held-out accuracy", Text(f"{_percent(before)} {'->' if self._ascii else '→'} {_percent(after)}{gain}")
        )
        table.add_row("useful groups", Text(_percent(number(summary.get("useful_share")))))
        if math.isfinite(arm):
            table.add_row("  uniform, measured", Text(_percent(arm)))
        if math.isfinite(pool):
            table.add_row("  pool, predicted", Text(_percent(pool)))
        table.add_row("rollouts", Text(_count(rollouts)))
        table.add_row("estimated extra" if saved < 0 else "estimated saved", Text(f"{_count(abs(saved))}{would}"))
        table.add_row("time", Text(f"{_clock_time(number(summary.get('seconds')))}  ({self.done} steps)"))
        if self.folder is not None:
            report = self.folder / "report.html"
            table.add_row("files", Text(str(self.folder)))
            table.add_row("report", Text(str(report) if report.is_file() else f"dps-pyro report {self.folder}"))
            table.add_row("more steps", Text(f"dps-pyro train --resume --out {self.folder} --steps {2 * self.steps}"))
        return table


def sparkline(values: Iterable[float], *, low: float = 0.0, high: float = 1.0, blocks: str = _BLOCKS) -> str:
    """Values in [low, high] as one character each, clipped; a space where a value is not finite."""
    top = len(blocks) - 1
    at = ((value - low) / (high - low) if math.isfinite(value) else math.nan for value in values)
    return "".join(" " if math.isnan(share) else blocks[round(min(1.0, max(0.0, share)) * top)] for share in at)


def _percent(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "-"


def _decimal(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _count(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "-"


def _clock_time(seconds: float) -> str:
    """12:05 or 1:02:05."""
    if not math.isfinite(seconds):
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
