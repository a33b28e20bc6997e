"""Saved states for data that changed: prompts are matched by what they are, not by where they stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Matched", "distinct", "for_ids", "realigned"]


class Matched(NamedTuple):
    """How the prompts of a saved state and those of now belong together."""

    old: Tensor  # long [N], the row in the saved state of each prompt of now; -1 for a new one
    retired: tuple[str, ...]  # the names of saved prompts that are no more

    @property
    def new(self) -> int:
        """How many prompts are new."""
        return int((self.old < 0).sum())

    @property
    def same(self) -> bool:
        """Whether nothing changed, the order included."""
        return not self.retired and torch.equal(self.old, torch.arange(len(self.old)))

    def rows(self, saved: Tensor) -> Tensor | None:
        """The present rows of rows in the saved state; None if one of them no longer exists."""
        place = torch.full([len(self.old) + len(self.retired)], -1, dtype=torch.long)
        known = self.old >= 0
        place[self.old[known]] = known.nonzero().squeeze(-1)
        found = place[saved]
        return None if bool((found < 0).any()) else found

    def __str__(self) -> str:
        kept = len(self.old) - self.new
        told = [f"{kept:,} prompts are known by their content or id"]
        told += [f"{self.new:,} are new, and start unvisited"] if self.new else []
        few = ", ".join(map(repr, self.retired[:3])) + (", ..." if len(self.retired) > 3 else "")
        told += [f"{len(self.retired):,} are no longer there, and are retired: {few}"] if self.retired else []
        return "; ".join(told)


def match(saved: Sequence[str], now: Sequence[str]) -> Matched:
    """Match the names of saved prompts with those of now; both are distinct.

    Raises:
        ValueError: they have no prompt in common.
    """
    row = {name: at for at, name in enumerate(saved)}
    old = torch.tensor([row.get(name, -1) for name in now], dtype=torch.long)
    there = set(now)
    retired = tuple(name for name in saved if name not in there)
    if len(old) and bool((old < 0).all()):
        raise ValueError(f"state: expected some of the same prompts, got {len(saved):,} of which none is there")
    return Matched(old, retired)


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those that came before: "a", "a", "b" become "a", "a #2", "b"."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return found


def realigned(state: Mapping[str, Any], saved: Sequence[str], now: Sequence[str]) -> tuple[dict[str, Any], Matched]:
    """A prompt sampler's state for other prompts than those that it was saved with.

    The beliefs, the visits and the history of prompts that are still there move to their rows of now. New prompts are
    as unvisited ones that have been there from the first step. What is known of the others goes.

    Args:
        state: `PromptSampler.state_dict()`.
        saved: the names of its prompts, in row order.
        now: the names of the prompts of now, in row order.

    Returns:
        A state that a sampler of the prompts of now loads, and how the two belong together.

    Raises:
        ValueError: the two have no prompt in common.
    """
    matched = match(saved, now)
    if matched.same:
        return dict(state), matched
    at, fresh = matched.old.clamp_min(0), matched.old < 0
    tracker, history = dict(state["tracker"]), dict(state["tracker"]["history"])
    place = torch.full([len(saved)], -1, dtype=torch.long)
    place[matched.old[~fresh]] = (~fresh).nonzero().squeeze(-1)
    kept = place[history["prompt"]] >= 0
    whole = ("num_steps", "marks")  # of the log, not of its groups
    history = {name: value if name in whole else value[kept] for name, value in history.items()}
    history["prompt"] = place[history["prompt"]]
    tracker |= {
        "filter": {name: value[at] for name, value in state["tracker"]["filter"].items()},
        "snapshots": {},  # they do not have the new prompts; late groups are filtered from the first step
        "history": history,
        "num_prompts": len(now),
        "fresh": fresh.nonzero().squeeze(-1),
    }
    batches = {number: matched.rows(rows) for number, rows in state["ahead"].get("rows", {}).items()}
    predicted = {int(place[int(row)]): chance for row, chance in state["predicted"].items()}
    unwanted = [int(place[row]) for row in state.get("retired", ())]
    found = {
        **state,
        "tracker": tracker,
        "visits": torch.where(fresh, 0, state["visits"][at]),
        "predicted": {str(row): chance for row, chance in predicted.items() if row >= 0},
        "retired": [row for row in unwanted if row >= 0],
        "ahead": {**state["ahead"], "rows": {number: rows for number, rows in batches.items() if rows is not None}},
    }
    return found, matched


def for_ids(state: Mapping[str, Any], ids: Sequence[str]) -> tuple[dict[str, Any], Matched]:
    """`realigned`, for a sampler with these ids.

    Raises:
        ValueError: the two have no prompt in common, or refits have learned parameters of each prompt's own, which are
            of the prompts as they were.
    """
    refit = state.get("refit")
    learned = refit.get("posterior") if isinstance(refit, Mapping) else None
    if isinstance(learned, Mapping) and learned.get("per_prompt"):
        raise ValueError(
            "state: expected the same prompt ids in the same order, as refits have learned parameters of each prompt's "
            "own, got others"
        )
    found, matched = realigned(state, state["ids"], ids)
    return {**found, "ids": ids}, matched
