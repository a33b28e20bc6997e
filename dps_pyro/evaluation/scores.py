"""How good predicted chances are: proper scores and calibration. Pure functions of tensors.

`chance` holds predicted probabilities in [0, 1], and `happened` the outcomes, bool of the same shape.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dps_pyro.support import checks

__all__ = ["Calibration", "Quality", "brier_score", "calibration", "log_score", "quality"]

CLAMP = 1e-6
"""No chance is scored as if it were nearer to 0 or 1 than this: a certainty that fails costs 13.8, not everything."""


class Calibration(NamedTuple):
    """Predictions in bins, beside what happened: a reliability diagram. Only bins that are not empty."""

    predicted: Tensor  # [B], the mean chance predicted in each bin, increasing
    happened: Tensor  # [B], the share of them that happened
    size: Tensor  # long [B], how many predictions

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of the two, weighted by the sizes. NaN of nothing."""
        return float(((self.predicted - self.happened).abs() * self.size).sum() / self.size.sum())


class Quality(NamedTuple):
    """How good some predictions were; NaN of none."""

    size: int
    log_score: float
    """The mean log probability given to what happened (chances clamped at 1e-6 and 1 - 1e-6); 0 is perfect."""
    brier: float
    """The mean squared distance from what happened; 0 is perfect."""
    ece: float
    """Expected calibration error over 15 bins of equal width."""
    ece_deciles: float
    """The same over 10 bins of equal count."""
    predicted: float
    """The mean chance predicted."""
    happened: float
    """The share that happened."""


def log_score(chance: Tensor, happened: Tensor) -> Tensor:
    """[...], `log p(what happened)`, chances clamped to [1e-6, 1 - 1e-6]; in nats, 0 is perfect."""
    chance = chance.double().clamp(CLAMP, 1 - CLAMP)
    return torch.where(happened, chance.log(), torch.log1p(-chance))


def brier_score(chance: Tensor, happened: Tensor) -> Tensor:
    """[...], `(p - happened)^2` (Brier, 1950); 0 is perfect."""
    return (chance.double() - happened.double()).square()


def calibration(
    chance: Tensor, happened: Tensor, bins: int = 15, equal: Literal["width", "count"] = "width"
) -> Calibration:
    """What happened where such chances were predicted.

    Args:
        chance: [...], in [0, 1].
        happened: bool [...].
        bins: their number, at least 1.
        equal: bins of equal width, or (nearly) equal count. Equal chances always share a bin.

    Raises:
        ValueError: the shapes differ, or an argument is out of range.
    """
    bins = checks.count("bins", bins, 1)
    if chance.shape != happened.shape:
        raise ValueError(f"happened: expected shape {tuple(chance.shape)}, got {tuple(happened.shape)}")
    if equal not in ("width", "count"):
        raise ValueError(f"equal: expected 'width' or 'count', got {equal!r}")
    chance, happened = (column.double().flatten().contiguous() for column in (chance, happened))
    if not bool(((chance >= 0) & (chance <= 1)).all()):
        raise ValueError("chance: expected probabilities in [0, 1], got others or NaN")
    if equal == "width":
        place = (chance * bins).long().clamp_max(bins - 1)
    else:
        ranks = (torch.arange(1, bins) * len(chance)) // bins
        edges = chance.sort().values[ranks] if len(chance) else chance
        place = torch.bucketize(chance, edges.unique(), right=True)
    count = torch.bincount(place, minlength=bins)
    kept = count > 0
    predicted, came = (
        torch.bincount(place, column, minlength=bins)[kept] / count[kept] for column in (chance, happened)
    )
    return Calibration(predicted, came, count[kept])


def quality(chance: Tensor, happened: Tensor) -> Quality:
    """All scores of the predictions at once."""
    return Quality(
        chance.numel(),
        float(log_score(chance, happened).mean()),
        float(brier_score(chance, happened).mean()),
        calibration(chance, happened).error,
        calibration(chance, happened, 10, "count").error,
        float(chance.double().mean()),
        float(happened.double().mean()),
    )
