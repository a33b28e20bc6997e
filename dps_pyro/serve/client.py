"""The client of a sampler that runs in another process: a trainer uses it in place of a `PromptSampler`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from dps_pyro.selection.batches import PromptBatches
from dps_pyro.selection.state.handed_out import Ahead
from dps_pyro.support import checks

__all__ = ["RemoteSampler"]


class RemoteSampler:
    """The five methods of a sampler that `dps-pyro serve` runs, for one of several workers.

    Every request names the worker and its own count of rounds, and is repeated until it is answered. The service makes
    each change only once. A trainer that continues from a checkpoint loads this sampler's state with it. If it selects
    and observes the same things again, it gets the same answers, and nothing changes.

    Args:
        url: the address of the service, such as "http://10.0.0.7:8700".
        key: the key of the service.
        worker: the name of this worker: letters, digits, ".", "_" and "-".
        patience: the time in seconds for which an unanswered request is repeated.

    Raises:
        ConnectionError: the service did not answer for that time.
        ValueError: the service refused a request; the message is that of the service.
    """

    def __init__(self, url: str, key: str, worker: str, *, patience: float = 300.0) -> None:
        self.worker, self.patience = worker, patience
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"url: expected http://host:port, got {url!r}")
        kind = HTTPSConnection if address.scheme == "https" else HTTPConnection
        # The standard library's client takes a fifth of the time of httpx, and the connection stays open.
        self._http = kind(address.hostname, address.port, timeout=60.0)
        self._url, self._path = url, address.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        about = self._ask("GET", "/about", None)
        self.num_prompts = int(about["num_prompts"])
        self.trials = int(about["trials"])
        self.ids: list[str] | None = None
        self.rounds = int(about["rounds"].get(worker, -1)) + 1
        """The number of the next request."""
        self.ahead = Ahead()

    def select(self, batch_size: int) -> Tensor:
        """See `PromptSampler.select`."""
        return torch.tensor(self._change("/select", {"batch_size": int(batch_size)})["rows"], dtype=torch.long)

    def observe(
        self,
        prompts: Tensor | Sequence[int] | Sequence[str],
        solved: Tensor | Sequence[float],
        trials: Tensor | Sequence[int] | int,
        step: int | None = None,
        *,
        trained: Tensor | Sequence[bool] | None = None,
        progress: float | None = None,
        useful: Tensor | Sequence[bool] | None = None,
    ) -> None:
        """See `PromptSampler.observe`. `step` is a step of the service, which all workers share. The default is its
        coming step."""
        plain: dict[str, Any] = {
            "prompts": prompts,
            "solved": solved,
            "trials": trials,
            "trained": trained,
            "useful": useful,
        }
        body = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in plain.items()}
        body = {name: list(value) if isinstance(value, Sequence) else value for name, value in body.items()}
        body["solved"] = [float(count) for count in body["solved"] or []]
        self._change("/observe", {**body, "step": step, "progress": progress})

    def add(self, prompts: int | Sequence[str]) -> None:
        """See `PromptSampler.add`."""
        self._change("/add", {"prompts": prompts if isinstance(prompts, int) else list(prompts)})
        self.num_prompts = int(self._ask("GET", "/about", None)["num_prompts"])

    def retire(self, prompts: Sequence[int] | Sequence[str]) -> None:
        """See `PromptSampler.retire`."""
        self._change("/retire", {"prompts": list(prompts)})

    def informative(self, trials: int, prompts: Sequence[int] | Sequence[str] | None = None) -> Tensor:
        """See `PromptSampler.informative`. Without `prompts`, all prompts have to fit into one request."""
        wanted = list(range(self.num_prompts)) if prompts is None else list(prompts)
        return torch.tensor(self._ask("POST", "/informative", {"trials": trials, "prompts": wanted})["chances"])

    def metrics(self) -> dict[str, float]:
        """See `PromptSampler.metrics`."""
        return dict(self._ask("GET", "/metrics", None))

    def state_dict(self) -> dict[str, Any]:
        """Return the position of this worker. The service keeps beliefs and history."""
        return {"worker": self.worker, "rounds": self.rounds, "ahead": self.ahead.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved position.

        Raises:
            ValueError: the position is that of another worker, or no position.
        """
        if checks.instance("state", state, Mapping).get("worker") != self.worker:
            raise ValueError(f"state: expected worker {self.worker!r}, got {state.get('worker')!r}")
        self.rounds = int(state["rounds"])
        self.ahead.load_state_dict(state["ahead"])

    def as_torch_sampler(self, batch_size: int, repeats: int = 1, num_batches: int | None = None) -> PromptBatches:
        """See `PromptSampler.as_torch_sampler`."""
        return PromptBatches(self, batch_size, repeats, num_batches)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _change(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._ask("POST", path, {"worker": self.worker, "round": self.rounds, **body})
        self.rounds += 1
        return answer

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        until, pause = time.monotonic() + self.patience, 0.05
        while True:
            try:
                self._http.request(method, self._path + path, content, self._headers)
                answer = self._http.getresponse()
                status, text = answer.status, answer.read()
                if status < 500:
                    break
                said = f"status {status}"
            except (HTTPException, OSError) as error:
                self._http.close()  # it is opened again by the next request
                said = f"{type(error).__name__}: {error}"
            if time.monotonic() + pause > until:
                raise ConnectionError(f"{self._url}: expected an answer, got {said}")
            time.sleep(pause)
            pause = min(2 * pause, 5.0)
        found: dict[str, Any] = json.loads(text)
        if status != 200:
            raise ValueError(f"the service refused: {found.get('error', status)}")
        return found
