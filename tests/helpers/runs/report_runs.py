"""Runs made up for the report."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["EVENTS", "HOSTILE", "SUMMARY", "evaluation", "lines", "make_run", "page", "train", "write_history"]

HOSTILE = "<script>alert(1)</script>"

SUMMARY = {
    "model": "SolvingProgress",
    "acquisition": "soft top B",
    "states": ["unsolved", "partially solved", "solved"],
    "transition": [[0.91, 0.08, 0.01], [0.05, 0.83, 0.12], [0.0, 0.03, 0.97]],
    "rates": [0.02, 0.47, 0.96],
    "initial": [0.62, 0.29, 0.09],
    "accuracy_before": 0.125,
    "accuracy_after": 0.375,
    "useful_share": 0.75,
    "rollouts": 64,
    "saved": 16.0,
    "seconds": 125.0,
    "steps": 4,
    "uniform": {"useful_share": 0.4375, "steps": 4, "source": "four steps of uniform selection"},
}

# prompt, step, solved of 8, predicted: by hand, two groups in the bin [0.2, 0.3) and two in [0.8, 0.9).
EVENTS = [(0, 0, 0.0, 0.2), (1, 1, 4.0, 0.25), (0, 2, 8.0, 0.8), (0, 3, 2.0, 0.85)]


def train(step: int, **more: Any) -> dict[str, Any]:
    return {
        "kind": "train",
        "step": step,
        "rollouts": 16 * (step + 1),
        "reward": 0.25,
        "useful": 0.75,
        "useful_predicted": 0.8,
        "useful_pool": 0.5,
        "saved": 4.0 * (step + 1),
        "belief": [0.5, 0.3, 0.2],
        "visited": 0.4,
        "seconds/select": 0.01,
        "seconds/rollout": 0.6,
        "seconds/reward": 0.04,
        "seconds/observe": 0.01,
        "seconds/update": 0.34,
        **more,
    }


def evaluation(step: int, accuracy: float) -> dict[str, Any]:
    size = {"prompts": 32, "samples": 4}
    return {"kind": "eval", "step": step, "rollouts": 16 * step, "accuracy": accuracy, "stderr": 0.01, **size}


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def write_history(path: Path, ids: Sequence[str], events: Sequence[tuple[int, int, float, float]] = EVENTS) -> None:
    prompt, step, solved, predicted = zip(*events, strict=True)
    table = pa.table(
        {
            "prompt": pa.array(prompt, pa.int32()),
            "step": pa.array(step, pa.int32()),
            "solved": pa.array(solved, pa.float64()),
            "trials": pa.array([8] * len(prompt), pa.int32()),
            "predicted": pa.array(predicted, pa.float32()),
        },
        metadata={"dps_pyro": json.dumps({"ids": list(ids), "num_prompts": len(ids)})},
    )
    pq.write_table(table, path)


def make_run(folder: Path, *, summary: dict[str, Any] | None = None) -> Path:
    """A finished run of four steps over five prompts."""
    folder.mkdir()
    steps = [train(step) for step in range(4)]
    text = lines(evaluation(0, 0.125), *steps[:2], evaluation(2, 0.25), *steps[2:], evaluation(4, 0.375))
    (folder / "metrics.jsonl").write_text(text)
    (folder / "config.yaml").write_text("sampler:\n  acquisition: thompson  # a comment\nnote: </pre><b>bold</b>\n")
    write_history(folder / "history.parquet", [HOSTILE, "b", "c", "d", "e"])
    (folder / "summary.json").write_text(json.dumps({**SUMMARY, **(summary or {})}))
    return folder


class _Page(HTMLParser):
    """What a browser would see: elements, attributes that load things, and text by element id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "data", "srcset", "action"}:
                self.loads.append(value or "")
            elif name == "id":
                self.ids.append(value or "")
            elif name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def page(path: Path) -> _Page:
    return _Page(path.read_text(encoding="utf-8"))
