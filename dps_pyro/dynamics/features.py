"""Prompt features as a design matrix: numbers standardised, strings one-hot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dps_pyro.history.log import Features
from dps_pyro.support import checks

__all__ = ["MOST_STRINGS", "Design", "Groups", "design_matrix", "design_of"]

MOST_STRINGS = 1000
"""Different strings that one feature may have; more are hardly labels, and each is a column."""


@dataclass(frozen=True)
class Design:
    """What a regression on prompt features reads, and what it takes to read other prompts' features the same way.

    Attributes:
        matrix: float64 [N, F], one row a prompt; no NaN.
        names: the F columns' names: "length" of numbers, "subject=algebra" of strings, "0", "1", ... of an embedding.
        strings: the features and, of those that are strings, which ones there are, in sorted order; of numbers None.
            Empty for an embedding.
        centre: float64 [F], what was subtracted from a column: its mean.
        factor: float64 [F], what it was then multiplied by: one over the standard deviation of numbers, 1 of strings;
            0 of a column that is the same for all prompts, from which nothing can be learned.

    All zeros is the average prompt, and what is not known of a prompt is taken to be average.
    """

    matrix: Tensor
    names: tuple[str, ...]
    strings: Mapping[str, tuple[str, ...] | None]
    centre: Tensor
    factor: Tensor

    def apply(self, features: Features | Tensor) -> Design:
        """Other prompts' features with the same columns, centres and factors, so that the same weights mean the same.

        Args:
            features: theirs, under the same names (others are left aside), or their embeddings of the same length.

        A string that was not there before has no column: all columns of its feature are 0, the average prompt's.

        Raises:
            ValueError: a feature is missing, or is numbers here and strings there.
        """
        if isinstance(features, Mapping) != bool(self.strings):
            expected = "names and columns" if self.strings else "an embedding"
            raise ValueError(f"features: expected {expected}, as before, got {type(features).__name__}")
        table = _table(features)
        missing = [name for name in self.strings if name not in table]
        if missing:
            came = ", ".join(table)
            raise ValueError(f"features: expected {', '.join(self.strings)}, got {came} without {', '.join(missing)}")
        columns = [_column(name, table[name], known) for name, known in self.strings.items()]
        raw = torch.cat(columns, -1) if self.strings else _embedding(features)
        if raw.shape[-1] != len(self.names):
            raise ValueError(f"features: expected an embedding of length {len(self.names)}, got {raw.shape[-1]}")
        return Design(self._standardised(raw), self.names, self.strings, self.centre, self.factor)

    def plain(self) -> dict[str, Any]:
        """What `apply` needs, as plain values for JSON; `design_of` reads it."""
        strings = {name: None if known is None else list(known) for name, known in self.strings.items()}
        numbers = {"centre": self.centre.tolist(), "factor": self.factor.tolist()}
        return {"kind": "design", "names": list(self.names), "strings": strings, **numbers}

    def _standardised(self, raw: Tensor) -> Tensor:
        return ((raw - self.centre) * self.factor).nan_to_num(nan=0.0)


def design_of(reference: Features | Tensor | Design | Mapping[str, Any]) -> Design:
    """A design: as it is, as `Design.plain` wrote it, or made of prompts' features.

    Raises:
        ValueError: as `design_matrix`, or what was written is damaged.
    """
    if isinstance(reference, Design):
        return reference
    if not isinstance(reference, Mapping) or reference.get("kind") != "design":
        return design_matrix(reference)
    try:
        centre, factor = (torch.tensor(reference[name], dtype=torch.float64) for name in ("centre", "factor"))
        names = tuple(str(name) for name in reference["names"])
        told: Any = reference["strings"]
        strings = {name: None if known is None else tuple(known) for name, known in told.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"reference: expected names, strings, centre and factor of a design, got {error}") from error
    if not len(names) == len(centre) == len(factor):
        raise ValueError(f"reference: expected {len(names)} columns, got {len(centre)} centres, {len(factor)} factors")
    return Design(torch.zeros(0, len(names), dtype=torch.float64), names, strings, centre, factor)


def design_matrix(features: Features | Tensor) -> Design:
    """The design matrix of prompts' features.

    Args:
        features: name -> N numbers or N strings, or an embedding [N, F]. Numbers and embeddings are standardised, a
            column at a time (mean 0, standard deviation 1); a missing number (NaN) is 0 afterwards, as if it were the
            mean. A feature of strings has one column per different string, of zeros and ones, less its mean. A column
            that is the same for all prompts is all zeros.

    Raises:
        ValueError: there are no features or no prompts; a column is neither numbers nor strings, of another length
            than the others, infinite, or of more than 1,000 different strings.
    """
    if not isinstance(features, Mapping):
        raw = _embedding(features)
        return _standardise(raw, tuple(str(column) for column in range(raw.shape[-1])), {}, torch.tensor(True))
    table = _table(features)
    strings: dict[str, tuple[str, ...] | None] = {}
    names: list[str] = []
    numeric: list[bool] = []
    for name, values in table.items():
        labels = sorted({value for value in values if isinstance(value, str)})
        if len(labels) > MOST_STRINGS:
            raise ValueError(
                f"features: expected at most {MOST_STRINGS:,} different strings of {name!r}, got {len(labels):,}"
            )
        strings[name] = tuple(labels) or None
        names += [f"{name}={label}" for label in labels] or [name]
        numeric += [not labels] * max(len(labels), 1)
    raw = torch.cat([_column(name, table[name], known) for name, known in strings.items()], -1)
    return _standardise(raw, tuple(names), strings, torch.tensor(numeric))


def _standardise(
    raw: Tensor, names: tuple[str, ...], strings: Mapping[str, tuple[str, ...] | None], numeric: Tensor
) -> Design:
    known = ~raw.isnan()
    count = known.sum(0).clamp_min(1)
    mean = torch.where(known, raw, 0.0).sum(0) / count
    deviation = (torch.where(known, raw - mean, 0.0).square().sum(0) / count).sqrt()
    inf = float("inf")
    varies = torch.where(known, raw, -inf).amax(0) > torch.where(known, raw, inf).amin(0)
    factor = torch.where(varies & (deviation > 0), torch.where(numeric, 1 / deviation, 1.0), 0.0)
    design = Design(raw, names, strings, mean, factor)
    return Design(design._standardised(raw), names, strings, mean, factor)


def _table(features: Any) -> dict[str, list[float] | list[str]]:
    if not isinstance(features, Mapping):
        return {}
    if not features:
        raise ValueError("features: expected at least one, got none")
    first = next(iter(features.values()))
    if not hasattr(first, "__len__") or len(first) == 0:
        raise ValueError(f"features: expected one value a prompt, got {first!r}")
    return checks.features("features", features, len(first))


def _column(name: str, values: list[float] | list[str], known: tuple[str, ...] | None) -> Tensor:
    """[N, 1] numbers, or [N, L] zeros and ones, NaN of a string that is not known."""
    if isinstance(values[0], str) != (known is not None):
        expected = "numbers" if known is None else "strings"
        raise ValueError(f"features: expected {expected} of {name!r}, as before, got {values[0]!r}")
    if known is not None:
        place = {label: column for column, label in enumerate(known)}
        at = torch.tensor([place.get(str(value), len(known)) for value in values])
        hot = torch.nn.functional.one_hot(at, len(known) + 1)[:, :-1].double()
        return torch.where((at < len(known)).unsqueeze(-1), hot, float("nan"))
    return _finite(name, torch.tensor(values, dtype=torch.float64).unsqueeze(-1))


def _embedding(features: Any) -> Tensor:
    raw = checks.numbers("features", features)
    if raw.ndim != 2 or 0 in raw.shape:
        raise ValueError(f"features: expected an embedding [prompts, length], got shape {tuple(raw.shape)}")
    return _finite("the embedding", raw)


def _finite(name: str, raw: Tensor) -> Tensor:
    if bool(raw.isinf().any()):
        raise ValueError(f"features: expected finite numbers (NaN where missing) in {name!r}, got an infinite one")
    return raw


class Groups:
    """Prompts' groups, such as subjects or levels of difficulty.

    Args:
        groups: a label for each prompt, strings or numbers.
        labels: the groups that there are, in order. The default is those among `groups`, sorted. A prompt of another
            label is of none of them: it stands at the population's centre.
    """

    def __init__(
        self, groups: Sequence[str] | Sequence[int], labels: Sequence[str] | Sequence[int] | None = None
    ) -> None:
        self.labels: tuple[str | int, ...] = tuple(sorted(set(groups)) if labels is None else labels)
        place = {label: at for at, label in enumerate(self.labels)}
        self._place = torch.tensor([place.get(label, len(place)) for label in groups], dtype=torch.long)

    def of(self, rows: Tensor, num_prompts: int) -> Tensor:
        """Long [V], the places among `labels` of the groups of prompts `rows` [V], of `num_prompts`; one past the last
        of a prompt of none of them.

        Raises:
            ValueError: there are more prompts than were given labels.
        """
        if num_prompts > len(self._place):
            raise ValueError(f"groups: expected a label for each of {num_prompts} prompts, got {len(self._place)}")
        return self._place[rows]
