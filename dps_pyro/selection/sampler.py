"""Which prompts to roll out next: five verbs, the same for every training loop.

The three lines of a training script::

    sampler = PromptSampler(SolvingProgress(), num_prompts=len(dataset), seed=0)
    rows = sampler.select(batch_size)                       # before the rollouts
    sampler.observe(rows, solved, trials)                   # after them
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.history.log import Features, RolloutHistory
from dps_pyro.history.values import step_columns, useful_by_sum
from dps_pyro.inference.refit import Refit, Refitter
from dps_pyro.selection.acquisition import Acquisition, Forecast
from dps_pyro.selection.arguments import acquisition_of, booleans, few_draws, same_columns
from dps_pyro.selection.baseline import leave_one_out
from dps_pyro.selection.batches import PromptBatches
from dps_pyro.selection.handed_out import Ahead
from dps_pyro.selection.matching import Matched, for_ids
from dps_pyro.selection.plan import Plan, fill, useful_of
from dps_pyro.selection.pooled import PooledChoice
from dps_pyro.selection.signal import Signal, best_sizes
from dps_pyro.selection.waits import rule_of
from dps_pyro.support import checks
from dps_pyro.support.locks import Lock, one_at_a_time
from dps_pyro.tracking.over_draws import TrackerOverDraws
from dps_pyro.tracking.pooled import PooledTracker, pooled_tracker
from dps_pyro.tracking.predictor import Filter, Predictor
from dps_pyro.tracking.tracker import Tracker, is_fitted, track

if TYPE_CHECKING:
    from dps_pyro.inference.posterior import Posterior

__all__ = ["PromptSampler"]

MANY = 20_000
"""Prompts from which on equals share a belief, where that is possible."""
logger = logging.getLogger(__name__)

LONGEST_GAP = 100_000
"""Steps that may pass between two observations; more than that is a mistaken number."""


class PromptSampler:
    """Tracks the solving progress of every prompt, and selects the prompts to roll out.

    Args:
        dynamics: the model of solving progress, or a baseline that brings its own filter.
        num_prompts: the number of prompts, or a list of their stable ids (distinct strings) in row order.
        acquisition: the rule that turns beliefs into a batch: "soft" (the default: prompts that are likely to be
            useful, and many different ones), "thompson" (the batches of dynamic sampling without its rollouts), "top"
            (the rule of the paper), "entropy", "uniform" or another name of `ACQUISITIONS`, or your own function.
        trials: the group size planned: `select` ranks prompts by the chance that a group of this size is useful.
        posterior: a fitted prior of the same model; the model's own prior means if left out.
        posterior_draws: filter at so many of the posterior's draws instead of at its mean, exactly at each, and believe
            the average, in which a draw counts as much as it has predicted the groups so far (`TrackerOverDraws`). A
            step costs so many times as much. None: the mean. Not with pooled beliefs, nor with refits.
        features: what is known of each prompt before any rollout, for the log: name -> N numbers or N strings. (What a
            model uses of them, its constructor takes.)
        refit_every: fit the model to the history so far every so many steps, filter the history again at what was
            learned, and go on (online empirical Bayes); None: never.
        refit: how.
        seed: of the selections. The same seed and the same rewards give the same selections.
        dtype: of the beliefs; torch's default if left out.
        pooled: whether prompts that are alike and were never rolled out share one belief, so that a step's cost follows
            what was seen and not the number of prompts (`PooledTracker`). Left out: from 20,000 prompts on, where model
            and acquisition allow it. Selections then have the same distribution, but are others under the same seed.

    One `observe` is one training step: the prompts that were not rolled out move on, too. Threads may share a sampler:
    each verb waits until the others are done.

    Raises:
        ValueError: an argument is of another kind or out of range, or the posterior is another model's.
    """

    def __init__(
        self,
        dynamics: Dynamics[Any] | Predictor,
        num_prompts: int | Sequence[str],
        *,
        acquisition: str | Acquisition = "soft",
        trials: int = 8,
        posterior: Posterior | None = None,
        posterior_draws: int | None = None,
        features: Features | None = None,
        refit_every: int | None = None,
        refit: Refit = Refit(),  # noqa: B008 - it is frozen
        seed: int = 0,
        dtype: torch.dtype | None = None,
        pooled: bool | None = None,
    ) -> None:
        self.lock = Lock()
        self.ids = checks.ids("num_prompts", num_prompts)
        self.num_prompts = checks.count("num_prompts", num_prompts if self.ids is None else len(self.ids), 1)
        self.trials = checks.count("trials", trials, 1)
        self._acquire: Acquisition = acquisition_of(acquisition)
        if posterior is not None and not isinstance(getattr(posterior, "point", None), Mapping):
            raise ValueError(f"posterior: expected a Posterior (Posterior.load reads one), got {posterior!r}")
        self.dynamics = dynamics
        if posterior is not None and isinstance(dynamics, Dynamics):
            same_columns(dynamics, posterior)
        few = None if posterior_draws is None else few_draws(dynamics, posterior, posterior_draws, pooled, refit_every)
        pooled = pooled if few is None else False
        runs = getattr(dynamics, "run_sites", ())
        values = None if posterior is None else {k: v for k, v in posterior.point.items() if k not in runs}
        wanted = self.num_prompts >= MANY and rule_of(self._acquire) is not None if pooled is None else pooled
        found = pooled_tracker(dynamics, self.num_prompts, values=values, dtype=dtype) if wanted else None
        if pooled and found is None:
            name = type(dynamics).__name__
            raise ValueError(f"pooled: expected a model whose prompts are of a few kinds, got {name} without")
        self.tracker: Filter = found or track(dynamics, self.num_prompts, values=values, dtype=dtype)
        if few is not None and is_fitted(dynamics):
            self.tracker = TrackerOverDraws(dynamics, self.num_prompts, values=few, dtype=dtype)
        self._choice = PooledChoice.of(self.tracker, self._acquire)
        self._retired: Tensor | None = None  # bool [N]; None where none are
        self.tracker.history.ids = self.ids
        self.tracker.history.features = checks.features("features", features, self.num_prompts)
        self._refit_every = None if refit_every is None else checks.count("refit_every", refit_every, 1)
        self._refitter: Refitter | None = None
        if refit_every is not None:
            if not isinstance(self.tracker, Tracker) or not is_fitted(dynamics):
                name = type(dynamics).__name__
                raise ValueError(f"refit_every: expected None, as {name} learns while it filters, got {refit_every}")
            self._refitter = Refitter(dynamics, checks.instance("refit", refit, Refit), posterior)
        self._generator = torch.Generator().manual_seed(checks.count("seed", seed, -(2**63), 2**64 - 1))
        # Long [N], how often each prompt has been rolled out; none where the tracker counts those that were.
        self._visits = torch.zeros(0 if self.pooled else self.num_prompts, dtype=torch.long)
        self._predicted: dict[int, float] = {}
        self._totals = dict.fromkeys(("rollouts", "groups", "useful", "log_evidence", "impossible"), 0.0)
        self._last: dict[str, float] = {}
        self.matched: Matched | None = None
        """How the prompts of the state that was loaded last belong to these, where they were not the same."""
        self.ahead = Ahead(self.lock)  # what loaders have had selected

    # ------------------------------------------------------------------------------------------------- the verbs

    @one_at_a_time
    def select(self, batch_size: int) -> Tensor:
        """Choose the coming step's prompts: long [batch_size], distinct rows (`sampler.ids[row]` names them).

        What was selected before and has not been observed yet may be selected again.

        Raises:
            ValueError: `batch_size` is not within 1..num_prompts, or a custom acquisition did not return a score for
                each prompt.
        """
        batch_size = checks.count("batch_size", batch_size, 1, self.num_prompts - self._num_retired())
        if self._choice is not None:
            found = self._choice.select(batch_size, self.trials, self._retired, self._generator)
            assert isinstance(self.tracker, PooledTracker)
            self._note(found.rows, found.chance, self.tracker.mean_informative(self.trials))
            return found.rows
        chance = self.informative(self.trials)
        scores = self._scores(chance)
        scores = scores if self._retired is None else scores.masked_fill(self._retired, float("-inf"))
        rows: Tensor = scores.topk(batch_size).indices
        self._note(rows, chance[rows], float(chance.mean()))
        return rows

    def plan(self, rollouts: int, sizes: Sequence[int], signal: Signal = Signal(power=1.0)) -> Plan:  # noqa: B008
        """Choose the coming step's prompts and their group sizes, `rollouts` in all. Each prompt has the size, among
        `sizes`, of the most signal per rollout; the acquisition sees the chance that a group of that size is useful.

        Raises:
            ValueError: an argument is out of range.
            NotImplementedError: the tracker does not say how success rates are distributed.
        """
        rates = self.tracker.rates()
        own = best_sizes(rates, sizes, signal)
        chance = useful_of(rates, own).to(self.tracker.dtype)
        order = self._scores(chance).argsort(descending=True)
        order = order if self._retired is None else order[~self._retired[order]]
        made = fill(order, own, rollouts, min(sizes))
        self._note(made.rows, chance[made.rows], float(chance.mean()))
        return made

    def baseline(self, prompts: Tensor | Sequence[int] | Sequence[str], rewards: Tensor) -> Tensor:
        """float64 [G, n], what each rollout of the coming step was expected to earn, given all history and the other
        rollouts of its group, before these are observed (`dps_pyro.selection.baseline`). `rewards`, float [G, n], are
        those of the groups of `prompts` [G], NaN where a group is smaller.

        Raises:
            ValueError: the shapes disagree.
            NotImplementedError: the tracker does not say what is expected of a rollout.
        """
        return leave_one_out(self.tracker, self.history.locate(prompts), rewards)

    def _scores(self, chance: Tensor) -> Tensor:
        """[N], the acquisition's scores, where `chance` [N] are the chances of a useful group."""
        # Copies, for the user's function to change.
        forecast = Forecast(self.belief, chance.clone(), self.visits, self.tracker.draw, self.trials, self.tracker)
        scores: Any = self._acquire(forecast, self._generator)
        if not isinstance(scores, Tensor) or scores.shape != chance.shape or bool(scores.isnan().any()):
            raise ValueError(f"acquisition: expected {self.num_prompts} scores, got {scores}")
        return scores

    def _note(self, rows: Tensor, chance: Tensor, mean: float) -> None:
        """Remember the chances [V] that were predicted of the prompts selected, `rows` [V], and all prompts' mean."""
        self._predicted |= dict(zip(rows.tolist(), chance.tolist(), strict=True))
        self._last["informative/selected"] = float(chance.mean())
        self._last["informative/pool"] = mean

    @one_at_a_time
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
        columns: Mapping[str, float] | None = None,
    ) -> None:
        """Take in one step's groups and move to the next step.

        Args:
            prompts: [V], the rows that were rolled out (as `select` returned them), or their ids; each once.
            solved: [V], how many of each group's rollouts solved the prompt, within 0..trials.
            trials: [V] or one number, the groups' sizes; 0 for a group that was lost.
            step: the training step that the rollouts belong to, counted from 0; the coming one if left out. A later
                one lets the steps between pass; an earlier one is a late observation, placed where it belongs, and
                does not count as a step.
            trained: bool [V], whether the policy was updated on the group; wherever there were rollouts if left out.
            progress: the policy's overall progress before the step, for instance its held-out accuracy, for models
                that use it (`Trained`); the last known if left out.
            useful: bool [V], whether the group's rewards differ by more than `tolerance`, for the metrics and the log.
                By default it is `tolerance < solved < trials - tolerance`, which is right for rewards of 0 and 1. Pass
                it for other rewards, because their sum does not tell whether they differ.
            columns: the user's own numbers of the step, by name, such as a temperature, for models that ask for them
                (`step.columns`); the last known of those left out.

        Raises:
            ValueError: an argument is invalid, or the step is more than 100,000 ahead. The sampler is left unchanged.
        """
        rows = self.history.locate(prompts)
        if len(rows.unique()) < len(rows):
            values, counts = rows.unique(return_counts=True)
            raise ValueError(f"prompts: expected each prompt once, got row {int(values[counts > 1][0])} repeated")
        size = checks.whole_numbers("trials", trials)
        size = size.expand(len(rows)) if size.ndim == 0 else size
        count = checks.numbers("solved", solved)
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
        now = self.tracker.step
        step = now if step is None else checks.count("step", step, 0)
        if step > now + LONGEST_GAP:
            raise ValueError(f"step: expected at most {LONGEST_GAP:,} steps past the coming one, {now}, got {step}")
        predicted = torch.tensor([self._predicted.get(row, math.nan) for row in rows.tolist()])
        learned, mixed = booleans("trained", trained, rows), booleans("useful", useful, rows)
        if mixed is None:
            mixed = useful_by_sum(count, size, self.tolerance)
        if bool((mixed & (size < 2)).any()):
            raise ValueError("useful: expected groups of at least two rollouts to be useful, got a smaller one")
        if progress is not None:
            progress = float(checks.numbers("progress", progress))
        own = step_columns(columns or {}, self.history.features)
        self._take_up_refit()
        evidence = self.tracker.observe(rows, count, size, step, predicted, learned, progress, mixed, own)
        if self._refitter is not None and step >= now and (step + 1) % (self._refit_every or 1) == 0 and self.history:
            self._refitter.begin(self.history)
            if not self._refitter.settings.background:
                self._take_up_refit()
        for row in rows.tolist():
            self._predicted.pop(row, None)
        self._tally(rows, size, mixed, evidence)

    def _tally(self, rows: Tensor, size: Tensor, mixed: Tensor, evidence: Tensor) -> None:
        """Count V groups that were observed, for the metrics."""
        groups = int((size > 0).sum())
        impossible = evidence.isneginf()
        likelihood = float(evidence[~impossible].sum())
        possible = groups - int(impossible.sum())
        if not self.pooled:
            self._visits.index_add_(0, rows, (size > 0).long())
        self._totals["rollouts"] += float(size.sum())
        self._totals["groups"] += groups
        self._totals["useful"] += float(mixed.sum())
        self._totals["log_evidence"] += likelihood
        self._totals["impossible"] += groups - possible
        self._last["useful"] = float(mixed.sum()) / max(groups, 1)
        self._last["log_evidence"] = likelihood / max(possible, 1)

    @one_at_a_time
    def add(self, prompts: int | Sequence[str], features: Features | None = None) -> None:
        """Track more prompts. They get the rows after the others, and count as unvisited since the first step.

        Args:
            prompts: the number of new prompts, or their ids if the prompts of this sampler have ids.
            features: the features of the new prompts, if the prompts of this sampler have features.

        Raises:
            ValueError: an argument is invalid, an id exists already, or the posterior has parameters per prompt and
                none for new prompts. The sampler is left unchanged.
        """
        names = checks.ids("prompts", prompts)
        if (names is None) != (self.ids is None):
            raise ValueError(f"prompts: expected {'ids' if self.ids else 'a number'}, got {prompts!r}")
        known = set(self.ids or []).intersection(names or [])
        if known:
            raise ValueError(f"prompts: expected new ids, got {min(known)!r}, which is there already")
        learned = None if self._refitter is None else self._refitter.posterior
        if learned is not None and learned.about["per_prompt"] and isinstance(self.tracker, Tracker):
            # What was learned of each prompt's own says nothing of new prompts; the next refit has them all.
            self.tracker.refilter(learned.population().point)
        if names != []:
            self.tracker.add(checks.count("prompts", prompts, 1) if names is None else names, features)
        before = self.num_prompts
        self.ids, self.num_prompts = self.history.ids, self.tracker.num_prompts
        more = self.num_prompts - before
        if not self.pooled:
            self._visits = torch.cat([self._visits, self._visits.new_zeros(more)])
        if self._retired is not None:
            self._retired = torch.cat([self._retired, self._retired.new_zeros(more)])

    def retire(self, prompts: Tensor | Sequence[int] | Sequence[str]) -> None:
        """Never select these prompts again. Rows keep their numbers, beliefs move on, and groups that are still under
        way may be observed.

        Raises:
            ValueError: the prompts are unknown, or none would be left.
        """
        rows = self.history.locate(prompts)
        gone = torch.zeros(self.num_prompts, dtype=torch.bool) if self._retired is None else self._retired.clone()
        gone[rows] = True
        if bool(gone.all()):
            raise ValueError("prompts: expected some to be left, got all of them")
        self._retired = gone if bool(gone.any()) else None

    @one_at_a_time
    def informative(self, trials: int) -> Tensor:
        """[N], the predictive chance, in [0, 1], that a group of `trials` rollouts in the coming step is useful: its
        rewards differ by more than `tolerance`; of rewards of 0 and 1, it is neither all wrong nor all right."""
        return self.tracker.informative(checks.count("trials", trials, 1))

    @one_at_a_time
    def metrics(self) -> dict[str, float]:
        """Numbers to log after `observe`: belief mass a state, predicted and realised useful shares, coverage,
        rollouts, and the mean log evidence a group (the prequential score) of the last step and so far. Groups that the
        model holds impossible, with log evidence -inf, are left out of it and counted."""
        mass = self.tracker.mass().tolist()
        groups, impossible = self._totals["groups"], self._totals["impossible"]
        return {
            "step": float(self.tracker.step),
            "rollouts": self._totals["rollouts"],
            "visited": self._num_visited() / self.num_prompts,
            "pooled": float(self.pooled),
            **{f"belief/{name.replace(' ', '_')}": value for name, value in zip(self._states(), mass, strict=True)},
            "useful/so_far": self._totals["useful"] / max(groups, 1),
            "log_evidence/so_far": self._totals["log_evidence"] / max(groups - impossible, 1),
            "impossible": impossible,
            **({} if self._refitter is None else {"refits": float(self._refitter.count)}),
            **self._last,
        }

    @one_at_a_time
    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly as this sampler would, as nested tensors and plain values (no pickle
        needed: `dps_pyro.storage.save_state`)."""
        return {
            "tracker": self.tracker.state_dict(),
            "generator": self._generator.get_state(),
            "visits": self._visits.clone(),
            "retired": [] if self._retired is None else self._retired.nonzero().squeeze(-1).tolist(),
            "choice": {} if self._choice is None else self._choice.state_dict(),
            "predicted": {str(row): chance for row, chance in self._predicted.items()},
            "totals": dict(self._totals),
            "last": dict(self._last),
            "ids": self.ids,
            "ahead": self.ahead.state_dict(),
            "refit": {} if self._refitter is None else self._refitter.state_dict(),
        }

    @one_at_a_time
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state of a sampler of the same model.

        If both samplers have ids, the prompts are matched by id. They may stand in another order, new prompts start
        unvisited, and prompts that no longer exist are left out; `matched` tells what was found. Without ids, the
        prompts must be the same, in the same order.

        Raises:
            ValueError: the state is another sampler's, or no state.
        """
        names = self.state_dict().keys() - {"retired", "choice"}  # not in states of earlier versions
        missing = names - checks.instance("state", state, Mapping).keys()
        if missing:
            raise ValueError(f"state: expected a sampler's, got one without {', '.join(sorted(missing))}")
        if self._totals.keys() != checks.instance("state", state["totals"], Mapping).keys():
            raise ValueError(f"state: expected totals of {', '.join(self._totals)}, got {', '.join(state['totals'])}")
        known = self.ids is not None and state["ids"] is not None and not self.pooled
        if known and state["ids"] != self.ids:
            state, self.matched = for_ids(state, self.ids or [])
            logger.warning("%s", self.matched)
        visits = checks.instance("state", state["visits"], Tensor)
        own = int(checks.instance("state", state["tracker"], Mapping).get("num_prompts", len(visits)))
        number = len(visits) or own  # the visits are the tracker's where it counts those that were
        if number != self.num_prompts:
            hint = "; add the others first" if number > self.num_prompts else ""
            raise ValueError(f"state: expected {self.num_prompts} prompts, got {number}{hint}")
        if state["ids"] != self.ids:
            raise ValueError("state: expected the same prompt ids in the same order, got others")
        generator = torch.Generator()
        try:
            generator.set_state(state["generator"])
            predicted = {int(row): float(chance) for row, chance in state["predicted"].items()}
            totals, last = ({name: float(x) for name, x in state[part].items()} for part in ("totals", "last"))
        except (AttributeError, RuntimeError, TypeError) as error:
            raise ValueError(f"state: expected a generator's state and numbers, got {error}") from error
        self.tracker.load_state_dict(state["tracker"])
        self._generator, self._predicted = generator, predicted
        if not self.pooled:
            self._visits = visits.clone()
        self._retired = None
        if state.get("retired"):
            self.retire(state["retired"])
        if self._choice is not None:
            self._choice.load_state_dict(state.get("choice", {}))
        self._totals, self._last = totals, last
        self.ahead.load_state_dict(state["ahead"])
        if self._refitter is not None and state["refit"]:
            self._refitter.load_state_dict(state["refit"])

    def as_torch_sampler(
        self,
        batch_size: int,
        repeats: int = 1,
        num_batches: int | None = None,
        *,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> PromptBatches:
        """A torch `Sampler` of rows for a `DataLoader(dataset, batch_size=batch_size * repeats, sampler=...)`.

        Args:
            batch_size: the number of distinct prompts per batch.
            repeats: how often each prompt is given in a row: the group size, if the loop rolls out the rows of the
                loader one by one.
            num_batches: the number of batches in one pass. The default makes one pass over the prompts.
            num_replicas: processes that share every batch; each needs a sampler of the same seed that observes the
                same groups.
            rank: which of them this is; it gets its part of each batch, `batch_size * repeats / num_replicas` rows.

        Batches are selected in the main process, when the loader asks for their first row: with `num_workers=0` when
        the batch is wanted, so that everything observed counts; with workers `num_workers * prefetch_factor` batches
        earlier. With torchdata's `StatefulDataLoader` save `sampler.state_dict()` and `loader.state_dict()` together,
        and load the sampler's first: the loader goes on with the same batches, those fetched ahead included.

        Raises:
            ValueError: an argument is out of range, or a batch cannot be shared evenly.
        """
        return PromptBatches(self, batch_size, repeats, num_batches, num_replicas=num_replicas, rank=rank)

    @property
    @one_at_a_time
    def belief(self) -> Tensor:
        """[N, K], `p(z_t | y_<t)` for the coming step, a copy; states ordered from unsolved to solved."""
        return self.tracker.belief.clone()

    @property
    def tolerance(self) -> float:
        """By how much the largest and the smallest reward of a useful group differ at least, as the model has it."""
        return self.tracker.tolerance

    @property
    def history(self) -> RolloutHistory:
        """Every group observed so far."""
        return self.tracker.history

    @property
    @one_at_a_time
    def visits(self) -> Tensor:
        """Long [N], how often each prompt has been rolled out, a copy."""
        if isinstance(self.tracker, PooledTracker):
            slots = self.tracker.slots
            return torch.zeros(self.num_prompts, dtype=torch.long).index_copy(0, slots.row.long(), slots.visits.long())
        return self._visits.clone()

    @property
    def pooled(self) -> bool:
        """Whether a step's cost follows what was seen; otherwise it follows the number of prompts."""
        return isinstance(self.tracker, PooledTracker)

    def _num_visited(self) -> int:
        tracker = self.tracker
        return int(((tracker.slots.visits if isinstance(tracker, PooledTracker) else self._visits) > 0).sum())

    def _num_retired(self) -> int:
        return 0 if self._retired is None else int(self._retired.sum())

    def _take_up_refit(self) -> None:
        """Filter again at what the last refit learned, if any."""
        posterior = None if self._refitter is None else self._refitter.collect()
        if posterior is not None and isinstance(self.tracker, Tracker):
            self.tracker.refilter(posterior.point)

    def _states(self) -> Sequence[str]:
        count = len(self.tracker.mass())
        names = self.tracker.states
        return names if len(names) == count else [f"state_{k}" for k in range(count)]
