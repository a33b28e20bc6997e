"""One step off: the next step's completions are drawn while the policy is updated.

The engine holds the weights before the update meanwhile, so that what is drawn is one update old when it is learned
from. The update weights it accordingly (`--tis-cap`), and the sampler is told which step it belongs to: step v is the
policy after v updates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple

from torch import Tensor

from dps_pyro.rollouts import Rollouts

__all__ = ["Ahead", "Turn"]


class Turn(NamedTuple):
    """A training step's prompts, and the completions that were drawn ahead of it."""

    version: int  # updates that the policy they are drawn from has had
    rows: Tensor  # long [B], the prompts selected
    chance: Tensor  # [N], the chance of a useful group predicted at selection
    drawn: Rollouts | None = None  # None: to be drawn in the step itself
    sizes: Tensor | None = None  # long [B], each prompt's group size; None: all have the run's


class Ahead:
    """One thread that draws, and what it was asked for; a context manager that waits for it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self._turn: Turn | None = None
        self._future: Future[Rollouts] | None = None

    def begin(self, turn: Turn, draw: Callable[[], Rollouts]) -> None:
        """Draw beside what comes next."""
        self._turn, self._future = turn, self._thread.submit(draw)

    def wait(self) -> None:
        """Wait for what was begun. What went wrong there is raised here."""
        if self._future is not None and self._turn is not None:
            future, self._future = self._future, None
            self._turn = self._turn._replace(drawn=future.result())

    def take(self) -> Turn | None:
        """What was drawn ahead; None if nothing was."""
        self.wait()
        turn, self._turn = self._turn, None
        return turn

    def state_dict(self) -> dict[str, Any]:
        """What was drawn ahead, for a resumed run to learn from: by then the policy it was drawn from is gone. What
        images became is not saved: the prompts have them."""
        self.wait()
        if self._turn is None or self._turn.drawn is None:
            return {}
        drawn = {name: value for name, value in self._turn.drawn._asdict().items() if name != "vision"}
        return {**self._turn._asdict(), "drawn": drawn, "pictured": self._turn.drawn.vision is not None}

    def load_state_dict(
        self,
        state: dict[str, Any],
        device: Any,
        pictured: Callable[[Tensor, Tensor | None], Sequence[Mapping[str, Tensor]]],
    ) -> None:
        """Go on from a saved state; nothing where nothing was drawn ahead. `pictured` makes again what the images of
        the prompts at some rows, with groups of some sizes, became, one entry a completion."""
        if state:
            kept: dict[str, Any] = {
                name: x.to(device) if isinstance(x, Tensor) else x for name, x in state["drawn"].items()
            }
            sizes = state.get("sizes")
            vision = tuple(pictured(state["rows"], sizes)) if state.get("pictured") else None
            drawn = Rollouts(**kept, vision=vision)
            self._turn = Turn(int(state["version"]), state["rows"], state["chance"], drawn, sizes)

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
