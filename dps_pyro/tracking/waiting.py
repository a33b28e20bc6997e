"""The beliefs about visited prompts, which are brought up to date when somebody looks at them."""

from __future__ import annotations

from torch import Tensor

from dps_pyro.tracking.kinds import Kinds
from dps_pyro.tracking.moves import Moves
from dps_pyro.tracking.recent import Recent
from dps_pyro.tracking.slots import Slots

__all__ = ["Waiting"]

WORK = 1 << 19
"""Numbers that one piece of a pass over all slots may hold, so that it stays in the processor's cache."""


class Waiting:
    """Visited prompts, each with the belief that it had when it began to wait.

    Args:
        slots: the visited prompts.
        moves: the moves of prompts that wait.
    """

    def __init__(self, slots: Slots, moves: Moves) -> None:
        self.slots, self.moves = slots, moves
        self.settled = 0
        """The step for which all slots that were not touched since then have their beliefs."""
        self.touched = Recent()
        """The slots whose prompts were rolled out since all slots were settled."""

    def believed(self, slots: Tensor, kinds: Kinds, step: int) -> Tensor:
        """[V, K], `p(z_t | y_<t)` at step t of the prompts in the slots [V]."""
        kind = kinds.at(self.slots.row[slots].long())
        return self.moves.over(self.slots.belief[slots], kind, self.slots.since[slots].long(), step)

    def resume(self, settled: int, touched: Tensor) -> None:
        """Go on from saved values of `settled` and `touched.slots`."""
        self.settled, self.touched = settled, Recent()
        self.touched.add(touched)

    def settle(self, kinds: Kinds, step: int) -> None:
        """Bring all slots up to date. Only the cost of the next look at many of them changes."""
        if self.settled == step:
            return
        self.up_to_date(self.slots.belief, kinds, step)
        self.slots.since.fill_(step)
        self.settled = step
        self.touched.clear()

    def up_to_date(self, out: Tensor, kinds: Kinds, step: int) -> Tensor:
        """[n, K], the beliefs of all slots before `step`, written to `out`, which may be the slots' own."""
        touched = self.touched.slots
        fresh = self.believed(touched, kinds, step)
        move = self.moves.between(self.settled, step, self.slots.belief)
        each = max(1, WORK // (move.shape[-1] ** (1 if len(move) == 1 else 2)))
        for first in range(0, self.slots.count, each):
            part = self.slots.belief[first : first + each]
            if len(move) == 1:
                ahead = part @ move[0]
            else:
                kind = kinds.at(self.slots.row[first : first + each].long())
                ahead = (part.unsqueeze(-2) @ move[kind]).squeeze(-2)
            out[first : first + each] = ahead.div_(ahead.sum(-1, keepdim=True))
        out[touched] = fresh
        return out
