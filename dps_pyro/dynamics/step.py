"""What is known of a training step besides its outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from dps_pyro.history.log import Outcomes, RolloutHistory
from dps_pyro.support.devices import off_device

Theta_contra = TypeVar("Theta_contra", contravariant=True)

__all__ = ["Chain", "Columns", "Field", "Step", "steps_of"]

Field = Tensor | Callable[[], Tensor]
"""A tensor, or a function that computes it when a model first asks for it."""


class Columns(Mapping[str, Tensor]):
    """The user's own columns, by name. Each is computed when it is asked for."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self.fields = dict(fields)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.fields:
            known = ", ".join(map(repr, self.fields)) or "none"
            raise ValueError(
                f"step.columns: expected one of the columns that the log has ({known}), got {name!r}. A prompt's "
                "columns are the numeric features of the history; a step's are the `columns` of `observe` and `append`"
            )
        field = self.fields[name]
        return field if isinstance(field, Tensor) else field()

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def each(self, later: Callable[[Field], Field]) -> Columns:
        """The columns with each field replaced by `later` of it."""
        return Columns({name: later(field) for name, field in self.fields.items()})


class _Watched(Columns):
    """The columns `of` a step, which add "columns" to `asked` when a model looks at them in any way."""

    def __init__(self, of: Columns, asked: set[str]) -> None:
        super().__init__({})
        self.of, self.asked = of, asked

    def __getitem__(self, name: str) -> Tensor:
        self.asked.add("columns")
        return self.of[name]

    def __contains__(self, name: object) -> bool:
        self.asked.add("columns")
        return name in self.of

    def __iter__(self) -> Iterator[str]:
        self.asked.add("columns")
        return iter(self.of)

    def __len__(self) -> int:
        self.asked.add("columns")
        return len(self.of)

    def each(self, later: Callable[[Field], Field]) -> Columns:
        return _Watched(self.of.each(later), self.asked)


class Step:
    """What is known of a training step besides its outcomes.

    Every field broadcasts against a model's batch [..., N], where N is the number of prompts. A field that all prompts
    share has a last dimension of 1. Time and sample dimensions, if there are any, stand to the left of the prompts.
    The likelihood, the online filter, simulations and the replay of late groups all pass the same fields.

    Args:
        trials: rollouts per prompt, [..., N or 1]; 0 for a prompt that was not rolled out.
        trained: whether the policy was updated on the prompt in this step, bool [..., N or 1]. The default is
            `trials > 0`.
        progress: the policy's overall progress before the step, for instance its held-out accuracy, [..., 1]. The
            default is 0.
        number: the step's number, counted from 0, long [..., 1]. The default is 0.
        since: how many steps ago the prompt was last rolled out, before this step, long [..., N or 1], at least 1. A
            prompt that never was counts from the step before the first, so that `since > number` says so. The default
            is `number + 1`.
        columns: the user's own columns by name: a prompt's [..., N], the same at every step, and a step's [..., 1].
            Asking for a column that is not there is a ValueError.

    A field may be given as a function without arguments that returns the tensor. It is then computed only for models
    that ask for it.
    """

    def __init__(
        self,
        trials: Field,
        trained: Field | None = None,
        progress: Field | None = None,
        number: Field | None = None,
        since: Field | None = None,
        columns: Mapping[str, Field] | None = None,
    ) -> None:
        fields = {"trials": trials, "trained": trained, "progress": progress, "number": number, "since": since}
        self._given: dict[str, Field] = {name: field for name, field in fields.items() if field is not None}
        self.columns = columns if isinstance(columns, Columns) else Columns(columns or {})

    @property
    def trials(self) -> Tensor:
        """Rollouts per prompt, long [..., N or 1]; 0 for a prompt that was not rolled out."""
        return self._field("trials")

    @property
    def trained(self) -> Tensor:
        """Whether the policy was updated on the prompt in this step, bool [..., N or 1]."""
        return self.trials > 0 if "trained" not in self._given else self._field("trained")

    @property
    def progress(self) -> Tensor:
        """The policy's overall progress before the step, [..., 1]."""
        if "progress" not in self._given:
            return torch.zeros([1] * max(1, self.trials.ndim), device=self.trials.device)
        return self._field("progress")

    @property
    def number(self) -> Tensor:
        """The step's number, counted from 0, long [..., 1]."""
        if "number" not in self._given:
            return torch.zeros([1] * max(1, self.trials.ndim), dtype=torch.long, device=self.trials.device)
        return self._field("number")

    @property
    def since(self) -> Tensor:
        """How many steps ago the prompt was last rolled out, long [..., N or 1], at least 1; `number + 1` if it
        never was."""
        return self.number + 1 if "since" not in self._given else self._field("since")

    def _field(self, name: str) -> Tensor:
        field = self._given[name]
        if not isinstance(field, Tensor):
            field = self._given[name] = field()
        return field

    def each(self, change: Callable[[Tensor], Tensor]) -> Step:
        """The step with `change` applied to each field that was given. A computed field is changed when it is
        computed."""

        def later(field: Field) -> Field:
            return change(field) if isinstance(field, Tensor) else lambda: change(field())

        given = {name: later(field) for name, field in self._given.items()}
        return Step(**given, columns=self.columns.each(later))

    def watched(self, asked: set[str]) -> Step:
        """The same step, which adds to `asked` the name of each field that is read: "trials", "trained", "progress",
        "number" and "since", and "columns" for any of the user's own. A law that read nothing else than some of them
        is a function of these alone."""

        def told(name: str) -> Callable[[], Tensor]:
            def field() -> Tensor:
                asked.add(name)
                value: Tensor = getattr(self, name)
                return value

            return field

        names = ("trials", "trained", "progress", "number", "since")
        return Step(**{name: told(name) for name in names}, columns=_Watched(self.columns, asked))

    def at(self, rows: Tensor | slice | int) -> Step:
        """The step for some entries of the last dimension; fields of one entry hold for all of them."""
        whole = slice(None) if not isinstance(rows, int) else 0
        return self.each(lambda field: field[..., rows] if field.shape[-1] > 1 else field[..., whole])

    def dated(self) -> Step:
        """For steps with time last, [..., T]: the same steps, with their numbers and the times since the last visits
        filled in if they were left out."""
        trials = self.trials
        number = torch.arange(trials.shape[-1], device=trials.device).expand(*[1] * (trials.ndim - 1), -1)
        return Step(**{"number": number, "since": lambda: _since(trials), **self._given}, columns=self.columns)

    def replace(self, **fields: Field) -> Step:
        """The step with other fields, by their names."""
        return Step(**{**self._given, **fields}, columns=self.columns)


def steps_of(history: RolloutHistory, outcomes: Outcomes, rows: Tensor | None = None) -> Step:
    """What is known of all steps of a log: fields [B or 1, T], time last.

    Args:
        history: the log.
        outcomes: its rectangles [B, T] of the prompts asked for (`history.dense()`, `layout(history).dense(rows)`).
        rows: long [B], the prompts asked for; None for all.
    """
    real, device = torch.get_default_dtype(), outcomes.trials.device

    def of_step(name: str) -> Callable[[], Tensor]:
        def made() -> Tensor:
            with off_device(None if device.type == "cpu" else device):
                level = history.level(name)
            return level.to(device, real).unsqueeze(0)

        return made

    def of_prompt(column: list[float]) -> Callable[[], Tensor]:
        def made() -> Tensor:
            values = torch.tensor(column, dtype=real, device=device)
            return (values if rows is None else values[rows]).unsqueeze(-1)

        return made

    prompts = {name: of_prompt(column) for name, column in history.numeric_features().items()}
    columns: dict[str, Field] = {**prompts, **{name: of_step(name) for name in history.step_columns}}
    return Step(outcomes.trials, outcomes.trained, outcomes.progress, columns=columns).dated()


def _since(trials: Tensor) -> Tensor:
    """Long [B, T], the number of steps since the last earlier step with `trials` [B, T] above 0, or since step -1."""
    number = torch.arange(trials.shape[-1], device=trials.device)
    last = torch.where(trials > 0, number, -1).cummax(-1).values
    return number - torch.nn.functional.pad(last[..., :-1], (1, 0), value=-1)


class Chain(Protocol[Theta_contra]):
    """The three laws of a hidden Markov model that the forward algorithm needs; every `Dynamics` has them."""

    def initial(self, theta: Theta_contra) -> dist.Categorical:
        """`p(z_1)`, batch [..., N or 1] over K states."""
        ...

    def transition(self, theta: Theta_contra, step: Step) -> dist.Categorical:
        """`p(z_{t+1} | z_t)`, batch [..., N or 1, K] (the state now) over K states (the state next)."""
        ...

    def emission(self, theta: Theta_contra, step: Step) -> TorchDistribution:
        """`p(y_t | z_t)`, batch [..., N or 1, K], over a group's number of solved rollouts."""
        ...
