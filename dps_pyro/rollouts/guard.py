"""An engine that broke down is not used again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dps_pyro.rollouts.base import EngineError

__all__ = ["Guard", "first_line"]


class Guard:
    """Whether an engine is still to be used: whatever goes wrong in it leaves requests or half the weights behind.

    Attributes:
        broken: what went wrong; None so far.
    """

    def __init__(self) -> None:
        self.broken: BaseException | None = None

    def check(self) -> None:
        """Before each use.

        Raises:
            EngineError: something went wrong before.
        """
        if self.broken is not None:
            raise EngineError(f"vLLM is not to be used any more: {self.broken}") from self.broken

    def close(self) -> None:
        """Not to be used any more, whatever came before."""
        self.broken = self.broken or EngineError("it was closed")

    @contextmanager
    def watch(self, doing: str) -> Iterator[None]:
        """Whatever goes wrong inside is remembered.

        Raises:
            EngineError: in place of any other error but FloatingPointError; what is no error, such as an interrupt,
                passes too.
        """
        try:
            yield
        except BaseException as error:
            self.broken = error
            if isinstance(error, Exception) and not isinstance(error, FloatingPointError):
                raise EngineError(f"vLLM failed while {doing}: {first_line(error)}") from error
            raise


def first_line(error: BaseException) -> str:
    """An error in one line. For the engine's own errors this is only the text."""
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, EngineError) else f"{type(error).__name__}: {text}"
