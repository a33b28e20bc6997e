r"""Grading of mathematical answers, by what is seen at sight and by computer algebra.

All that reads a completion or a gold answer runs in a few worker processes that can be killed (`grader_pool`), with
limits on processor time and memory. The main process sees verdicts only, and keeps them: of 256 completions of a step
most are decided at sight or were decided before.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Literal

from dps_pyro.tasks.base import Reward
from dps_pyro.tasks.grading.grader_pool import Pool, Query, Reply

__all__ = ["NOT_COMPARED", "Grader", "shared_grader"]

NOT_COMPARED = "not compared, "
"""The beginning of the reasons for which an answer was there and no comparison was possible."""

_REASONS = {"equal": "correct", "different": "wrong value"}
_NO_COMPARISON = ("gold not parsed", "not parsed", "timed out", "out of memory")
_SHORT = 0.1
"""The processor time, in seconds, for each comparison of a batch that is too large to give each its full time."""


class Grader:
    r"""Judges completions by their final answers.

    Args:
        seconds: The processor time for one comparison, > 0. A worker that uses no processor and does not answer is
            killed after twice that, and two seconds.
        batch_seconds: The processor time that comparisons which run out of `seconds` may take together, > 0, in one
            call of `grade_all`. If there are more comparisons than that allows in the worst case, each gets a tenth of
            a second first. Then those that are left get their full time until the budget is spent.
        workers: The number of processes that compare, >= 1. The default is one per processor, at most four.
        memory: The memory of a worker, in bytes.
        keep: The number of verdicts that are kept, >= 1. A time-out or a failure is no verdict and is never kept.

    The reasons are ``"correct"`` and ``"wrong value"``; ``"empty"``, ``"no answer"``, ``"unclosed answer"``,
    ``"unfinished thinking"`` and ``"too long"`` (see `answers.final_answer`) where there is nothing to compare;
    ``"not a number"`` where only a plain number will do; and ``"not compared, <why>"`` where an answer could not be
    compared: ``not parsed``, ``gold not parsed``, ``timed out``, ``out of memory`` or ``failed``.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        *,
        seconds: float = 2.0,
        batch_seconds: float = 20.0,
        workers: int | None = None,
        memory: int = 1 << 30,
        keep: int = 100_000,
    ) -> None:
        for name, value in (("seconds", seconds), ("batch_seconds", batch_seconds)):
            if not 0 < value < math.inf:
                raise ValueError(f"expected {name} > 0, got {value}")
        workers = min(4, len(os.sched_getaffinity(0))) if workers is None else workers
        for name, whole in (("workers", workers), ("memory", memory), ("keep", keep)):
            if whole < 1:
                raise ValueError(f"expected {name} >= 1, got {whole}")
        self.pool = Pool(workers, seconds, memory)
        self.batch_seconds = batch_seconds
        self._keep = keep
        self._kept: OrderedDict[Query, str] = OrderedDict()

    def grade(self, gold: str, completion: str, *, tolerance: float = 0.0, number: bool = False) -> Reward:
        r"""Judge one completion, as `grade_all` does.

        Raises:
            RuntimeError: A worker does not start, for instance since math-verify is missing. No completion and no gold
                answer makes it raise.
        """
        return self.grade_all([gold], [completion], tolerance=tolerance, number=number)[0]

    def grade_all(
        self, golds: Sequence[str], completions: Sequence[str], *, tolerance: float = 0.0, number: bool = False
    ) -> list[Reward]:
        r"""Judge many completions at once, the workers side by side.

        Args:
            golds: The gold answer of each completion, LaTeX or plain text, without ``\boxed``.
            completions: What is judged: 1.0 where the final answer equals the gold answer, else 0.0.
            tolerance: The relative error that a number may have, >= 0.
            number: Whether only a plain number is right (or ``x =`` and a number), so that an expression which is
                worth the gold answer earns nothing.

        Raises:
            ValueError: There are not as many gold answers as completions, or the tolerance is out of its range.
            RuntimeError: A worker does not start.
        """
        if not 0 <= tolerance < 1:
            raise ValueError(f"expected a tolerance in [0, 1), got {tolerance}")
        kind: Literal["number", "read"] = "number" if number else "read"
        asked = [Query(kind, *pair) for pair in zip(golds, completions, strict=True)]
        read = dict(zip(distinct := list(dict.fromkeys(asked)), self.pool.run(distinct), strict=True))
        verdicts: list[str | Query] = [_query(query, read[query], tolerance) for query in asked]
        compared = self._compared(dict.fromkeys(one for one in verdicts if isinstance(one, Query)))
        reasons = [_reason(compared[one] if isinstance(one, Query) else one) for one in verdicts]
        return [Reward(float(reason == "correct"), reason) for reason in reasons]

    def close(self) -> None:
        """End the workers; they start again when they are needed, and end with this process anyway."""
        self.pool.close()

    def _compared(self, queries: Iterable[Query]) -> dict[Query, str]:
        """The verdict on each query: one that is kept, or a new one within the budget."""
        queries = list(queries)
        found = {query: self._kept[query] for query in queries if query in self._kept}
        left = [query for query in queries if query not in found]
        if len(left) * self.pool.seconds > self.batch_seconds:
            quick = self.pool.run(left, min(_SHORT, self.pool.seconds))
            found |= {query: reply.verdict for query, reply in zip(left, quick, strict=True)}
            left = [query for query in left if found[query] == "timed out"]
        spent = 0.0
        while left and spent < self.batch_seconds:
            some = max(int(min(len(left), (self.batch_seconds - spent) / self.pool.seconds)), 1)
            replies = self.pool.run(left[:some])
            found |= {query: reply.verdict for query, reply in zip(left[:some], replies, strict=True)}
            spent += sum(reply.seconds for reply in replies)
            left = left[some:]
        self._remember(found)
        return found

    def _remember(self, found: dict[Query, str]) -> None:
        """Keep verdicts, without those that another try may not meet; of too many the oldest are forgotten."""
        lasting = ("equal", "different", "gold not parsed", "not parsed")
        self._kept.update((query, verdict) for query, verdict in found.items() if verdict in lasting)
        while len(self._kept) > self._keep:
            self._kept.popitem(last=False)


def _query(asked: Query, reply: Reply, tolerance: float) -> str | Query:
    """What is to be compared, or the verdict where nothing is."""
    decided = reply.verdict != "answer" and not (reply.verdict == "different" and tolerance and asked.kind == "read")
    return reply.verdict if decided else Query("compare", asked.gold, reply.answer, tolerance)


def _reason(verdict: str) -> str:
    if verdict.startswith("failed"):
        return f"{NOT_COMPARED}failed"
    return NOT_COMPARED + verdict if verdict in _NO_COMPARISON else _REASONS.get(verdict, verdict)


@cache
def shared_grader() -> Grader:
    """The grader that tasks share unless they are given one of their own."""
    return Grader()
