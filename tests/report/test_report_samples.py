"""Completions in the report: those of the first and the last step, a few, and as text whatever they hold."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.runs.report_runs import HOSTILE, make_run, page
from helpers.runs.tiny import tiny
from PIL import Image

from dps_pyro.report import write_report
from dps_pyro.report.page import passage
from dps_pyro.report.samples import read_samples
from dps_pyro.trainers.grpo import train
from dps_pyro.trainers.run.completions import thumbnail


def keep(folder: Path, step: int, rows: list[tuple[str, str, float, str]]) -> None:
    """Completions as the trainer writes them; a prompt's text is made from its id."""
    (folder / "completions").mkdir(exist_ok=True)
    names, completions, rewards, reasons = map(list, zip(*rows, strict=True))
    columns: dict[str, Any] = {
        "prompt_id": names, "prompt": [f"say {name}" for name in names], "completion": completions,
        "reward": rewards, "reason": reasons,
    }  # fmt: skip
    pq.write_table(pa.table(columns), folder / "completions" / f"step-{step:06d}.parquet")


@pytest.mark.usefixtures("undrawn")
def test_the_first_and_the_last_step_are_shown_best_and_worst(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    keep(
        folder, 0, [("a", "first of a", 0.5, "half"), ("a", "second of a", 1.0, "right"), ("a", "third", 0.0, "wrong")]
    )
    keep(folder, 10, [("a", "never shown", 0.0, "wrong")])
    keep(folder, 20, [("b", "of b", 1.0, "right"), ("a", "of a", 0.25, "some")])
    (folder / "completions" / "step-notes.parquet").touch()
    first, last = read_samples(folder, notes := [])
    assert not notes
    assert (first.step, last.step) == (0, 20)
    assert [tuple(sample)[1:4] for sample in first.samples] == [("second of a", 1.0, "right"), ("third", 0.0, "wrong")]
    assert [sample.completion for sample in last.samples] == ["of a", "of b"]  # the prompt that both have comes first
    text = page(write_report(folder)).text
    assert "Training step 0 prompt completion reward reason say a second of a 1 right say a third 0 wrong" in text
    assert "Training step 20 prompt completion reward reason say a of a 0.25 some say b of b 1 right" in text
    assert "never shown" not in text


@pytest.mark.usefixtures("undrawn")
def test_only_small_pngs_are_shown_once_a_prompt(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    small = thumbnail(Image.new("RGB", (400, 200), "white"))
    images = [[small, b"<svg onload='go()'></svg>", small[:8] + b"0" * 300_000], [], []]
    (folder / "completions").mkdir()
    names = ["a", "a", "b"]
    columns = {"prompt_id": names, "prompt": names, "completion": ["1", "2", "3"], "reward": [0.0, 1.0, 0.0],
               "reason": ["why"] * 3, "images": pa.array(images, pa.list_(pa.binary()))}  # fmt: skip
    pq.write_table(pa.table(columns), folder / "completions" / "step-000000.parquet")
    path = write_report(folder)
    html = path.read_text(encoding="utf-8")
    assert page(path).tags.count("img") == 1  # beside the best completion of `a`, whichever came first
    assert f'<img src="data:image/png;base64,{base64.b64encode(small).decode()}"' in html


def test_prompts_that_taught_something_come_first_and_there_are_four(tmp_path: Path) -> None:
    rows = [(f"p{i}", f"{i} {j}", float(i >= 5 and j), "a reason") for i in range(8) for j in range(3)]
    keep(tmp_path, 3, rows)
    (only,) = read_samples(tmp_path, [])
    assert len(only.samples) == 8
    assert [sample.prompt for sample in only.samples][::2] == ["say p5", "say p6", "say p7", "say p0"]
    keep(tmp_path, 9, [("p2", "x", 0.0, "a reason")])
    first, _ = read_samples(tmp_path, [])
    assert [sample.prompt for sample in first.samples][::2] == ["say p2", "say p5", "say p6", "say p7"]


@pytest.mark.usefixtures("undrawn")
def test_a_completion_is_text_whatever_it_holds(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    hostile = f"{HOSTILE}<img src=x onerror=alert(1)>\n</td></table>{{{{ 7 * 7 }}}}\x1b[31m\u202e" + "long" * 1000
    keep(folder, 0, [("<b>id</b>", hostile, 0.0, "<i>reason</i>"), ("<b>id</b>", "\n" * 5000, 1.0, "empty")])
    path = write_report(folder)
    html, seen = path.read_text(encoding="utf-8"), page(path)
    assert "<script" not in html
    assert {"script", "img", "b", "i"}.isdisjoint(seen.tags)
    assert not seen.handlers
    assert HOSTILE in seen.text
    assert "say <b>id</b>" in seen.text and "<i>reason</i>" in seen.text
    assert "{{ 7 * 7 }}" in seen.text
    assert "\x1b" not in html and "\u202e" not in html
    assert "long" * 200 not in html  # cut
    assert "↵" * 399 + "…" in seen.text
    assert html.count("<table") == html.count("</table>")


def test_passages_are_one_line() -> None:
    assert passage("a\nb\r\nc") == "a↵b↵c"
    assert len(passage("x" * 1000)) == 400
    assert passage("") == ""


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("content", [b"", b"PAR1 no", "other columns"])
def test_what_cannot_be_read_is_named(content: bytes | str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    keep(folder, 0, [("a", "of a", 1.0, "right")])
    file = folder / "completions" / "step-000004.parquet"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        pq.write_table(pa.table({"prompt_id": ["a"]}), file)
    text = page(write_report(folder)).text
    assert "step-000004.parquet could not be read" in text
    assert "Training step 0 " in text


def test_a_run_without_completions_has_no_table(drawn: Path) -> None:
    assert "completions" not in page(drawn).ids


@pytest.mark.usefixtures("undrawn")
def test_the_trainer_s_own_completions_are_shown(tmp_path: Path) -> None:
    train(tiny(tmp_path / "run", steps=2, log_completions=1))
    write_report(tmp_path / "run")
    seen = page(tmp_path / "run" / "report.html")
    assert "completions" in seen.ids
    assert "Training step 0" in seen.text and "Training step 1" in seen.text
    assert any(reason in seen.text for reason in ("wrong value", "correct", "number"))
