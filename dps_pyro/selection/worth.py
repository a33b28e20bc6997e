"""What else a choice can go by than the chance of a useful group: signal, progress, mastery.

Each function here takes an acquisition that ranks by `Forecast.informative`, a number in 0..1 for each prompt, and
gives one that ranks by something else in its place: `by_signal(thompson)`, `by_progress(soft(4.0))`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dps_pyro.selection.acquisition import Acquisition, Forecast, tracker_of
from dps_pyro.selection.signal import Signal
from dps_pyro.support import checks
from dps_pyro.tracking.tracker import Tracker

__all__ = ["by_progress", "by_signal", "retiring"]


def by_signal(acquire: Acquisition, signal: Signal = Signal()) -> Acquisition:  # noqa: B008 - it is frozen
    """Rank prompts by the expected signal of their groups, such as the expected squared advantage of the loss in use.

    It is divided by that of the best group there can be, so that it lies in 0..1. With `thompson` a prompt is accepted
    with that as its chance, with `soft` the weights are powers of it, with `top` the largest are taken. For grpo and
    dapo it is the chance of a useful group, times a constant: nothing changes. For dr_grpo and rloo it is proportional
    to E[p (1 - p)], which prefers even odds more; over the belief's own baseline groups of one have it, too.
    """

    def chosen(forecast: Forecast, generator: torch.Generator) -> Tensor:
        worth = signal.expected(tracker_of(forecast).rates(), forecast.trials) / signal.most(forecast.trials)
        return acquire(forecast._replace(informative=worth.clamp(0, 1)), generator)

    return chosen


def by_progress(acquire: Acquisition) -> Acquisition:
    """Rank prompts by their expected learning progress: how much the chance of solving them is expected to rise if they
    are rolled out and trained on, against if they are left alone, as the dynamics have it (`Tracker.progress`).

    It needs a model whose transitions depend on training (`Trained`), fitted: a model whose transitions do not depend
    on it expects no progress from training, and every prompt ties.

    Raises:
        ValueError: when it is used with a tracker that has no dynamics.
    """

    def chosen(forecast: Forecast, generator: torch.Generator) -> Tensor:
        tracker = tracker_of(forecast)
        if not isinstance(tracker, Tracker):
            raise ValueError(f"by_progress: expected a model with dynamics, got {type(tracker).__name__}")
        gain = tracker.progress(forecast.trials).double().clamp(0, 1)
        return acquire(forecast._replace(informative=gain), generator)

    return chosen


def retiring(acquire: Acquisition, mastered: float) -> Acquisition:
    """Leave out the prompts that are mastered: those that have been rolled out, with a chance above `mastered`, in
    (0, 1), that a whole group of the planned size is right. A prompt that was never rolled out is not mastered, however
    sure the prior is of it.

    They are re-admitted by belief: while a prompt rests its belief moves on, as the dynamics have it, and it is back as
    soon as that chance has fallen below. (A model that believes that nothing is forgotten keeps it out for ever.) Where
    fewer prompts than a batch are left, the mastered ones follow in the order of their chances, the least sure first.

    Raises:
        ValueError: `mastered` is not in (0, 1).
    """
    if not 0 < checks.positive("retire", mastered) < 1:
        raise ValueError(f"retire: expected a chance in (0, 1), got {mastered}")

    def chosen(forecast: Forecast, generator: torch.Generator) -> Tensor:
        scores = acquire(forecast, generator).double()
        sure = tracker_of(forecast).rates().sequence(forecast.trials, 0)
        return torch.where((sure > mastered) & (forecast.visits > 0), scores.min() - 1 - sure, scores)

    return chosen
