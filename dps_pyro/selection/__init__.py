"""The choice of the prompts to roll out next."""

from dps_pyro.selection.acquisition import (
    ACQUISITIONS,
    Acquisition,
    Forecast,
    acquisition_named,
    by_variance,
    covering,
    entropy,
    soft,
    target,
    thompson,
    top,
    uniform,
)
from dps_pyro.selection.batches import PromptBatches
from dps_pyro.selection.plan import Plan, second_half
from dps_pyro.selection.rounds import completing
from dps_pyro.selection.sampler import PromptSampler
from dps_pyro.selection.signal import Signal, best_sizes
from dps_pyro.selection.worth import by_progress, by_signal, retiring

__all__ = [
    "ACQUISITIONS",
    "Acquisition",
    "Forecast",
    "Plan",
    "PromptBatches",
    "PromptSampler",
    "Signal",
    "acquisition_named",
    "best_sizes",
    "by_progress",
    "by_signal",
    "by_variance",
    "completing",
    "covering",
    "entropy",
    "retiring",
    "second_half",
    "soft",
    "target",
    "thompson",
    "top",
    "uniform",
]
