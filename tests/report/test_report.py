"""The report, from run folders written here through the documented file formats."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers.runs.report_runs import HOSTILE, SUMMARY, evaluation, lines, make_run, page, train

from dps_pyro.report import write_report
from dps_pyro.report.canvas import DARK, clean
from dps_pyro.report.measures import calibration, most_and_least, phase_seconds, shares, smooth
from dps_pyro.report.run import EventLog, read_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SLUGS = ("accuracy", "useful", "belief", "dynamics", "calibration", "visits", "seconds")
ECE = (2 * abs(0.225 - 0.5) + 2 * abs(0.825 - 0.5)) / 4  # 0.300
BRIER = (0.2**2 + 0.75**2 + 0.8**2 + 0.15**2) / 4


def test_page_holds_every_figure_and_they_lie_beside_it(drawn: Path) -> None:
    assert drawn.name == "report.html"
    seen = page(drawn)
    assert seen.tags.count("svg") == len(SLUGS)
    assert set(SLUGS) <= set(seen.ids)
    for slug in SLUGS:
        assert (drawn.parent / "figures" / f"{slug}.png").read_bytes().startswith(b"\x89PNG")


def test_page_loads_nothing_and_runs_nothing(drawn: Path) -> None:
    html, seen = drawn.read_text(encoding="utf-8"), page(drawn)
    assert "://" not in html
    assert "@import" not in html
    assert {"script", "link", "iframe", "object", "embed", "img"}.isdisjoint(seen.tags)
    assert all(address.startswith("#") for address in seen.loads)
    assert not seen.handlers
    assert "default-src 'none'" in html
    # What is referred to inside the figures exists, once: the ids of seven figures share one page.
    referred = {address[1:] for address in seen.loads} | set(re.findall(r"url\(#([^)]*)\)", html))
    assert referred
    assert referred <= set(seen.ids)
    assert len(seen.ids) == len(set(seen.ids))


def test_untrusted_text_is_shown_and_not_interpreted(tmp_path: Path) -> None:
    states = ["un$olved </text></svg><script>", "par$tially", "\u202esolved"]
    folder = make_run(tmp_path / "run", summary={"states": states, "acquisition": "<b>top</b> $\\frac{1}$ \ud800"})
    path = write_report(folder)

    html, seen = path.read_text(encoding="utf-8"), page(path)
    assert "<script" not in html
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in html
    assert HOSTILE in seen.text  # the prompt's id, in the table
    assert "</pre><b>bold</b>" in seen.text  # the configuration
    assert "un$olved" in seen.text  # not taken for TeX
    assert "\u202e" not in html
    assert "b" not in seen.tags


def test_headline_numbers(drawn: Path) -> None:
    text = page(drawn).text

    assert "12.5% → 37.5%" in text
    assert "+25.0 points; standard error 1.0 at the end" in text
    assert "75.0%" in text
    assert "against 50.0% predicted for the pool and 43.8% measured with uniform" in text
    assert "of 80 that dynamic sampling would need: 20%" in text  # 64 spent, 16 saved
    assert "The saving is an estimate, not a measurement" in text
    assert "2 min 05 s" in text
    assert "four steps of uniform selection" in text
    assert "select and observe together: 2.00% of the time" in text
    for cell in ("0.91", "0.83", "0.97", "0.62", "0.47"):  # transition, initial, rates
        assert f" {cell} " in text


@pytest.mark.usefixtures("undrawn")
def test_calibration_by_hand(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    history = read_run(folder).history
    assert history is not None

    scores = calibration(history)

    assert scores.ece == pytest.approx(ECE, abs=1e-6)
    assert scores.brier == pytest.approx(BRIER, abs=1e-6)
    assert scores.total == 4
    assert scores.groups.tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 2, 0]
    assert scores.useful[[2, 8]].tolist() == [0.5, 0.5]
    # Wilson's interval for one of two, by its formula
    assert scores.low[2] == pytest.approx(0.0945, abs=1e-3)
    assert scores.high[2] == pytest.approx(0.9055, abs=1e-3)
    text = page(write_report(folder)).text
    assert f"ECE {ECE:.3f}, Brier score {BRIER:.3f} over 4 groups" in text
    assert "selected prompts only" in text


def test_calibration_leaves_out_what_was_not_predicted() -> None:
    log = event_log([0, 1, 2], solved=[4.0, 8.0, 4.0], predicted=[0.9, math.nan, 0.9], trials=[8, 8, 0])

    scores = calibration(log)

    assert scores.total == 1
    assert scores.brier == pytest.approx(0.01)


def test_calibration_of_nothing_is_nan() -> None:
    scores = calibration(event_log([], solved=[], predicted=[], trials=[]))

    assert math.isnan(scores.ece)
    assert math.isnan(scores.brier)


@pytest.mark.usefixtures("undrawn")
def test_visits_table(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    history = read_run(folder).history
    assert history is not None

    most, least = most_and_least(history, size=1)

    # Prompt 0: 0/8 and 8/8 in the first half of its three visits, 2/8 in the second.
    assert most[0][:4] == (HOSTILE, 3, 0.5, 0.25)
    assert most[0].predicted == pytest.approx(0.85)
    assert least[0][:3] == ("b", 1, 0.5)
    assert math.isnan(least[0].late)
    assert "3 of them (60%) were never visited" in page(write_report(folder)).text


def test_most_and_least_do_not_overlap() -> None:
    log = event_log([0, 1, 2, 2], solved=[1.0] * 4, predicted=[0.5] * 4, trials=[8] * 4)

    most, least = most_and_least(log, size=8)

    assert [row.id for row in most] == ["prompt 2", "prompt 0", "prompt 1"]
    assert least == []


def test_unfinished_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(lines(evaluation(0, 0.125), train(0), train(1)) + '{"kind": "train", "st')
    (folder / "config.yaml").write_text("sampler:\n  acquisition: thompson  # a comment\n")

    seen = page(write_report(folder))

    assert "unfinished run" in seen.text
    assert "1 line of metrics.jsonl was incomplete and left out" in seen.text
    assert "thompson chose among them" in seen.text
    assert "state 2 of 3" in seen.text
    assert "an unfinished run has none" in seen.text
    assert "12.5% → –" in seen.text
    assert seen.tags.count("svg") == 4  # accuracy, useful, belief, seconds


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("damaged", ["summary.json", "history.parquet"])
def test_half_written_files_are_named(tmp_path: Path, damaged: str) -> None:
    folder = make_run(tmp_path / "run")
    whole = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(whole[: len(whole) // 2])

    assert f"{damaged} " in " ".join(read_run(folder).notes)
    assert "left out" in page(write_report(folder)).text


def test_first_moment_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()

    seen = page(write_report(tmp_path))

    assert "No training step has been recorded yet" in seen.text
    assert "svg" not in seen.tags


def test_no_run_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
        write_report(tmp_path)


def test_a_resumed_run_keeps_the_newer_story(tmp_path: Path) -> None:
    old = [evaluation(0, 0.1), train(0), train(1, reward=0.0), evaluation(2, 0.2), train(2, reward=0.0)]
    new = [train(1, reward=1.0), evaluation(2, 0.9)]
    (tmp_path / "metrics.jsonl").write_text(lines(*old) + '{"kind": "tr\n' + lines(*new))

    run = read_run(tmp_path)

    assert [(record["step"], record["reward"]) for record in run.train] == [(0, 0.25), (1, 1.0)]
    assert [(record["step"], record["accuracy"]) for record in run.evals] == [(0, 0.1), (2, 0.9)]
    assert len(run.notes) == 1

    (tmp_path / "metrics.jsonl").write_text(lines(*old, new[0]))  # killed again, before the evaluation
    assert [record["step"] for record in read_run(tmp_path).evals] == [0]


@pytest.mark.usefixtures("undrawn")
def test_missing_and_wild_values_do_not_stop_the_page(tmp_path: Path) -> None:
    wild: list[Any] = [math.nan, math.inf, None, "text", [], 10**400]
    steps = [train(step, useful=value, useful_pool=value, belief=value) for step, value in enumerate(wild)]
    steps[0]["rollouts"] = math.nan
    evals = [{**evaluation(0, 0.1), "stderr": -1.0}, {**evaluation(9, 0.2), "accuracy": math.nan, "rollouts": None}]
    (tmp_path / "metrics.jsonl").write_text(lines(evals[0], *steps, evals[1]))
    (tmp_path / "summary.json").write_text(json.dumps({**SUMMARY, "transition": [[1.0]], "uniform": None}))

    text = page(write_report(tmp_path)).text

    assert "The summary has no transition matrix" in text
    assert "No belief has been recorded yet" in text


def test_many_states(tmp_path: Path) -> None:
    size = 21
    even = [1 / size] * size
    states = [f"rung {k}" for k in range(size)]
    more = {"states": states, "transition": [even] * size, "initial": even, "rates": None}
    folder = make_run(tmp_path / "run", summary=more)
    (folder / "metrics.jsonl").write_text(lines(*(train(step, belief=even) for step in range(3))))

    text = page(write_report(folder)).text

    assert "rung 0 rung 10 rung 20" in text  # the legend names the ends and the middle
    assert "0.05" not in text  # cells too small for numbers have none


def test_compared_runs_are_drawn_and_listed(drawn: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    uniform = make_run(tmp_path / "other", summary={"acquisition": "uniform", "accuracy_after": 0.3125})
    twin = make_run(tmp_path / "twin")

    alone = page(drawn).text
    text = page(write_report(run, compare=[uniform, twin])).text

    assert "uniform, realised" not in alone
    assert "uniform, realised" in text
    assert "soft top B (twin), realised" in text  # the same selector twice: the folder tells them apart
    assert "uniform 12.5% 31.2% 75.0% 64" in text
    assert not (uniform / "report.html").exists()


def test_same_run_same_page_and_figures_leave_global_state_alone(drawn: Path, tmp_path: Path) -> None:
    import matplotlib as mpl
    from matplotlib import _pylab_helpers

    before = dict(mpl.rcParams)
    again = write_report(make_run(tmp_path / "run"))

    assert again.read_bytes() == drawn.read_bytes()
    assert dict(mpl.rcParams) == before
    assert not _pylab_helpers.Gcf.figs


def test_figures_are_coloured_by_the_page(drawn: Path) -> None:
    html = drawn.read_text(encoding="utf-8")

    figures = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert "var(--ink)" in figures
    assert not [light for light, _ in DARK.values() if light in figures]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_is_readable_on_the_page(theme: int) -> None:
    """WCAG 2: 4.5 to 1 for text, and 2 to 1 at the least for the lines of a chart."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ np.array([0.2126, 0.7152, 0.0722]))

    paper = luminance(DARK["paper"][theme])
    for name, colours in DARK.items():
        low, high = sorted((paper, luminance(colours[theme])))
        contrast = (high + 0.05) / (low + 0.05)
        if name in {"ink", "muted"}:
            assert contrast >= 4.5, name
        elif name not in {"paper", "rule"}:
            assert contrast >= 2, name


def test_smooth_is_a_centred_mean_that_passes_over_gaps() -> None:
    assert smooth(np.array([1.0, 2.0, 6.0, math.nan]), 3).tolist() == [1.5, 3.0, 4.0, 6.0]
    assert np.isnan(smooth(np.array([math.nan, math.nan]), 3)).all()


def test_time_by_phase_counts_totals_once(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(lines(train(0, **{"seconds/total": 9.0, "seconds/sync": 1.0})))

    phases = phase_seconds(read_run(tmp_path))

    assert list(phases) == ["select", "rollout", "reward", "observe", "update", "sync"]
    assert sum(shares(phases).values()) == pytest.approx(1.0)
    assert shares(phases)["sync"] == pytest.approx(0.5)


def test_clean_bounds_and_replaces() -> None:
    assert clean("a\x00b\u202ec") == "a\ufffdb\ufffdc"
    assert clean("x" * 100, 10) == "x" * 9 + "…"


def event_log(
    prompt: Sequence[int], *, solved: Sequence[float], predicted: Sequence[float], trials: Sequence[int]
) -> EventLog:
    rows = np.array(prompt, dtype=np.int64)
    known, sizes = np.array(solved, dtype=np.float64), np.array(trials, dtype=np.int64)
    return EventLog(
        ids=(),
        num_prompts=int(rows.max(initial=-1)) + 1,
        prompt=rows,
        step=np.arange(len(rows)),
        solved=known,
        trials=sizes,
        predicted=np.array(predicted, dtype=np.float64),
        useful=(known > 0) & (known < sizes),
    )
