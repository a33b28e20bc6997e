"""What a filter takes from a step, and what it carries from step to step."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Groups", "State"]

State = dict[str, Tensor]
"""What a filter carries from step to step: tensors whose first dimension runs over the prompts."""


class Groups(NamedTuple):
    """Some prompts' groups in one step."""

    at: Tensor  # long [V], the places of their prompts in the state
    prompts: Tensor  # long [V], the rows of their prompts among all prompts
    solved: Tensor  # [V]
    trials: Tensor  # long [V]; 0 conditions on nothing
    trained: Tensor  # bool [V], whether the policy was updated on the group

    def nothing(self) -> Groups:
        """No groups, in columns of the same kinds."""
        return Groups(*(column[:0] for column in self))
