"""Online empirical Bayes: a sampler fits its model to its own history as it goes, here or in a process beside it."""

from __future__ import annotations

import os
import pickle
import sys
import weakref
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

import torch

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.history.log import RolloutHistory
from dps_pyro.inference.methods import SVI
from dps_pyro.inference.posterior import Posterior
from dps_pyro.support.child import Child
from dps_pyro.support.devices import on_device

__all__ = ["Refit", "Refitter", "Worker"]


@dataclass(frozen=True)
class Refit:
    """How a sampler refits.

    Attributes:
        first: SVI steps of the first fit, which starts at the model's prior.
        steps: SVI steps of the later ones, which start where the last one ended.
        learning_rate: of both.
        widen: where the sampler was given a fitted posterior, that is the prior of its refits, its standard deviations
            multiplied by this factor (`Dynamics.primed`).
        seconds: a bound on the time of each, beside that on its steps. A fit that it cuts short depends on the
            machine's speed: a resumed run is then not exactly the uninterrupted one.
        background: whether it runs in a process beside this one, during the next rollouts, and is used from the next
            `observe` on, whenever it ends; otherwise within `observe`.
    """

    first: int = 300
    steps: int = 100
    learning_rate: float = 0.05
    widen: float = 1.5
    seconds: float | None = None
    background: bool = False


class Refitter:
    """Fits a model time and again, each time from where the last fit ended.

    The same history, settings and last posterior give the same next one, in the background or not.

    Args:
        dynamics: the model.
        settings: how.
        prior: what earlier runs taught: the prior of every refit, and where the first starts. None for the model's own.
        device: where fits compute; None for the CPU.
    """

    def __init__(
        self,
        dynamics: Dynamics[Any],
        settings: Refit,
        prior: Posterior | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.device = device
        self.dynamics = dynamics if prior is None else dynamics.primed(prior, settings.widen)
        self.settings, self.prior = settings, prior
        self.posterior: Posterior | None = None
        """The last fit's."""
        self.count = 0
        """How many fits there have been."""
        self.failed = 0
        """How many of them broke down: the posterior before them was kept."""
        self._pending: Future[Posterior | None] | None = None
        self._job: dict[str, Any] = {}
        self._worker: Worker | None = None

    def begin(self, history: RolloutHistory) -> None:
        """Fit to a history of at least one group; `collect` has the result."""
        self._job = self._next(history)
        if not self.settings.background:
            self._pending = Future()
            self._pending.set_result(_fit(self._job))
            return
        if self._worker is None:
            self._worker = Worker()
        self._pending = self._worker.submit(self._job)

    def collect(self) -> Posterior | None:
        """The posterior of the fit that was begun last, once; waits for it where it is still under way. None where
        there is nothing new."""
        if self._pending is None:
            return None
        found, self._pending = self._result(), None
        self.count += 1
        if found is None:
            self.failed += 1
            return None
        self.posterior = found
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on. A fit that is under way is waited for."""
        pending = None if self._pending is None else self._result()
        return {
            "count": self.count,
            "failed": self.failed,
            "posterior": _saved(self.posterior),
            "begun": self._pending is not None,
            "pending": _saved(pending),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.count, self.failed = int(state["count"]), int(state["failed"])
        self.posterior = _loaded(state["posterior"])
        self._pending = None
        if state["begun"]:
            self._pending = Future()
            self._pending.set_result(_loaded(state["pending"]))

    def _result(self) -> Posterior | None:
        assert self._pending is not None
        try:
            return self._pending.result()
        except EOFError:  # The child is gone, killed for its memory perhaps. Here it takes as long and ends the same.
            self._worker, self._pending = None, Future()
            self._pending.set_result(_fit(self._job))
            return self._pending.result()

    def _next(self, history: RolloutHistory) -> dict[str, Any]:
        settings, warm = self.settings, self.posterior is not None
        method = SVI(
            guide="normal",  # The filter uses only the point; correlations in the guide hardly change it.
            steps=settings.steps if warm else settings.first,
            learning_rate=settings.learning_rate,
            seconds=settings.seconds,
            start=self.posterior if warm else self.prior,
            draws=32,
        )
        options = {"method": method, "seed": self.count, "progress": False, "device": self.device}
        return {"dynamics": self.dynamics, "history": history, "options": options}


def _fit(job: dict[str, Any]) -> Any:
    """The posterior of a fit, or None where the numbers broke down; or a chain of NUTS."""
    from dps_pyro.inference.fitting import fit
    from dps_pyro.inference.nuts import run_chain

    if "chain" in job:
        with on_device(job["device"]):
            return run_chain(*job["chain"])
    try:
        return fit(job["dynamics"], job["history"], **job["options"])
    except FloatingPointError:
        return None


def _saved(posterior: Posterior | None) -> dict[str, Any]:
    if posterior is None:
        return {}
    own = list(posterior.about.get("per_prompt", []))
    return {"draws": dict(posterior.draws), "point": dict(posterior.point), "per_prompt": own}


def _loaded(state: Mapping[str, Any]) -> Posterior | None:
    if not state:
        return None
    about = {"per_prompt": list(state["per_prompt"])}
    return Posterior(dict(state["draws"]), dict(state["point"]), torch.zeros(0), True, about)


# ------------------------------------------------------------------------------------------ the process beside this one


class Worker:
    """A child process that fits, one job at a time; it ends with this process."""

    def __init__(self) -> None:
        self._process = Child(
            *("-m", "dps_pyro.inference.refit_worker", str(os.getpid())),
            keeps_complaints=False,
            environment={"OMP_NUM_THREADS": "1"},  # the machine is busy with rollouts
        )
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="refit")
        weakref.finalize(self, _stop, self._process, self._threads)

    def submit(self, job: dict[str, Any]) -> Future[Any]:
        """Have the child do a job, after those before."""
        # The thread moves bytes and nothing else: Pyro's state is the process's, not the thread's.
        files = {
            name: module.__file__
            for name, module in list(sys.modules.items())
            if name.startswith("_dynamics_of_") and getattr(module, "__file__", None)
        }
        content = pickle.dumps((files, pickle.dumps({**job, "dtype": torch.get_default_dtype()})))
        return self._threads.submit(_exchange, self._process, content)


def _exchange(process: Child, content: bytes) -> Any:
    try:
        process.send(framed(content))
        answer = read(process.output)
    except OSError as error:
        raise EOFError("the child is gone") from error
    found = pickle.loads(answer)  # noqa: S301 - our own child's
    if isinstance(found, str):
        raise RuntimeError(f"the refit in the background failed:\n{found}")
    return found


def _stop(process: Child, threads: ThreadPoolExecutor) -> None:
    process.kill()
    process.wait()
    threads.shutdown(wait=True)  # its thread has seen the end of the process
    process.close()


def framed(content: bytes) -> bytes:
    """Bytes as `read` reads them: their number first, in eight bytes."""
    return len(content).to_bytes(8, "big") + content


def read(stream: IO[bytes]) -> bytes:
    """Read one framed content from a pipe.

    Raises:
        EOFError: The other side is gone.
    """
    return _exactly(stream, int.from_bytes(_exactly(stream, 8), "big"))


def _exactly(stream: IO[bytes], size: int) -> bytes:
    """Read so many bytes; an unbuffered pipe may give a part at a time."""
    parts: list[bytes] = []
    while size > 0:
        parts.append(stream.read(min(size, 1 << 20)))
        if not parts[-1]:
            raise EOFError("the other side is gone")
        size -= len(parts[-1])
    return b"".join(parts)
