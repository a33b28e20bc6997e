"""Where real geometry problems lie, if they are there."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["GEOMETRY3K"]

GEOMETRY3K = Path(os.environ.get("GEOMETRY3K", Path(__file__).parents[4] / "shared" / "data" / "geometry3k"))
