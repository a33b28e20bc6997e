"""The gallery's models in several shapes each, for the tests that hold every one of them to something."""

from __future__ import annotations

from typing import Any

from benchmarks.inference.gallery import FITTED, arguments

__all__ = ["EACH", "OTHERS", "variants"]

OTHERS: dict[str, list[dict[str, Any]]] = {
    "Covariate": [{"levels": 3}],
    "DenseReward": [{"family": "beta"}, {"states": 4}],
    "Hierarchical": [{"levels": 3, "nodes": None}, {"levels": 4, "nodes": 2}],
    "Ladder": [{"levels": 3}],
    "LogitWalk": [{"rungs": 4, "limit": 2.0}],
    "PromptTypes": [{"types": ("learns", "never"), "speeds": (0.02,)}],
}
"""Arguments to try besides the default ones and columns of the prompts."""


def variants(name: str, num_prompts: int) -> dict[str, dict[str, Any]]:
    """Arguments of the model's constructor, under a label."""
    needed, every = arguments(name, num_prompts, only_needed=True), arguments(name, num_prompts)
    found = {"default": needed, "columns": every}
    if "groups" in every:
        found["numbered"] = {**every, "groups": [row % 3 for row in range(num_prompts)]}
    if "features" in every:
        found["numbers"] = {**every, "features": {"length": [float(row % 4) for row in range(num_prompts)]}}
    distinct = {label: given for label, given in found.items() if label == "default" or given != needed}
    return distinct | {str(other): {**needed, **other} for other in OTHERS.get(name, [])}


EACH = [(name, label) for name in FITTED for label in variants(name, 1)]
"""Every model that is fitted, in every shape: its name, and the label of its arguments."""
