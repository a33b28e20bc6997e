"""Which prompts to roll out next: five verbs, the same for every training loop.

The three lines of a training script::

    sampler = PromptSampler(SolvingProgress(), num_prompts=len(dataset), seed=0)
    rows = sampler.select(batch_size)                       # before the rollouts
    sampler.observe(rows, solved, trials)                   # after them
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dps_pyro.acquisition import ACQUISITIONS, Acquisition, Forecast
from dps_pyro.dynamics import Dynamics
from dps_pyro.history import RolloutHistory

if TYPE_CHECKING:
    from dps_pyro.fit import Posterior

__all__ = ["PromptSampler"]


class PromptSampler:
    """Tracks every prompt's solving progress and selects the prompts to roll out.

    Args:
        dynamics: the model of solving progress.
        num_prompts: their number, or a list of their stable ids (distinct strings), in row order.
        acquisition: how beliefs become a batch: "thompson" (the default: dynamic sampling's batches without its
            rollouts), "top" (the paper's), "entropy", "uniform", or a function of one's own.
        trials: the group size planned: `select` ranks prompts by the chance that a group of this size is useful.
        posterior: a fitted prior; the model's own prior means if left out.
        seed: of the selections. The same seed and the same rewards give the same selections.
        dtype: of the beliefs; torch's default if left out.

    One `observe` is one training step: the prompts that were not rolled out move on, too.
    """

    def __init__(
        self,
        dynamics: Dynamics[Any],
        num_prompts: int | Sequence[str],
        *,
        acquisition: str | Acquisition = "thompson",
        trials: int = 8,
        posterior: Posterior | None = None,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.ids = _checked_ids(num_prompts)
        self.num_prompts = _count("num_prompts", num_prompts if self.ids is None else len(self.ids), 1)
        self.trials = _count("trials", trials, 1)
        if isinstance(acquisition, str) and acquisition not in ACQUISITIONS:
            names = ", ".join(ACQUISITIONS)
            raise ValueError(f"acquisition: expected one of {names}, or a function, got {acquisition!r}")
        self.dynamics = dynamics
        self._row: dict[Any, int] = {name: row for row, name in enumerate(self.ids or [])}
        self._acquire = ACQUISITIONS[acquisition] if isinstance(acquisition, str) else acquisition
        values = None if posterior is None else posterior.point
        self.tracker = dynamics.tracker(self.num_prompts, values=values, dtype=dtype)
        self.tracker.history.ids = self.ids
        self._generator = torch.Generator().manual_seed(seed)
        self._visits = torch.zeros(self.num_prompts, dtype=torch.long)
        self._predicted: dict[int, float] = {}
        self._totals = {"rollouts": 0.0, "groups": 0.0, "useful": 0.0, "log_evidence": 0.0}
        self._last: dict[str, float] = {}

    # ------------------------------------------------------------------------------------------------- the verbs

    def select(self, batch_size: int) -> Tensor:
        """Choose the coming step's prompts: long [batch_size], distinct rows (`sampler.ids[row]` names them).

        Raises:
            ValueError: `batch_size` is not within 1..num_prompts, or a custom acquisition did not return a score for
                each prompt.
        """
        batch_size = _count("batch_size", batch_size, 1, self.num_prompts)
        chance = self.informative(self.trials)
        scores = self._acquire(Forecast(self.belief, chance, self._visits), self._generator)
        if scores.shape != chance.shape or bool(scores.isnan().any()):
            raise ValueError(f"acquisition: expected {self.num_prompts} scores, got {scores}")
        rows = scores.topk(batch_size).indices
        self._predicted = dict(zip(rows.tolist(), chance[rows].tolist(), strict=True))
        self._last["informative/selected"] = float(chance[rows].mean())
        self._last["informative/pool"] = float(chance.mean())
        return rows

    def observe(
        self,
        prompts: Tensor | Sequence[int] | Sequence[str],
        solved: Tensor | Sequence[float],
        trials: Tensor | Sequence[int] | int,
        step: int | None = None,
    ) -> None:
        """Take in one step's groups and move to the next step.

        Args:
            prompts: [V], the rows that were rolled out (as `select` returned them), or their ids; each once.
            solved: [V], how many of each group's rollouts solved the prompt, within 0..trials.
            trials: [V] or one number, the groups' sizes; 0 for a group that was lost.
            step: the training step that the rollouts belong to, counted from 0; the coming one if left out. A later
                one lets the steps between pass; an earlier one is a late observation, placed where it belongs, and
                does not count as a step.

        Raises:
            ValueError: something else came; the sampler is as it was.
        """
        rows = self._rows(prompts)
        size = _whole("trials", trials)
        size = size.expand(len(rows)) if size.ndim == 0 else size
        count = _numbers("solved", solved)
        for name, column in (("solved", count), ("trials", size)):
            if column.shape != rows.shape:
                expected = f"shape ({len(rows)},), one entry a prompt"
                raise ValueError(f"{name}: expected {expected}, got shape {tuple(column.shape)}")
        wrong = ~((count >= 0) & (count <= size))  # NaN is neither
        if bool(wrong.any()):
            worst = int(wrong.nonzero()[0])
            raise ValueError(
                f"solved: expected numbers within 0..trials, got {count[worst].item():g} of {int(size[worst])} "
                f"at position {worst}"
            )
        step = None if step is None else _count("step", step, 0)
        predicted = torch.tensor([self._predicted.get(row, math.nan) for row in rows.tolist()])
        evidence = self.tracker.observe(rows, count, size, step, predicted)
        useful = (count > 0) & (count < size)
        groups = int((size > 0).sum())
        self._visits.index_add_(0, rows, (size > 0).long())
        self._totals["rollouts"] += float(size.sum())
        self._totals["groups"] += groups
        self._totals["useful"] += float(useful.sum())
        self._totals["log_evidence"] += float(evidence.sum())
        self._last["useful"] = float(useful.sum()) / max(groups, 1)
        self._last["log_evidence"] = float(evidence.sum()) / max(groups, 1)

    def informative(self, trials: int) -> Tensor:
        """[N], the predictive chance, in [0, 1], that a group of `trials` rollouts in the coming step is useful:
        neither all wrong nor all right."""
        return self.tracker.informative(_count("trials", trials, 1))

    def metrics(self) -> dict[str, float]:
        """Numbers to log after `observe`: belief mass a state, predicted and realised useful shares, coverage,
        rollouts, and the mean log evidence a group (the prequential score) of the last step and so far."""
        mass = self.belief.mean(0).tolist()
        groups = max(self._totals["groups"], 1.0)
        return {
            "step": float(self.tracker.step),
            "rollouts": self._totals["rollouts"],
            "visited": float((self._visits > 0).double().mean()),
            **{f"belief/{name.replace(' ', '_')}": value for name, value in zip(self._states(), mass, strict=True)},
            "useful/so_far": self._totals["useful"] / groups,
            "log_evidence/so_far": self._totals["log_evidence"] / groups,
            **self._last,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly as this sampler would, as nested tensors and plain values (no pickle
        needed: `dps_pyro.storage.save_state`)."""
        return {
            "tracker": self.tracker.state_dict(),
            "generator": self._generator.get_state(),
            "visits": self._visits.clone(),
            "predicted": {str(row): chance for row, chance in self._predicted.items()},
            "totals": dict(self._totals),
            "last": dict(self._last),
            "ids": self.ids,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, into a sampler of the same model and prompts.

        Raises:
            ValueError: the state is another sampler's.
        """
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise ValueError(f"state: expected a sampler's, got one without {', '.join(sorted(missing))}")
        if state["ids"] != self.ids:
            raise ValueError("state: expected the same prompt ids in the same order, got others")
        if state["visits"].shape != self._visits.shape:
            raise ValueError(f"state: expected {self.num_prompts} prompts, got {len(state['visits'])}")
        generator = torch.Generator()
        generator.set_state(state["generator"])
        predicted = {int(row): chance for row, chance in state["predicted"].items()}
        self.tracker.load_state_dict(state["tracker"])
        self._generator, self._visits, self._predicted = generator, state["visits"].clone(), predicted
        self._totals, self._last = dict(state["totals"]), dict(state["last"])

    # ------------------------------------------------------------------------------------------------- the state

    @property
    def belief(self) -> Tensor:
        """[N, K], `p(z_t | y_<t)` for the coming step; states ordered from unsolved to solved."""
        return self.tracker.belief

    @property
    def history(self) -> RolloutHistory:
        """Every group observed so far."""
        return self.tracker.history

    @property
    def visits(self) -> Tensor:
        """Long [N], how often each prompt has been rolled out."""
        return self._visits

    def _states(self) -> Sequence[str]:
        count = self.belief.shape[-1]
        names = self.dynamics.states
        return names if len(names) == count else [f"state_{k}" for k in range(count)]

    def _rows(self, prompts: Tensor | Sequence[int] | Sequence[str]) -> Tensor:
        if isinstance(prompts, str) or not isinstance(prompts, Iterable):
            raise ValueError(f"prompts: expected a vector of rows or ids, got {prompts!r}")
        names = [] if isinstance(prompts, Tensor) else list(prompts)
        if any(isinstance(name, str) for name in names):
            unknown = [name for name in names if not (isinstance(name, str) and name in self._row)]
            if unknown:
                known = f"one of {self.num_prompts} known ids" if self.ids else "rows, as this sampler has no ids"
                raise ValueError(f"prompts: expected {known}, got {unknown[0]!r}")
            rows = torch.tensor([self._row[name] for name in names], dtype=torch.long)
        else:
            rows = _whole("prompts", prompts)
            if rows.ndim != 1:
                raise ValueError(f"prompts: expected a vector of rows or ids, got shape {tuple(rows.shape)}")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < self.num_prompts:
            outside = rows[(rows < 0) | (rows >= self.num_prompts)]
            raise ValueError(f"prompts: expected rows in 0..{self.num_prompts - 1}, got {int(outside[0])}")
        if len(rows.unique()) < len(rows):
            values, counts = rows.unique(return_counts=True)
            raise ValueError(f"prompts: expected each prompt once, got row {int(values[counts > 1][0])} repeated")
        return rows


def _count(name: str, value: Any, least: int, most: int | None = None) -> int:
    """One whole number."""
    expected = f"a whole number of at least {least}" if most is None else f"a whole number in {least}..{most}"
    try:
        number = operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name}: expected {expected}, got {value!r}") from error
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return number


def _numbers(name: str, value: Any) -> Tensor:
    """Real numbers, float64."""
    try:
        tensor = torch.as_tensor(value, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: expected numbers, got {value!r}") from error
    if tensor.is_complex():
        raise ValueError(f"{name}: expected real numbers, got {tensor.dtype}")
    return tensor.to(torch.float64)


def _whole(name: str, value: Any) -> Tensor:
    """Whole numbers, long, within 0..2^31-1 (what the log can hold)."""
    tensor = _numbers(name, value)
    wrong = ~((tensor >= 0) & (tensor == tensor.floor()) & (tensor < 2**31))
    if bool(wrong.any()):
        raise ValueError(f"{name}: expected whole numbers in 0..2^31-1, got {tensor[wrong][0].item():g}")
    # A mask is not a list of rows, nor a count.
    if tensor.numel() and torch.as_tensor(value).dtype == torch.bool:
        raise ValueError(f"{name}: expected whole numbers, got booleans")
    return tensor.long()


def _checked_ids(ids: Any) -> list[str] | None:
    """The ids, or None where a number was given."""
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        return None
    names = list(ids)
    strange = [name for name in names if not isinstance(name, str)]
    if strange:
        raise ValueError(f"num_prompts: expected a number or a list of ids (strings), got {strange[0]!r}")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"num_prompts: expected distinct ids, got {twice!r} twice")
    return names
