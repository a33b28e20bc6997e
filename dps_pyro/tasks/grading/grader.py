r"""Grading of mathematical answers: at sight where that will do, by math-verify where it takes computer algebra.

math-verify's own time limits are signals, which work in a main thread only and stop no long computation in C. Here it
runs in a few worker processes that can be killed (`grader_pool`), with limits on time and memory, and its verdicts are
kept: of 256 completions of a step most are seen through at sight or were seen before.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache

from dps_pyro.tasks.base import Reward
from dps_pyro.tasks.grading.answers import NoAnswer, final_answer, same_at_sight
from dps_pyro.tasks.grading.grader_pool import Pool, Query

__all__ = ["Grader", "shared_grader"]

_REASONS = {
    "equal": "correct",
    "different": "wrong value",
    "gold not parsed": "differs as text, gold not parsed",
    "not parsed": "differs as text, not parsed",
    "timed out": "differs as text, timed out",
    "out of memory": "differs as text, out of memory",
}


class Grader:
    r"""Judges completions by their final answers.

    Args:
        seconds: processor time for one comparison, > 0. One that hangs without using the processor is killed after
            twice that, and two seconds.
        workers: processes that compare, >= 1; if left out one a processor, at most four. They start when an answer
            first needs computer algebra.
        memory: a worker's memory, in bytes.
        keep: how many verdicts are kept.

    The reasons: ``"correct"`` and ``"wrong value"``; ``"empty"``, ``"no answer"``, ``"unclosed answer"``, ``"unfinished
    thinking"`` and ``"too long"`` (see `answers.final_answer`) where there is nothing to compare; and where math-verify
    could not compare, and the two differ as text, ``"differs as text, <why>"``: ``not parsed``, ``gold not parsed``,
    ``timed out``, ``out of memory`` or ``failed``.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        *,
        seconds: float = 2.0,
        workers: int | None = None,
        memory: int = 1 << 30,
        keep: int = 100_000,
    ) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"expected seconds > 0, got {seconds}")
        workers = min(4, len(os.sched_getaffinity(0))) if workers is None else workers
        for name, value in (("workers", workers), ("memory", memory), ("keep", keep)):
            if value < 1:
                raise ValueError(f"expected {name} >= 1, got {value}")
        self.pool = Pool(workers, seconds, memory)
        self._keep = keep
        self._kept: OrderedDict[Query, str] = OrderedDict()

    def grade(self, gold: str, completion: str) -> Reward:
        r"""Judge one completion: 1.0 where its final answer equals `gold` (LaTeX or plain text, without ``\boxed``).

        Raises:
            RuntimeError: a worker does not start, e.g. since math-verify is missing. No completion makes it raise.
        """
        return self.grade_all([gold], [completion])[0]

    def grade_all(self, golds: Sequence[str], completions: Sequence[str]) -> list[Reward]:
        """Judge many completions at once, the workers side by side.

        Raises:
            ValueError: there are not as many gold answers as completions.
            RuntimeError: a worker does not start.
        """
        found: list[str | Query] = [_at_sight(*pair) for pair in zip(golds, completions, strict=True)]
        open_ones = list(dict.fromkeys(query for query in found if isinstance(query, Query)))
        verdicts = {query: self._kept[query] for query in open_ones if query in self._kept}
        if unknown := [query for query in open_ones if query not in verdicts]:
            verdicts |= zip(unknown, self.pool.run(unknown), strict=True)
            self._remember(verdicts)
        reasons = [_reason(verdicts[query]) if isinstance(query, Query) else query for query in found]
        return [Reward(float(reason == "correct"), reason) for reason in reasons]

    def close(self) -> None:
        """End the workers; they start again when they are needed, and end with this process anyway."""
        self.pool.close()

    def _remember(self, verdicts: dict[Query, str]) -> None:
        """Keep verdicts, but failures, which another try may not meet; of too many the oldest are forgotten."""
        self._kept.update((query, verdict) for query, verdict in verdicts.items() if not verdict.startswith("failed"))
        while len(self._kept) > self._keep:
            self._kept.popitem(last=False)


def _at_sight(gold: str, completion: str) -> str | Query:
    """The reason for a completion's reward, where no computer algebra is needed; else what to ask."""
    try:
        answer = final_answer(completion)
    except NoAnswer as why:
        return why.reason
    same = same_at_sight(gold, answer)
    if same is None:
        return Query(gold, answer)
    return "correct" if same else "wrong value"


def _reason(verdict: str) -> str:
    return _REASONS.get(verdict, "differs as text, failed")


@cache
def shared_grader() -> Grader:
    """The grader that tasks share unless they are given one of their own."""
    return Grader()
