"""The live view, on a terminal and in a log file."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dps_pyro.trainers.run.live import LiveView, sparkline

SUMMARY = {
    "accuracy_before": 0.125,
    "accuracy_after": 0.375,
    "useful_share": 0.75,
    "rollouts": 640,
    "saved": 160.0,
    "seconds": 3725.0,
    "uniform": {"useful_share": 0.4375},
}


def step(number: int, **more: Any) -> dict[str, Any]:
    return {
        "kind": "train",
        "step": number,
        "rollouts": 16 * (number + 1),
        "reward": 0.25,
        "useful": 0.75,
        "useful_predicted": 0.8125,
        "useful_pool": 0.5,
        "saved": 1234.4,
        **more,
    }


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    return Console(file=io.StringIO(), record=True, force_terminal=True, width=80, color_system="standard")


def log_file() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_terminal_shows_the_run(terminal: Console) -> None:
    ticks = iter([0.0, 0.0, 3.0, 6.0])  # made, entered, two steps of three seconds
    with LiveView(steps=10, console=terminal, clock=lambda: next(ticks)) as view:
        view.update(step(0))
        view.evaluated({"kind": "eval", "step": 1, "accuracy": 0.25, "stderr": 0.0125})
        view.update(step(1))

    shown = written(terminal)
    assert "step 2/10" in shown
    assert "0:24 left" in shown  # eight steps of three seconds
    assert "75.0%" in shown
    assert "81.2%" in shown
    assert "▆▆" in shown
    assert "about 1,234 saved" in shown
    assert "25.0% ± 1.2" in shown
    assert "\x1b[?25h" in shown  # the cursor is back


def test_every_line_fits_eighty_columns(terminal: Console) -> None:
    with LiveView(steps=100_000, console=terminal, folder=Path("/a/folder") / ("long" * 30)) as view:
        for number in range(99_970, 100_000):
            view.update(step(number, rollouts=123_456_789, saved=987_654_321.0))
        view.close(SUMMARY)

    drawn = re.split(r"[\r\n]|\x1b\[[\d;?]*[A-HJKfhl]", re.sub(r"\x1b\[[\d;]*m", "", written(terminal)))
    assert max(map(len, drawn)) == 80


def test_closing_table(terminal: Console) -> None:
    with LiveView(steps=1, console=terminal, folder=Path("runs") / "[red]first[/red]") as view:
        view.update(step(0))
        view.close(SUMMARY)

    table = terminal.export_text(styles=False).split("Run finished")[1]
    assert "12.5% → 37.5%  (+25.0 points)" in table
    assert "75.0%" in table
    assert "43.8%" in table  # uniform, measured
    assert "50.0%" in table  # the pool, predicted
    assert "160  (20% of what dynamic sampling would need)" in table
    assert "1:02:05" in table
    assert str(Path("runs") / "[red]first[/red]") in table  # a path, not markup


def test_a_loss_is_called_one(terminal: Console) -> None:
    """Fewer useful groups than dynamic sampling would have found for the same money."""
    with LiveView(steps=1, console=terminal) as view:
        view.update(step(0, saved=-1234.4))
        view.close({**SUMMARY, "rollouts": 800, "saved": -160.0})
    text = " ".join(terminal.export_text(styles=False).split())
    assert "about 1,234 more than dynamic sampling" in text
    assert "estimated extra │ 160 (25% more than dynamic sampling would need)" in text
    assert "saved" not in text.split("Run finished")[1]


def test_without_a_useful_group_there_is_no_share() -> None:
    console = log_file()
    with LiveView(steps=1, console=console) as view:
        view.close({"rollouts": 800, "saved": -800.0})
    assert "800  (more than dynamic sampling would need)" in written(console)


def test_sentences_stand_above_the_view(terminal: Console) -> None:
    sentence = "Fitting [b]LogitWalk[/b]: " + "word " * 40
    with LiveView(steps=2, console=terminal) as view:
        view.update(step(0))
        view.say(sentence, "yellow")
        view.update(step(1))
    assert sentence.strip() in " ".join(terminal.export_text(styles=False).split())
    log = log_file()
    LiveView(steps=2, console=log).say(sentence)
    assert written(log).splitlines() == [sentence]  # one line, and no markup


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with LiveView(steps=1, console=console) as view:
        view.update(step(0))

    assert "\x1b[36m" not in written(console)
    assert "\x1b[32m" not in written(console)


def test_log_file_gets_a_line_every_k_steps() -> None:
    console = log_file()
    with LiveView(steps=25, console=console, every=10) as view:
        for number in range(25):
            view.update(step(number))
        view.evaluated({"kind": "eval", "step": 25, "accuracy": 0.5, "stderr": 0.02})

    lines = written(console).splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["1/25", "10/25", "20/25", "25/25"]
    assert "useful 75.0% (predicted 81.2%, pool 50.0%)" in lines[0]
    assert lines[-1] == "evaluation after 25 steps: accuracy 50.0% +- 2.0"
    assert "\x1b" not in written(console)


def test_resumed_run_starts_its_pace_afresh() -> None:
    console = log_file()
    ticks = iter([0.0, 0.0, 2.0])
    with LiveView(steps=60, done=50, console=console, every=1, clock=lambda: next(ticks)) as view:
        view.update(step(50))

    assert "step 51/60" in written(console)
    assert "left 0:18" in written(console)  # nine steps of two seconds


@pytest.mark.parametrize("is_terminal", [True, False])
def test_missing_values_are_dashes(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=80)
    with LiveView(steps=2, console=console) as view:
        view.evaluated({"kind": "eval", "step": 0, "accuracy": math.nan, "stderr": None})
        view.update({"kind": "train", "step": 0, "reward": math.nan, "useful": math.inf, "useful_pool": None})
        view.update({})
        view.close({"accuracy_before": math.nan, "saved": None, "uniform": None})

    assert "step 2/2" in written(console)
    assert "nan" not in written(console).lower()


def test_an_error_leaves_the_last_state_and_passes_on(terminal: Console) -> None:
    def broken_run() -> None:
        with LiveView(steps=5, console=terminal) as view:
            view.update(step(0))
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        broken_run()

    assert "step 1/5" in written(terminal)
    assert "Run finished" not in written(terminal)
    assert "\x1b[?25h" in written(terminal)


def test_terminal_without_utf8_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"), force_terminal=True, width=80)
    with LiveView(steps=1, console=console) as view:
        view.update(step(0))
        view.evaluated({"accuracy": 0.5, "stderr": 0.02})
        view.close(SUMMARY)
    console.file.flush()

    assert b"50.0% +- 2.0" in raw.getvalue()
    assert b"12.5% -> 37.5%" in raw.getvalue()


def test_sparkline() -> None:
    assert sparkline([0.0, 0.5, 1.0, 2.0, -1.0, math.nan]) == "▁▅██▁ "
    assert sparkline([]) == ""
    assert sparkline([5.0, 10.0], low=5.0, high=10.0, blocks="ab") == "ab"


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="every >= 1"):
        LiveView(steps=1, every=0)
