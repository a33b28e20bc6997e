"""The event log: which prompt was rolled out at which step, and how many of its rollouts solved it.

Models are fitted to a history, and every run leaves one. It is sparse: one row per group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dps_pyro.history.columns import Columns, Events, Outcomes
from dps_pyro.history.names import Names, ids_of, rows_of
from dps_pyro.history.table import MOST_PROMPTS, MOST_STEPS
from dps_pyro.history.values import (
    Groups,
    bounded,
    check_memory,
    checked_groups,
    levels_of,
    marks_kept,
    marks_saved,
    step_columns,
    useful_by_sum,
)
from dps_pyro.support import checks

__all__ = ["Events", "Features", "Outcomes", "RolloutHistory", "observed", "useful_by_sum"]


Features = Mapping[str, Sequence[float] | Sequence[str]]
"""What is known of the prompts before any rollout: name -> N numbers or N strings."""


class RolloutHistory:
    """An append-only log of groups of rollouts over `num_prompts` prompts.

    Args:
        prompts: the number of prompts, or their stable ids (distinct strings) in row order.
        num_steps: the smallest number of training steps that the log covers. It grows with what is appended. Steps in
            which nothing was observed count too, because states move on in them.

    Raises:
        ValueError: the sizes are no whole numbers of at least 0, or the ids not distinct strings.

    Example::

        history = RolloutHistory(3)
        history.append([0, 2], step=0, solved=[1, 8], trials=8)
        history.dense().trials  # tensor([[8], [0], [8]])
    """

    def __init__(self, prompts: int | Sequence[str], *, num_steps: int = 0, features: Features | None = None) -> None:
        self.ids: Sequence[str] | None = ids_of("prompts", prompts)
        self.num_prompts: int = bounded("prompts", prompts, MOST_PROMPTS) if self.ids is None else len(self.ids)
        self.num_steps: int = bounded("num_steps", num_steps, MOST_STEPS)
        self.features: dict[str, list[float] | list[str]] = checks.features("features", features, self.num_prompts)
        self._row: dict[str, int] = {}
        self._columns = Columns()
        self._marks: dict[str, dict[int, float]] = {"progress": {}}  # column -> step -> value, groups or none
        self._outcomes: Outcomes | None = None
        self._observed = True

    # ---------------------------------------------------------------------------------------------- making one

    @classmethod
    def from_dense(cls, solved: Tensor, trials: Tensor | int, ids: Sequence[str] | None = None) -> RolloutHistory:
        """A history from rectangles: `solved` [N, T] and `trials` [N, T] or one number; `trials == 0` is missing."""
        if solved.ndim != 2:
            raise ValueError(f"solved: expected [prompts, steps], got shape {tuple(solved.shape)}")
        trials = torch.as_tensor(trials).expand(solved.shape)
        history = cls(ids if ids is not None else len(solved), num_steps=solved.shape[1])
        for step in range(solved.shape[1]):
            rows = trials[:, step].nonzero().squeeze(-1)
            history.append(rows, step=step, solved=solved[rows, step], trials=trials[rows, step])
        history.num_steps = solved.shape[1]
        return history

    def append(
        self,
        prompts: Tensor | Sequence[int] | Sequence[str],
        *,
        step: int,
        solved: Tensor | Sequence[float],
        trials: Tensor | Sequence[int] | int,
        predicted: Tensor | None = None,
        trained: Tensor | Sequence[bool] | None = None,
        progress: float | None = None,
        useful: Tensor | Sequence[bool] | None = None,
        columns: Mapping[str, float] | None = None,
    ) -> None:
        """Record one step's groups.

        Args:
            prompts: [V] rows or ids.
            step: the training step that the rollouts belong to.
            solved: [V], within 0..trials.
            trials: [V] or one number.
            predicted: [V], the chances of a useful group that were predicted at selection, if there were any.
            trained: [V], whether the policy was updated on the group. The default is true for groups with rollouts.
            progress: the policy's overall progress before the step, for instance its held-out accuracy. It is kept
                for a step without groups, too.
            useful: [V], whether the group's rewards differed. The default is true for groups that are neither all wrong
                nor all right (`useful_by_sum`).
            columns: the user's own numbers of the step, by name, such as a temperature. They are kept for a step
                without groups, too, and hold until the next step that names them.

        Raises:
            ValueError: a row out of range, an unknown id, a count outside 0..trials, columns of different lengths, or
                a step's column that is no finite number or has the name of a feature.
        """
        rows = self.locate(prompts)
        groups = checked_groups(rows, solved, trials, predicted, trained, useful)
        self.append_valid(rows, step, groups, progress, columns)

    def append_valid(
        self, rows: Tensor, step: int, groups: Groups, progress: float | None, columns: Mapping[str, float] | None
    ) -> None:
        """`append` of groups that were checked: their columns have one length, and their values are in range."""
        step = bounded("step", step, MOST_STEPS - 1)
        marks = step_columns(columns or {}, self.features)
        level = math.nan if progress is None else float(progress)
        number, known = torch.full([len(rows)], step), torch.full([len(rows)], level, dtype=torch.float64)
        # Copies: the log must not change with the caller's buffers.
        self._columns.append(Events(rows, number, *groups[:4], known, groups.useful))
        for name, value in {**marks, **({} if math.isnan(level) else {"progress": level})}.items():
            self._marks.setdefault(name, {})[step] = value
        self.num_steps = max(self.num_steps, step + 1)
        self._outcomes = None

    def add(self, prompts: int | Sequence[str], features: Features | None = None) -> None:
        """Make room for more prompts. Give their number, or their ids if the prompts of this history have ids, and
        their features if these have some.

        Raises:
            ValueError: ids are given and this history has none, or the other way round; an id exists already; or the
                features have other names.
        """
        names = ids_of("prompts", prompts)
        if (names is None) != (self.ids is None):
            raise ValueError(f"prompts: expected {'ids' if self.ids is not None else 'a number'}, got {prompts!r}")
        more = checks.features(
            "features", features, len(names) if names is not None else checks.count("prompts", prompts, 0)
        )
        if more.keys() != self.features.keys():
            expected = ", ".join(self.features) or "none"
            raise ValueError(
                f"features: expected {expected}, as of the prompts before, got {', '.join(more) or 'none'}"
            )
        if names is None:
            self.num_prompts += checks.count("prompts", prompts, 0)
        else:
            old = self.ids or []
            self.ids = old.plus("prompts", names) if isinstance(old, Names) else ids_of("prompts", [*old, *names]) or []
            self.num_prompts = len(self.ids)
        self.features = {name: [*column, *more[name]] for name, column in self.features.items()}
        self._outcomes = None

    def schedule(self) -> RolloutHistory:
        """The same rollouts, their outcomes unknown (NaN): a model run on it draws them (`pyro.infer.Predictive`)."""
        unknown = torch.full_like(self.events.solved, math.nan)
        blank = self._like(self.events._replace(solved=unknown, useful=torch.zeros_like(self.events.useful)))
        blank._observed = False
        return blank

    def where(self, keep: Tensor) -> RolloutHistory:
        """The same prompts and steps with only some of the groups: `keep` is bool [E], in the order of `events`."""
        return self._like(Events(*(column[keep] for column in self.events)))

    def _like(self, events: Events) -> RolloutHistory:
        prompts = self.ids if self.ids is not None else self.num_prompts
        other = RolloutHistory(prompts, num_steps=self.num_steps, features=self.features)
        other._columns, other._observed = Columns.of(events), self._observed
        other._marks = {name: dict(by_step) for name, by_step in self._marks.items()}
        return other

    # ---------------------------------------------------------------------------------------------- reading it

    @property
    def events(self) -> Events:
        """Every group so far, as columns. They are not copies: do not write to them."""
        return self._columns.events

    def keep_on_disk(self, folder: str | Path) -> None:
        """Keep the columns in files of a folder from now on, so that a long run needs no more memory as the log grows.
        The files are the working space of this process. To keep the log, use `to_parquet`.

        Raises:
            OSError: the folder cannot be made or written to.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        if self._columns.folder != path:
            self._columns = Columns.of(self._columns.events, path)

    def recent(self, steps: int) -> RolloutHistory:
        """The same prompts and steps with only the groups of the last `steps` steps, for a fit that costs no more as
        the log grows."""
        return self.where(self.events.step >= self.num_steps - checks.count("steps", steps, 1))

    def thinned(self, share: float, seed: int = 0) -> RolloutHistory:
        """The same prompts and steps with only the groups of a random `share`, in (0, 1], of the prompts. A prompt's
        groups stay together, because a model's likelihood is a product over prompts.

        Raises:
            ValueError: the share is not in (0, 1].
        """
        if not 0 < checks.positive("share", share) <= 1:
            raise ValueError(f"share: expected a number in (0, 1], got {share}")
        kept = torch.rand(self.num_prompts, generator=torch.Generator().manual_seed(seed)) < share
        return self.where(kept[self.events.prompt])

    @property
    def observed(self) -> bool:
        """Whether the outcomes are known; they are not in a schedule."""
        return self._observed

    def __len__(self) -> int:
        return self._columns.count

    def dense(self) -> Outcomes:
        """The log as [N, T] rectangles (kept until the next append).

        Raises:
            ValueError: this machine does not have enough memory for them.
        """
        if self._outcomes is None:
            events = self.events
            check_memory(self.num_prompts, self.num_steps)
            shape = (self.num_prompts, self.num_steps)
            where = (events.prompt, events.step)
            trials = torch.zeros(shape, dtype=torch.long).index_put(where, events.trials, accumulate=True)
            solved = torch.zeros(shape, dtype=torch.float64).index_put(where, events.solved, accumulate=True)
            trained = torch.zeros(shape, dtype=torch.bool)
            trained[events.prompt[events.trained], events.step[events.trained]] = True
            real = torch.get_default_dtype()
            progress = self.progress().to(real).unsqueeze(0)
            self._outcomes = Outcomes(solved.to(real) if self._observed else None, trials, trained, progress)
        return self._outcomes

    def progress(self) -> Tensor:
        """float64 [T], the policy's overall progress before each step: the last that was recorded by then, 0 before
        the first."""
        return self.level("progress")

    @property
    def step_columns(self) -> list[str]:
        """The names of the user's own step columns, in the order in which they were first recorded."""
        return [name for name in self._marks if name != "progress"]

    @property
    def marks(self) -> dict[str, dict[int, float]]:
        """What was recorded of the steps themselves: "progress" and the user's own columns, name -> step -> value."""
        return self._marks

    def recorded(self, step: int) -> dict[str, float]:
        """What was recorded of the step itself: "progress" and the user's own columns, where they were."""
        return {name: by_step[step] for name, by_step in self._marks.items() if step in by_step}

    def level(self, name: str) -> Tensor:
        """float64 [T], a step's column: the last value that was recorded by then, 0 before the first. `name` is one of
        `step_columns`, or "progress"."""
        marks = self._marks[name]
        by_step = torch.full([self.num_steps], math.nan, dtype=torch.float64)
        if marks:
            by_step[list(marks)] = torch.tensor(list(marks.values()), dtype=torch.float64)
        seen = ~by_step.isnan()
        last = torch.where(seen, torch.arange(self.num_steps), -1).cummax(0).values
        return torch.where(last >= 0, by_step[last], 0.0)

    def numeric_features(self) -> dict[str, list[float]]:
        """The features that are numbers, by name: what models find in `step.columns`."""
        return {
            name: [float(value) for value in column]
            for name, column in self.features.items()
            if column and not any(isinstance(value, str) for value in column)
        }

    def locate(self, prompts: Tensor | Sequence[int] | Sequence[str]) -> Tensor:
        """Long [V], the rows of prompts that are given as rows or as ids.

        Raises:
            ValueError: a row out of range, or an unknown id.
        """
        if isinstance(prompts, str) or not isinstance(prompts, Iterable):
            raise ValueError(f"prompts: expected a vector of rows or ids, got {prompts!r}")
        names = [] if isinstance(prompts, Tensor) else list(prompts)
        if any(isinstance(name, str) for name in names):
            if not isinstance(self.ids, Names) and len(self._row) != len(self.ids or []):
                self._row = {name: row for row, name in enumerate(self.ids or [])}
            rows = rows_of(self.ids if isinstance(self.ids, Names) else self._row, names)
            wrong = (rows < 0).nonzero()
            if len(wrong):
                known = f"one of {self.num_prompts} known ids" if self.ids else "rows, as these prompts have no ids"
                raise ValueError(f"prompts: expected {known}, got {names[int(wrong[0])]!r}")
            return rows
        rows = checks.whole_numbers("prompts", prompts)
        if rows.ndim != 1:
            raise ValueError(f"prompts: expected a vector of rows or ids, got shape {tuple(rows.shape)}")
        if len(rows) and int(rows.max()) >= self.num_prompts:
            raise ValueError(f"prompts: expected rows in 0..{self.num_prompts - 1}, got {int(rows.max())}")
        return rows

    def rows(self, prompts: Tensor) -> Events:
        """The groups of the given prompts, `prompt` renumbered 0..len(prompts)-1 in the order given."""
        events, order = self.events, prompts.argsort()
        if len(prompts) * 8 < self.num_prompts:
            at = self._columns.of_prompts(prompts, self.num_prompts)
            kept = Events(*(column[at] for column in events))
        else:
            wanted = torch.zeros(self.num_prompts, dtype=torch.bool)
            wanted[prompts] = True
            keep = wanted[events.prompt]
            kept = Events(*(column[keep] for column in events))
        return kept._replace(prompt=order[torch.searchsorted(prompts[order], kept.prompt)])

    # ---------------------------------------------------------------------------------------------- keeping it

    def to_parquet(self, path: str | Path) -> Path:
        """Write the log to one Parquet file, atomically. Columns: prompt, step, solved, trials, predicted, trained,
        progress, useful. The ids, the sizes, the features and the steps' own columns travel in the schema's metadata
        under `dps_pyro`."""
        from dps_pyro.history.parquet import write

        return write(self, Path(path))

    @classmethod
    def from_parquet(cls, path: str | Path) -> RolloutHistory:
        """Read a log. Only prompt, step, solved and trials are needed; without our metadata the sizes are inferred.

        Raises:
            ValueError: the file is damaged, a needed column is missing, or a value is out of range; the message names
                the file.
            OSError: the file cannot be read.
        """
        from dps_pyro.history.parquet import read

        return read(Path(path))

    @classmethod
    def from_events(
        cls,
        events: Events,
        prompts: int | Sequence[str],
        *,
        num_steps: int = 0,
        features: Features | None = None,
        marks: Mapping[str, Mapping[int, float]] | None = None,
    ) -> RolloutHistory:
        """A history from columns, taken as valid, and the steps' own columns (name -> step -> value), "progress" among
        them; a step's progress that `marks` does not have is that of its groups."""
        history = cls(prompts, num_steps=num_steps, features=features)
        history._columns = Columns.of(events)
        history._marks = {"progress": levels_of(events)}
        for name, by_step in (marks or {}).items():
            history._marks.setdefault(name, {}).update(by_step)
        history.num_steps = max(num_steps, int(events.step.max()) + 1 if len(events.step) else 0)
        return history

    def state_dict(self) -> dict[str, Any]:
        """The log as tensors (the ids are the sampler's to keep)."""
        return {**self.events._asdict(), "num_steps": torch.tensor(self.num_steps), "marks": marks_saved(self._marks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace the log by a saved one.

        Raises:
            ValueError: the state is none of a log.
        """
        missing = {*Events._fields, "num_steps"} - checks.instance("state", state, Mapping).keys()
        if missing:
            raise ValueError(f"state: expected a log's, got one without {', '.join(sorted(missing))}")
        events = Events(*(state[name].clone() for name in Events._fields))
        events = events._replace(progress=events.progress.double())  # float32 in states of earlier versions
        self._columns, self.num_steps = Columns.of(events, self._columns.folder), int(state["num_steps"])
        self._marks = marks_kept(state.get("marks", {}), events)  # not in states of earlier versions
        self._outcomes = None


def observed(history: RolloutHistory) -> Tensor:
    """[N, T], how many rollouts solved the prompt; 0 where missing.

    Raises:
        ValueError: it has no groups, or is a schedule without outcomes.
    """
    if len(checks.instance("history", history, RolloutHistory)) == 0:
        raise ValueError("history: expected at least one group of rollouts, got none")
    if not history.observed:
        raise ValueError("history: expected outcomes, got a schedule, whose outcomes are unknown")
    solved = history.dense().solved
    assert solved is not None
    return solved
