"""The sampler between verl's dataloader and rewards: rows handed out, dispatched under a uid, observed as groups."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dps_pyro.selection.sampler import PromptSampler
from dps_pyro.storage import atomic_path, load_state, save_state
from dps_pyro.trainers.verl.groups import Count

__all__ = ["Selector"]


class Selector:
    """Hands out rows batch by batch, remembers which rollouts belong to which row, and tells the sampler the results.

    Args:
        sampler: the sampler of the dataset's prompts.
        batch_size: prompts a training step.

    Raises:
        ValueError: there are fewer prompts than that.
    """

    def __init__(self, sampler: PromptSampler, batch_size: int) -> None:
        if batch_size > sampler.num_prompts:
            expected = f"at most {sampler.num_prompts}, the number of prompts in the dataset"
            raise ValueError(f"data.train_batch_size: expected {expected}, got {batch_size}")
        self.sampler = sampler
        self.batch_size = batch_size
        self.origin = 0
        """The policy's updates before the sampler's first step: those of a run that began without it."""
        self._planned: deque[int] = deque()  # selected, not yet handed out
        self._handed: deque[int] = deque()  # handed out, not yet dispatched
        self._in_flight: dict[str, int] = {}  # dispatched: uid -> row, in that order
        self._last: dict[str, float] = {}

    # ------------------------------------------------------------------------------------------- before the rollouts

    def plan(self, prompts: int) -> None:
        """Select so many prompts together, to be handed out next: distinct ones, and none in flight as long as there
        are others.

        Raises:
            ValueError: there are fewer prompts than that.
        """
        count = self.sampler.num_prompts
        if prompts > count:
            raise ValueError(f"data.train_batch_size: expected at most {count} prompts together, got {prompts}")
        away = {*self._in_flight.values(), *self._handed, *self._planned}
        # The best of all, best first: without those in flight they are the best of the others.
        rows = self.sampler.select(min(count, prompts + len(away))).tolist()
        rows.sort(key=away.__contains__)  # stable
        self._planned.extend(rows[:prompts])

    def hand_out(self) -> int:
        """The next row to roll out."""
        if not self._planned:
            self.plan(self.batch_size)
        row = self._planned.popleft()
        self._handed.append(row)
        return row

    def dispatch(self, uids: Sequence[str]) -> None:
        """The rows handed out first are rolled out under these uids.

        Raises:
            ValueError: more uids than rows.
        """
        if len(uids) > len(self._handed):
            raise ValueError(f"uids: expected one for each of {len(self._handed)} rows handed out, got {len(uids)}")
        for uid in uids:
            self._in_flight[str(uid)] = self._handed.popleft()

    def dispatch_as(self, rows: Mapping[str, int]) -> None:
        """The rows handed out were rolled out under these uids, in whatever order: a loop that tells afterwards."""
        place = {row: at for at, row in enumerate(self._handed)}
        self._in_flight |= dict(sorted(rows.items(), key=lambda item: place.get(item[1], len(place))))
        self._handed.clear()

    def abandon(self) -> None:
        """Forget the rows handed out or in flight; one training step passes without news of them."""
        self._handed.clear()
        self._in_flight.clear()
        self.observe({}, self.origin + self.sampler.tracker.step)

    # -------------------------------------------------------------------------------------------- after the rollouts

    def observe(self, groups: Mapping[str, Count], version: int, evicted: Collection[str] = ()) -> None:
        """One training step is over: tell the sampler of its groups.

        Args:
            groups: by uid. Those dispatched before this sampler was there are left out.
            version: how many updates the policy had before the step. A group whose own version is an earlier one is a
                late observation; one without a version counts as of this step.
            evicted: the uids of groups that were rolled out and not trained on.
        """
        unknown = [uid for uid in groups if uid not in self._in_flight]
        by_step: dict[int, dict[int, tuple[int, int, bool]]] = {}
        # In the order of dispatch: that of the groups in the batch is balanced for the GPUs, and differs between runs.
        for uid in [uid for uid in self._in_flight if uid in groups]:
            row = self._in_flight.pop(uid)
            solved, trials, own = groups[uid]
            at = max(min(version if own is None else own, version) - self.origin, 0)
            rows = by_step.setdefault(at, {})
            before = rows.get(row, (0, 0, False))  # the same prompt twice in one step: one larger group
            rows[row] = (before[0] + solved, before[1] + trials, before[2] or uid not in evicted)
        now = version - self.origin
        if now >= self.sampler.tracker.step and now not in by_step:
            self.sampler.observe(torch.zeros(0, dtype=torch.long), [], torch.zeros(0, dtype=torch.long), step=now)
        for step in sorted(by_step):
            right, sizes, taken = zip(*by_step[step].values(), strict=True)
            self.sampler.observe(list(by_step[step]), list(right), list(sizes), step=step, trained=list(taken))
        told = [group for uid, group in groups.items() if uid not in unknown]
        useful = sum(0 < group.solved < group.trials for group in told)
        self._last = {"groups": float(len(told)), "useful": useful / max(len(told), 1), "unknown": float(len(unknown))}

    def keep_in_flight(self, alive: Collection[str]) -> None:
        """Forget the dispatched prompts that will not come back."""
        self._in_flight = {uid: row for uid, row in self._in_flight.items() if uid in alive}

    def metrics(self) -> dict[str, float]:
        """The sampler's numbers after a step, as `dps_pyro/...`; `groups` and `useful` are of all groups of the step,
        whenever they were dispatched, `unknown` counts those dispatched before the sampler was there."""
        numbers = {**self.sampler.metrics(), **self._last, "in_flight": float(len(self._in_flight))}
        return {f"dps_pyro/{name}": value for name, value in numbers.items()}

    # ------------------------------------------------------------------------------------------------------- keeping

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly, nested tensors and plain values."""
        return {
            "sampler": self.sampler.state_dict(),
            "origin": self.origin,
            "planned": list(self._planned),
            "handed": list(self._handed),
            "in_flight": dict(self._in_flight),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: the state is another sampler's, or none.
        """
        missing = [name for name in ("sampler", "origin", "planned", "handed", "in_flight") if name not in state]
        if missing:
            raise ValueError(f"state: expected a verl selector's, got one without {', '.join(missing)}")
        self.sampler.load_state_dict(state["sampler"])
        self.origin = int(state["origin"])
        self._planned, self._handed = deque(state["planned"]), deque(state["handed"])
        self._in_flight = {str(uid): int(row) for uid, row in state["in_flight"].items()}

    def save(self, folder: Path, note: Mapping[str, Any] | None = None) -> None:
        """Write the state, whole or not at all, and the log of all groups as `history.parquet`, for `dps-pyro fit`.

        Args:
            folder: a folder of its own.
            note: plain values to keep with it.
        """
        with atomic_path(folder) as aside:
            aside.mkdir()
            save_state(aside, {**self.state_dict(), "note": dict(note or {})})
            self.sampler.history.to_parquet(aside / "history.parquet")

    def load(self, folder: Path, note: Mapping[str, Any] | None = None) -> bool:
        """Go on from a folder that `save` wrote; False, and nothing done, where its note says otherwise than `note`.

        Raises:
            ValueError: it is damaged, or another sampler's.
        """
        state = load_state(folder)
        if any(state.get("note", {}).get(name) != value for name, value in (note or {}).items()):
            return False
        self.load_state_dict(state)
        return True
