"""What the tests of the grader share."""

from __future__ import annotations

import os
from pathlib import Path

REASONS = {
    "correct", "wrong value", "empty", "no answer", "unclosed answer", "unfinished thinking", "too long",
    "not a number",
    *(f"not compared, {why}" for why in ("not parsed", "gold not parsed", "timed out", "out of memory", "failed")),
}  # fmt: skip
TOWER = r"\boxed{9^{9^{9^9}}}"
BOMB = r"\boxed{\int_{0}^{1} \sin(x^2)\cos(x^{3})\ln(1+x) dx}"
"""An integral that nobody has in closed form: SymPy looks for one for minutes."""


def children() -> set[int]:
    """The processes that this one started and that are still there, zombies included."""
    pid = os.getpid()
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        found |= {int(child) for child in (task / "children").read_text().split()}
    return found
