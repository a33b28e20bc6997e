"""The report's page of completions: what was written, what it earned, and the pictures that it was about."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from test_report import make_run, page

from dps_pyro.report import write_report
from dps_pyro.report.completions import read_sample
from dps_pyro.trainers.completions import THUMBNAIL, thumbnail

HOSTILE = '</td><img src="http://there/x.png" onerror="go()"><script>go()</script>'


def write(folder: Path, step: int, groups: dict[str, list[tuple[str, float, str]]], images: Any = None) -> Path:
    """A logged step, of the columns that the page needs."""
    rows: list[dict[str, Any]] = []
    for name, answers in groups.items():
        for place, (text, reward, reason) in enumerate(answers):
            row = {"step": step, "prompt_id": name, "prompt": f"Ask {name}.", "completion": text, "reward": reward}
            rows.append({**row, "reason": reason, "images": images if images and place == 0 else []})
    (folder / "completions").mkdir(parents=True, exist_ok=True)
    path = folder / "completions" / f"step-{step:06d}.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_the_newest_readable_step_and_the_most_mixed_prompts_first(tmp_path: Path) -> None:
    assert read_sample(tmp_path) is None
    write(tmp_path, 0, {"old": [("1", 0.0, "wrong value")]})
    right, wrong = ("4", 1.0, "correct"), ("5", 0.0, "wrong value")
    write(
        tmp_path, 10, {"solved": [right] * 4, "mixed": [wrong, wrong, ("6", 0.0, "empty"), right], "lost": [wrong] * 4}
    )
    (tmp_path / "completions" / "step-000020.parquet").write_bytes(b"PAR1 half a fi")
    sample = read_sample(tmp_path, answers=2)
    assert sample is not None and sample.step == 10
    assert [asked.id for asked in sample.prompts] == ["mixed", "lost", "solved"]
    assert sample.prompts[0].mean == 0.25
    assert [(a.text, a.reward, a.times) for a in sample.prompts[0].answers] == [("4", 1.0, 1), ("6", 0.0, 1)]
    assert [a.times for a in sample.prompts[1].answers] == [4]
    few = read_sample(tmp_path, prompts=1)
    assert few is not None and len(few.prompts) == 1


def test_text_is_escaped_and_only_pngs_are_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    small = thumbnail(Image.new("RGB", (400, 200), "white"))
    pictures = [small, b"<svg onload='go()'></svg>", b"\x89PNG\r\n\x1a\n" + b"0" * 300_000]
    write(folder, 3, {HOSTILE: [(HOSTILE, 1.0, HOSTILE), ("\u202e5", 0.0, "wrong value")]}, pictures)
    path = write_report(folder)
    html, seen = path.read_text(encoding="utf-8"), page(path)
    assert "<script" not in html and 'src="http' not in html and "\u202e" not in html
    assert not seen.handlers
    assert HOSTILE in seen.text
    assert seen.tags.count("img") == 1
    assert f'<img src="data:image/png;base64,{base64.b64encode(small).decode()}"' in html


def test_a_run_without_completions_has_no_such_part(tmp_path: Path) -> None:
    assert "What the policy wrote" not in page(write_report(make_run(tmp_path / "run"))).text


@pytest.mark.parametrize(("size", "small"), [((400, 200), (THUMBNAIL, THUMBNAIL // 2)), ((96, 96), (96, 96))])
def test_thumbnails_are_small_and_keep_their_shape(size: tuple[int, int], small: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(thumbnail(Image.new("L", size, 128)))) as opened:
        assert opened.size == small and opened.format == "PNG"
