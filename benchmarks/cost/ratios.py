"""Ratios of two measurements, taken in interleaved pairs."""

from __future__ import annotations

import statistics


def shown(ratio: dict[str, float]) -> str:
    """The median, with the least and the largest ratio."""
    return f"{ratio['median']:.2f} ({ratio['least']:.2f}, {ratio['largest']:.2f})"


def rounded(values: list[float]) -> list[float]:
    """The values with four digits."""
    return [float(f"{value:.4g}") for value in values]


def ratio(one: list[float], other: list[float]) -> dict[str, float]:
    """The median, the least and the largest ratio of pairs of measurements."""
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    found = {"median": statistics.median(ratios), "least": min(ratios), "largest": max(ratios)}
    return {name: round(value, 3) for name, value in found.items()}
