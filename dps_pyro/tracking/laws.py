"""A model's laws at given parameters: those that do not change from step to step are computed once, and looked up.

A law is a function of the parameters and of what it reads of the step. Each law is watched when it is computed
(`Step.watched`). If it read nothing but the size of the groups and whether the policy was updated on them, it is the
same in every step with such groups, and is kept. A law that read more, such as the step's number or a prompt's last
visit, is computed anew in every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.dynamics.laws import unchecked
from dps_pyro.dynamics.step import Step

__all__ = ["MOST_NUMBERS", "MOST_TABLES", "Laws", "outcomes"]

MOST_NUMBERS = 1 << 22
"""A law with more numbers than this is not kept."""
MOST_TABLES = 64
"""The number of laws that are kept, and of different kinds of groups in one step that are looked up."""
SIZE = frozenset({"trials", "trained"})


class Laws:
    """The laws of a model at one value of its parameters. What the methods return may be kept: read it only.

    Args:
        dynamics: the model.
        theta: its parameters.
        dtype: the dtype of what the methods return.
    """

    def __init__(self, dynamics: Dynamics[Any], theta: Any, dtype: torch.dtype) -> None:
        self.dynamics, self.theta, self.dtype = dynamics, theta, dtype
        self._kept: dict[tuple[str, int], Tensor | None] = {}
        self._changing: set[str] = set()  # the laws that were seen to read more of a step

    def informative(self, trials: int, coming: Callable[[int], Step]) -> Tensor:
        """[N or 1, K], the chance in each state that a group of `trials` rollouts in the step `coming(trials)` is
        useful."""

        def chance(step: Step) -> Tensor:
            return self.dynamics.informative(self.theta, step)

        return self._law("informative", trials, lambda: coming(trials), SIZE, chance)

    def means(self, coming: Callable[[int], Step]) -> Tensor:
        """[N or 1, K], the mean reward of one rollout in each state.

        Raises:
            NotImplementedError: the model's emission has no mean.
        """

        def mean(step: Step) -> Tensor:
            means: Tensor = self.dynamics.emission(self.theta, step).mean
            return means if means.ndim == 2 else means.unsqueeze(0)

        return self._law("means", 1, lambda: coming(1), SIZE, mean)

    def moves(self, step: Step) -> Tensor:
        """[N or 1, K, K] or [K, K], row-stochastic, the moves in a step."""

        def matrix(step: Step) -> Tensor:
            probs: Tensor = self.dynamics.transition(self.theta, step).probs
            return probs

        return self._law("moves", 0, lambda: step, frozenset(), matrix)

    def shown(self, solved: Tensor, trials: Tensor, trained: Tensor, step: Step) -> Tensor | None:
        """[V, K], `log p(y | z)` of V groups, at least one, in a step: zeros for groups without rollouts.

        None if a table does not say: outcomes follow other laws in other steps, or for other prompts; `solved` has
        fractions; or the groups are too large, or of too many sizes.
        """
        if "outcomes" in self._changing:
            return None
        counts = solved.long()
        code = trials * 2 + trained
        first = int(code[0])
        if not bool(((code == first) & (counts == solved)).all()):
            return self._of_many(counts, code, step) if bool((counts == solved).all()) else None
        table = self._outcomes(first, step)
        return None if table is None else table.index_select(0, counts)

    def _of_many(self, counts: Tensor, code: Tensor, step: Step) -> Tensor | None:
        """The same for groups of several sizes: `code` [V] is twice the size, and one more if they were trained on."""
        codes, which = code.unique(return_inverse=True)
        if len(codes) > MOST_TABLES // 2:
            return None
        tables = [self._outcomes(one, step) for one in codes.tolist()]
        there = [table for table in tables if table is not None]
        if len(there) < len(tables):
            return None
        lengths = torch.tensor([len(table) for table in there])
        return torch.cat(there).index_select(0, (lengths.cumsum(0) - lengths)[which] + counts)

    def _outcomes(self, code: int, step: Step) -> Tensor | None:
        """[trials + 1, K], `log p(0..trials | z)`, if it is the same in every step and for all prompts."""
        key, trials = ("outcomes", code), code >> 1
        if key not in self._kept:
            asked: set[str] = set()
            own = step.replace(trials=torch.tensor([trials]), trained=torch.tensor([bool(code & 1)]))
            law = self.dynamics.emission(self.theta, own.watched(asked))
            shape = law.batch_shape
            small = shape.numel() == shape[-1] and shape[-1] * (trials + 1) <= MOST_NUMBERS
            made = outcomes(law, trials, self.dtype).squeeze(1) if small else None
            if not asked <= SIZE or shape.numel() > shape[-1]:
                self._changing.add("outcomes")
                return None
            self._keep(key, made)
        return self._kept[key]

    def _law(
        self, name: str, trials: int, step: Callable[[], Step], may: frozenset[str], law: Callable[[Step], Tensor]
    ) -> Tensor:
        """A law, kept by its name and the size of the groups if it reads nothing else of the step than it `may`."""
        known = self._kept.get((name, trials))
        if known is not None:
            return known
        if name in self._changing:
            return law(step()).to(self.dtype)
        asked: set[str] = set()
        made = law(step().watched(asked)).to(self.dtype)
        if not asked <= may:
            self._changing.add(name)
        elif made.numel() <= MOST_NUMBERS:
            self._keep((name, trials), made)
        return made

    def _keep(self, key: tuple[str, int], made: Tensor | None) -> None:
        if len(self._kept) >= MOST_TABLES:
            self._kept.clear()
        self._kept[key] = made


def outcomes(law: Any, trials: int, dtype: torch.dtype) -> Tensor:
    """[trials + 1, G or 1, K], the log-probability of 0, 1, ..., `trials` successes under the law of a group of that
    size, of batch [G or 1, K] or [K]; zeros for a group without rollouts."""
    law = unchecked(law)
    if trials == 0:
        return torch.zeros(1, *law.batch_shape, dtype=dtype).reshape(1, -1, law.batch_shape[-1])
    shown = [law.log_prob(torch.tensor([[float(solved)]], dtype=dtype)).to(dtype) for solved in range(trials + 1)]
    return torch.stack(shown).reshape(trials + 1, -1, law.batch_shape[-1])
