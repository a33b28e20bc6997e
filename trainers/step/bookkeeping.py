"""What the loop counts: seeds, seconds, rollouts spent and saved, means over optimizer steps."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dps_pyro.lm.losses import informative_groups
from dps_pyro.support.text import clean

__all__ = ["Clock", "Drift", "DrySpell", "Ledger", "Means", "Reasons"]


class Clock:
    """Wall-clock seconds of a step's parts: `with clock("rollout"): ...` adds to `seconds["seconds/rollout"]`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Time a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            name = f"seconds/{part}"
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def share(self, *parts: str) -> float:
        """The share of the seconds so far that went into these parts, 0..1; 0 where nothing was timed."""
        known = (self.seconds.get(f"seconds/{part}", 0.0) for part in parts)
        return sum(known) / max(sum(self.seconds.values()), 1e-9)


class Means:
    """Sums of micro-batches' shares, averaged over optimizer steps."""

    def __init__(self, *names: str) -> None:
        self._sums: dict[str, float | Tensor] = dict.fromkeys(names, 0.0)
        self._steps = 0

    def add(self, shares: Mapping[str, float | Tensor]) -> None:
        """Add a micro-batch's shares. Tensors stay where they are: reading one would wait for the GPU."""
        for name, value in shares.items():
            self._sums[name] += value

    def close(self) -> None:
        """End an optimizer step."""
        self._steps += 1

    def values(self) -> dict[str, float | None]:
        """The means; None if there was no optimizer step."""
        return {name: float(total) / self._steps if self._steps else None for name, total in self._sums.items()}


class Ledger:
    """Steps done, rollouts spent, and an estimate of the rollouts saved.

    Dynamic sampling draws prompts uniformly until enough groups are useful: to find u useful groups where a share p of
    the prompts is useful it rolls out u / p groups. The estimate of what the same useful groups would have cost it is
    `sum over steps of useful groups / p * group size`, with p the tracker's predicted share over all prompts at that
    step; `saved` is that minus the rollouts spent. A group is useful where its rewards differ by more than `tolerance`.
    """

    def __init__(self, group_size: int, tolerance: float = 0.0) -> None:
        self.group_size, self.tolerance = group_size, tolerance
        self.step = 0
        self.rollouts = 0
        self.accuracy = 0.0
        """Held out, at the last evaluation."""
        self._elsewhere = 0.0
        self._last: dict[str, float] = {}

    def book(self, rewards: Tensor, pool: float, skipped: int = 0) -> None:
        """Book one step's groups: `rewards` [G, n], NaN where a group is smaller, `pool` the predicted useful share
        over all prompts, `skipped` the rollouts whose groups could not be judged: they were paid for, too."""
        there = ~rewards.isnan()
        useful = informative_groups(rewards, self.tolerance, there)
        self.step += 1
        self.rollouts += int(there.sum()) + skipped
        self._elsewhere += int(useful.sum()) * self.group_size / max(pool, 1e-3)
        self._last = {"reward": float(rewards.nanmean()), "useful": float(useful.double().mean())}

    def metrics(self) -> dict[str, float]:
        """reward and useful of the last step; rollouts and saved so far."""
        return {"rollouts": self.rollouts, **self._last, "saved": self._elsewhere - self.rollouts}

    def state_dict(self) -> dict[str, float]:
        """What a resumed run goes on from."""
        counts = {"step": self.step, "rollouts": self.rollouts, "elsewhere": self._elsewhere}
        return {**counts, "accuracy": self.accuracy}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from a saved ledger."""
        self.step, self.rollouts = int(state["step"]), int(state["rollouts"])
        self._elsewhere, self.accuracy = state["elsewhere"], state["accuracy"]


class Reasons:
    """The shares of the reasons that rewards give, as metrics, at most `MOST` of them in a run.

    A reward may put anything into its reason, for instance the value that it found. Numbers are therefore left out of
    a metric's name, and the reasons that a run meets after the first `MOST` are counted together as `reason/other`.

    Args:
        metrics: the lines of a run that is continued: their reasons are the first.
    """

    MOST = 24
    """Metrics of reasons in one run, beside `reason/other`."""

    def __init__(self, metrics: Iterable[Mapping[str, Any]] = ()) -> None:
        names = (name for line in metrics for name in line if name.startswith("reason/"))
        self._known: dict[str, None] = dict.fromkeys(name for name in names if name != OTHER)

    def shares(self, reasons: Sequence[str]) -> dict[str, float]:
        """The share of the rewards that had each reason: ["wrong value", "correct"] -> {"reason/correct": 0.5,
        "reason/wrong_value": 0.5}."""
        counts = Counter(map(_metric, reasons))
        for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
            if len(self._known) < self.MOST and name != OTHER:
                self._known.setdefault(name)
        shares: dict[str, float] = {}
        for name, number in sorted(counts.items()):
            shown = name if name in self._known else OTHER
            shares[shown] = shares.get(shown, 0.0) + number / len(reasons)
        return dict(sorted(shares.items()))


OTHER = "reason/other"
"""The metric of the reasons that have none of their own."""


def _metric(reason: str) -> str:
    """The name of a reason's metric: letters, without the numbers, of a bounded length."""
    words = re.sub(r"[^\w./%-]+", "_", re.sub(r"[0-9][0-9.,e+-]*", "#", clean(reason)[:200]).replace("#", "N"))
    return f"reason/{words.strip('_')[:60] or 'none'}"


class DrySpell:
    """Notices when nothing is learned: `patience` steps in a row without a useful group."""

    def __init__(self, patience: int = 10) -> None:
        self.patience = patience
        self._dry: list[Mapping[str, Any]] = []
        self._said = False

    def warning(self, line: Mapping[str, Any]) -> str | None:
        """What to look at, after a step's line of metrics; once, and None otherwise."""
        self._dry = [] if line["useful"] > 0 else [*self._dry, line]
        if self._said or len(self._dry) < self.patience:
            return None
        self._said = True
        totals: Counter[str] = Counter()
        for dry in self._dry:
            totals.update({name: share for name, share in dry.items() if name.startswith("reason/")})
        shares = {name.partition("/")[2].replace("_", " "): total / len(self._dry) for name, total in totals.items()}
        reasons = ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda pair: -pair[1]))
        cut = sum(dry["truncated"] for dry in self._dry) / len(self._dry)
        return (
            f"Nothing to learn from: in the last {len(self._dry)} steps no group was useful, the rollouts of a prompt "
            f"all earned the same. Why they earned what they did: {reasons}; {cut:.0%} of the completions were cut off "
            "at --max-new-tokens. Look at that length and at the prompts' format where answers cannot be parsed; at "
            "easier problems (task_args), a larger --group-size or another --model where they are wrong; at harder "
            "problems where they are correct."
        )


class Drift:
    """Notices when engine and policy drift apart: `patience` steps in a row with a KL above `limit` nats per token."""

    def __init__(self, limit: float = 0.05, patience: int = 3) -> None:
        self.limit, self.patience = limit, patience
        self._above: list[float] = []
        self._said = False

    def warning(self, line: Mapping[str, Any]) -> str | None:
        """What to look at, after a step's line of metrics; once, and None otherwise."""
        kl = line.get("engine_kl")
        if kl is None:  # nothing was learned in this step, or the engine is the policy
            return None
        self._above = [*self._above, kl] if kl > self.limit else []
        if self._said or len(self._above) < self.patience:
            return None
        self._said = True
        return (
            f"The engine and the policy drift apart: the KL between them was {sum(self._above) / len(self._above):.2g} "
            f"nats per token over the last {len(self._above)} steps (more than {self.limit:g}). What is learned is "
            "weighted accordingly, up to --tis-cap. Look at --engine-dtype (float32 is the policy's own), a lower "
            "--learning-rate, and --async-rollouts, where it measures how far one update moves the policy."
        )
