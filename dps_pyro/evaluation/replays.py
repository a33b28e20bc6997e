"""Replay a sampler on a log in which every prompt was rolled out at every step, and show it only what it chose.

A replay says how well a sampler predicts on all prompts, and which groups its batches would have had. It does not say
how well a policy would have learned from them, because the policy of the log was trained on other prompts.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dps_pyro.evaluation.scores import Quality, brier_score, calibration, log_score, quality
from dps_pyro.history.log import RolloutHistory, useful_by_sum
from dps_pyro.selection.sampler import PromptSampler
from dps_pyro.support import checks
from dps_pyro.support.console import progress_bar

__all__ = ["Recovery", "Replay", "Selection", "replay"]

Selection = Literal["own", "recorded", "uniform"]


class Recovery(NamedTuple):
    """The log score around a step at which the prompts' states changed all at once."""

    before: float  # the mean log score of the steps before the shift
    after: float  # of the steps from the shift on
    steps: int | None  # from the shift until the score is back; None: it was not, by the end of the log


@dataclass(frozen=True)
class Replay:
    """The predictions of a sampler at every step of a log, before it saw anything of the step, and the outcomes.

    Attributes:
        chance: float64 [T, N], the predicted chance that the prompt's group is useful.
        useful: bool [T, N], whether it was.
        chosen: bool [T, N], the groups that the sampler saw after its prediction.
        trials: long [T, N], the groups' sizes.
        about: the model, how prompts were selected, and how long it took.
    """

    chance: Tensor
    useful: Tensor
    chosen: Tensor
    trials: Tensor
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def unvisited(self) -> Tensor:
        """bool [T, N], the predictions of prompts that the sampler had never been shown a group of."""
        return (self.chosen.long().cumsum(0) - self.chosen.long()) == 0

    @property
    def log_score(self) -> Tensor:
        """[T], the mean over all prompts of `log p(useful or not)`, chances clamped at 1e-6."""
        return log_score(self.chance, self.useful).mean(1)

    @property
    def brier(self) -> Tensor:
        """[T], the mean over all prompts of the squared distance."""
        return brier_score(self.chance, self.useful).mean(1)

    @property
    def useful_chosen(self) -> Tensor:
        """[T], the share of useful groups among the chosen."""
        return (self.useful & self.chosen).sum(1) / self.chosen.sum(1)

    @property
    def useful_top(self) -> Tensor:
        """[T], the share of useful groups among the B prompts with the highest chances, where B is the number of chosen
        prompts. If several prompts share the B-th chance, it is the expected share for a random choice among them."""
        size = self.chosen.sum(1, keepdim=True)
        least = self.chance.sort(descending=True).values.gather(1, size - 1)
        above, level = self.chance > least, self.chance == least
        share = (self.useful & level).sum(1) / level.sum(1)
        return ((self.useful & above).sum(1) + (size.squeeze(1) - above.sum(1)) * share) / size.squeeze(1)

    def quality(self, where: Tensor | slice | None = None) -> Quality:
        """The scores of all predictions, or of those of some steps (a slice), or of some (bool [T, N])."""
        place = slice(None) if where is None else where
        return quality(self.chance[place], self.useful[place])

    def rollouts_to(self, useful_groups: int) -> int | None:
        """The number of rollouts of chosen prompts, in whole steps, until that many of their groups were useful; None
        if there were never so many."""
        useful = (self.useful & self.chosen).sum(1).cumsum(0)
        enough = (useful >= checks.count("useful_groups", useful_groups, 1)).nonzero()
        spent = (self.trials * self.chosen).sum(1).cumsum(0)
        return int(spent[enough[0, 0]]) if len(enough) else None

    def recovery(self, shift: int, window: int = 10, tolerance: float = 0.02, smooth: int = 5) -> Recovery:
        """The log score around a step at which the distribution shifted.

        Args:
            shift: the first step after the shift, within 1..T-1.
            window: how many steps before and after are compared.
            tolerance: the score is back where its mean over `smooth` steps is at most this below the level before.
            smooth: how many steps.

        Raises:
            ValueError: there is no such step.
        """
        score = self.log_score
        shift = checks.count("shift", shift, 1, len(score) - 1)
        before = float(score[max(0, shift - window) : shift].mean())
        runs = score[shift:].unfold(0, smooth, 1).mean(1) if len(score) - shift >= smooth else score[:0]
        back = (runs >= before - tolerance).nonzero()
        return Recovery(before, float(score[shift : shift + window].mean()), int(back[0, 0]) if len(back) else None)

    def summary(self, first: int = 15, target: int | None = None, shift: int | None = None) -> dict[str, Any]:
        """The replay in numbers.

        Args:
            first: how many steps are early ones.
            target: the number of useful groups for `rollouts_to`. The default is a quarter of the chosen groups.
            shift: the step of a distribution shift, for `recovery`; None: there was none.

        Returns:
            The fields of `Quality` over all predictions, and over those of prompts "unvisited" by then, the "first"
            steps, and each of the three "thirds" of the log; "useful_chosen", "useful_top", "visited" (the share of
            prompts ever shown), "rollouts" spent on the chosen, "target", "rollouts_to_target"; and "recovery".
        """
        first = checks.count("first", first, 1)
        target = max(1, int(self.chosen.sum()) // 4) if target is None else target
        edges = [round(part * len(self.chance) / 3) for part in range(4)]
        parts = itertools.pairwise(edges)
        return {
            **self.quality()._asdict(),
            "unvisited": self.quality(self.unvisited)._asdict(),
            "first": self.quality(slice(first))._asdict(),
            "thirds": [self.quality(slice(*part))._asdict() for part in parts],
            "useful_chosen": float((self.useful & self.chosen).sum() / self.chosen.sum()),
            "useful_top": float(self.useful_top.mean()),
            "visited": float(self.chosen.any(0).double().mean()),
            "rollouts": int((self.trials * self.chosen).sum()),
            "target": target,
            "rollouts_to_target": self.rollouts_to(target),
            "recovery": None if shift is None else self.recovery(shift)._asdict(),
        }

    def to_dict(self, first: int = 15, target: int | None = None, shift: int | None = None) -> dict[str, Any]:
        """What `summary` says, the steps one by one, and the reliability diagrams, as plain values; NaN where there is
        no number."""
        never = self.unvisited
        scores = log_score(self.chance, self.useful)
        steps = {
            "log_score": self.log_score.tolist(),
            "brier": self.brier.tolist(),
            "log_score_unvisited": ((scores * never).sum(1) / never.sum(1)).tolist(),
            "unvisited": never.sum(1).tolist(),
            "useful": self.useful.double().mean(1).tolist(),
            "predicted": self.chance.mean(1).tolist(),
            "useful_chosen": self.useful_chosen.tolist(),
            "useful_top": self.useful_top.tolist(),
        }
        width, count = calibration(self.chance, self.useful), calibration(self.chance, self.useful, 10, "count")
        bins = {name: _lists(found._asdict()) for name, found in (("width", width), ("count", count))}
        return {
            "about": self.about,
            "summary": self.summary(first, target, shift),
            "steps": steps,
            "calibration": bins,
        }


def replay(
    log: RolloutHistory,
    sampler: PromptSampler,
    *,
    selection: Selection = "own",
    batch_size: int = 32,
    seed: int = 0,
    tolerance: float | None = None,
    progress: bool = True,
) -> Replay:
    """Replay a sampler on a full log. At each step it first predicts every prompt's chance of a useful group, and then
    sees the groups of the selected prompts.

    Args:
        log: a log in which every prompt was rolled out at every step: a run's full_log.parquet, or one from `simulate`.
        sampler: a new sampler of the log's prompts. It moves forward to the end of the log.
        selection: "own", the sampler's choice; "recorded", the batches that the log's run was trained on; "uniform",
            random batches, the same for every sampler.
        batch_size: the number of prompts per step, within 1..N. It does not apply to "recorded".
        seed: the random seed of "uniform" selections.
        tolerance: a group is useful where `tolerance < solved < trials - tolerance`, which is all that the sum of
            real-valued rewards can say of them (`useful_by_sum`). If left out, where the log has recorded that it was.
        progress: show a progress bar.

    The sampler is told the policy's progress and the trained prompts as they were in the log, for every `selection`.

    Raises:
        ValueError: a prompt was not rolled out at some step; the sampler is of other prompts, or has observed
            something already; there are no recorded batches; or an argument is out of range.
    """
    solved, trials, trained = _whole(log)
    checks.instance("sampler", sampler, PromptSampler)
    if sampler.num_prompts != log.num_prompts or (sampler.ids and log.ids and sampler.ids != log.ids):
        raise ValueError(
            f"sampler: expected one of the log's {log.num_prompts} prompts, got one of {sampler.num_prompts}"
            f"{' others' if sampler.num_prompts == log.num_prompts else ''}"
        )
    if sampler.tracker.step > 0:
        raise ValueError(f"sampler: expected a new one, got one that has observed {sampler.tracker.step} steps")
    tolerance = None if tolerance is None else checks.positive("tolerance", tolerance, or_zero=True)
    batches = _batches(log, selection, batch_size, seed)
    useful = _useful(log) if tolerance is None else useful_by_sum(solved, trials, tolerance)
    chance = torch.zeros(useful.shape, dtype=torch.float64)
    chosen = torch.zeros_like(useful)
    start = time.perf_counter()
    with progress_bar(log.num_steps, "replaying", progress) as advance:
        for step, batch in enumerate(batches):
            chance[step] = _predicted(sampler, trials[step])
            rows = sampler.select(batch_size) if batch is None else batch
            known = log.recorded(step)
            progress_then = known.pop("progress", None)
            told: dict[str, Any] = {"trained": trained[step, rows], "progress": progress_then, "columns": known}
            sampler.observe(rows, solved[step, rows], trials[step, rows], **told)
            chosen[step, rows] = True
            advance("")
    about = {
        "model": type(sampler.dynamics).__name__,
        "selection": selection,
        "batch_size": None if selection == "recorded" else batch_size,
        "seed": seed,
        "prompts": log.num_prompts,
        "steps": log.num_steps,
        "seconds": round(time.perf_counter() - start, 2),
    }
    return Replay(chance, useful, chosen, trials, about)


def _whole(log: RolloutHistory) -> tuple[Tensor, Tensor, Tensor]:
    """solved [T, N], trials [T, N], trained [T, N]."""
    outcomes = checks.instance("log", log, RolloutHistory).dense()
    if outcomes.solved is None:
        raise ValueError("log: expected outcomes, got a schedule, whose outcomes are unknown")
    missing = (outcomes.trials == 0).nonzero()
    if len(missing) or log.num_steps == 0 or log.num_prompts == 0:
        shape = f"{log.num_prompts:,} prompts x {log.num_steps:,} steps"
        where = "" if not len(missing) else f" (prompt {int(missing[0, 0])} not at step {int(missing[0, 1])})"
        raise ValueError(
            f"log: expected every prompt rolled out at every step, {shape}, "
            f"got {len(log):,} groups, {len(missing):,} missing{where}; "
            "`full_log: true` records one in training, `dps-pyro simulate` draws one"
        )
    return outcomes.solved.mT.contiguous(), outcomes.trials.mT.contiguous(), outcomes.trained.mT.contiguous()


def _useful(log: RolloutHistory) -> Tensor:
    """Bool [T, N]; where groups were added up, whether one of them was."""
    events = log.events
    useful = torch.zeros(log.num_steps, log.num_prompts, dtype=torch.bool)
    useful[events.step[events.useful], events.prompt[events.useful]] = True
    return useful


def _batches(log: RolloutHistory, selection: Selection, batch_size: int, seed: int) -> Iterator[Tensor | None]:
    """The rows to show at each step, or None if the sampler chooses."""
    steps, prompts = log.num_steps, log.num_prompts
    if selection == "recorded":
        events = log.events
        picked = ~events.predicted.isnan()
        counts = torch.bincount(events.step[picked], minlength=steps)
        if int(counts.min()) == 0:
            raise ValueError(
                "log: expected recorded batches (groups with a `predicted` chance) at every step, "
                f"got none at step {int(counts.argmin())}"
            )
        order = events.step[picked].argsort(stable=True)
        return iter(events.prompt[picked][order].split(counts.tolist()))
    batch_size = checks.count("batch_size", batch_size, 1, prompts)
    if selection == "uniform":
        generator = torch.Generator().manual_seed(checks.count("seed", seed, 0))
        return (torch.randperm(prompts, generator=generator)[:batch_size] for _ in range(steps))
    if selection != "own":
        raise ValueError(f"selection: expected 'own', 'recorded' or 'uniform', got {selection!r}")
    return (None for _ in range(steps))


def _predicted(sampler: PromptSampler, trials: Tensor) -> Tensor:
    """float64 [N], each prompt's chance that a group of its size is useful."""
    chance = torch.zeros(len(trials), dtype=torch.float64)
    for size in trials.unique().tolist():
        chance = torch.where(trials == size, sampler.informative(size).double(), chance)
    return chance.clamp(0, 1)  # float32 beliefs may sum to a rounding above 1


def _lists(columns: dict[str, Tensor]) -> dict[str, list[float]]:
    return {name: column.tolist() for name, column in columns.items()}
