"""The kinds of values that settings take, and the base class of a group of settings."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, StrictInt, ValidationError

from dps_pyro.trainers.config.errors import told

__all__ = ["Count", "CountOrNone", "NotNegative", "Number", "Positive", "Section"]


def _no_truth(value: Any) -> Any:
    """Refuse true and false where a number is expected; other values pass unchanged."""
    if isinstance(value, bool):
        raise ValueError(f"expected a finite number, got {value}")
    return value


Number = Annotated[FiniteFloat, BeforeValidator(_no_truth)]
"""A finite number. Strings such as 1e-4 count: YAML reads a number without a point as a string."""
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Count = Annotated[StrictInt, Field(ge=1)]
CountOrNone = Annotated[StrictInt, Field(ge=0)]
"""A whole number of at least 0, where 0 turns something off."""


class Section(BaseModel):
    """A group of settings. Types and bounds are checked when it is made, and unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **arguments: Any) -> None:
        super().__pydantic_init_subclass__(**arguments)
        for item in cls.model_fields.values():  # as one paragraph: `--help` breaks lines where its own width ends
            item.description = " ".join((item.description or "").split())

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ValueError(told(error, settings)) from None
