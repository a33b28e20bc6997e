"""The choice of the prompts to roll out next."""

from dps_pyro.selection.acquisition import (
    ACQUISITIONS,
    Acquisition,
    Forecast,
    acquisition_named,
    entropy,
    soft,
    target,
    thompson,
    top,
    uniform,
)
from dps_pyro.selection.batches import PromptBatches
from dps_pyro.selection.sampler import PromptSampler

__all__ = [
    "ACQUISITIONS",
    "Acquisition",
    "Forecast",
    "PromptBatches",
    "PromptSampler",
    "acquisition_named",
    "entropy",
    "soft",
    "target",
    "thompson",
    "top",
    "uniform",
]
