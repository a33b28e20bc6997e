"""Checks of the state that a prompt sampler is to continue from."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dps_pyro.history.names import kept_ids
from dps_pyro.selection.state.matching import Matched, for_ids
from dps_pyro.selection.state.tally import Tally
from dps_pyro.support import checks

__all__ = ["Saved", "saved_state"]

logger = logging.getLogger(__name__)


class Saved(NamedTuple):
    """A state that was checked, for the prompts of the sampler that loads it."""

    state: Mapping[str, Any]
    generator: torch.Generator
    tally: Tally
    matched: Matched | None  # how its prompts belong to the sampler's; None if they are the same


def saved_state(
    state: dict[str, Any], names: Iterable[str], ids: Sequence[str] | None, num_prompts: int, *, by_id: bool
) -> Saved:
    """Check a sampler's state before anything of it is taken over.

    Args:
        state: what `PromptSampler.state_dict` returned, or something else that a user took for it.
        names: the entries that it must have.
        ids: the ids of the loading sampler's prompts.
        num_prompts: N, the number of the loading sampler's prompts.
        by_id: whether prompts may be matched by id if they are not the same.

    Raises:
        ValueError: the state belongs to another sampler, or is no state.
    """
    missing = set(names) - checks.instance("state", state, Mapping).keys()
    if missing:
        raise ValueError(f"state: expected a sampler's, got one without {', '.join(sorted(missing))}")
    state = {**state, "ids": kept_ids(state["ids"])}
    totals = Tally().totals
    if totals.keys() != checks.instance("state", state["totals"], Mapping).keys():
        raise ValueError(f"state: expected totals of {', '.join(totals)}, got {', '.join(state['totals'])}")
    matched = None
    if by_id and ids is not None and state["ids"] is not None and state["ids"] != ids:
        state, matched = for_ids(state, ids)
        logger.warning("%s", matched)
    visits = checks.instance("state", state["visits"], Tensor)
    own = int(checks.instance("state", state["tracker"], Mapping).get("num_prompts", len(visits)))
    number = len(visits) or own  # a pooled tracker counts the visits itself
    if number != num_prompts:
        hint = "; add the others first" if number > num_prompts else ""
        raise ValueError(f"state: expected {num_prompts} prompts, got {number}{hint}")
    if state["ids"] != ids:
        raise ValueError("state: expected the same prompt ids in the same order, got others")
    generator = torch.Generator()
    try:
        generator.set_state(state["generator"])
        return Saved(state, generator, Tally.of(state), matched)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ValueError(f"state: expected a generator's state and numbers, got {error}") from error
