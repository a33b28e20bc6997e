"""The policies that ship with the package, and what they learn with."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["EMBEDDED", "Defaults", "defaults_of"]


class Defaults(NamedTuple):
    """What a policy learns with where a configuration does not say."""

    max_new_tokens: int
    learning_rate: float


_POLICIES = Path(__file__).parent
_DEFAULTS = {
    "countdown": Defaults(24, 1e-4),
    "math": Defaults(8, 2e-4),
    "blocks": Defaults(36, 1e-4),
    "geometry": Defaults(24, 1e-4),
}
_REASONER = Defaults(1024, 1e-6)
"""For a language model that reasons."""

EMBEDDED = {task: _POLICIES / task for task in _DEFAULTS}
"""The policies that ship with the package, each named after its task: name -> folder."""


def defaults_of(model: str) -> Defaults:
    """The defaults for the name of an embedded policy, a folder of its checkpoints (which have its vocabulary), or
    another model."""
    if model in _DEFAULTS:
        return _DEFAULTS[model]
    if (vocabulary := _vocabulary(Path(model) / "tokenizer.json")) is not None:
        for task, folder in EMBEDDED.items():
            if vocabulary == _vocabulary(folder / "tokenizer.json"):
                return _DEFAULTS[task]
    return _REASONER


@cache
def _vocabulary(file: Path) -> Any:
    """A tokenizer's vocabulary; None if there is no such file."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a hub id, or a folder that transformers will judge
