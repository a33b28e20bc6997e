"""Which prompts to roll out next: five verbs, the same for every training loop.

The three lines of a training script::

    sampler = PromptSampler(Siblings(), num_prompts=len(dataset), seed=0)
    rows = sampler.select(batch_size)                       # before the rollouts
    sampler.observe(rows, solved, trials)                   # after them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.history.log import Features, RolloutHistory
from dps_pyro.history.names import ids_of, in_both, saved_ids
from dps_pyro.history.values import step_columns
from dps_pyro.inference.refit import Refit
from dps_pyro.selection import arguments
from dps_pyro.selection.acquisition import Acquisition
from dps_pyro.selection.baseline import leave_one_out
from dps_pyro.selection.batches import PromptBatches
from dps_pyro.selection.coverage import Coverage
from dps_pyro.selection.plan import Plan, fill, useful_of
from dps_pyro.selection.pooling import PooledChoice, rule_of
from dps_pyro.selection.scoring import scores
from dps_pyro.selection.signal import Signal, best_sizes
from dps_pyro.selection.state.handed_out import Ahead
from dps_pyro.selection.state.matching import Matched
from dps_pyro.selection.state.saved import saved_state
from dps_pyro.selection.state.tally import Tally
from dps_pyro.support import checks
from dps_pyro.support.locks import Lock, one_at_a_time
from dps_pyro.tracking.choice import sampler_tracker
from dps_pyro.tracking.pools.pooled import PooledTracker
from dps_pyro.tracking.predictor import Filter, Predictor
from dps_pyro.tracking.tracker import Tracker

if TYPE_CHECKING:
    from dps_pyro.inference.posterior import Posterior

__all__ = ["PromptSampler"]


class PromptSampler:
    """Tracks the solving progress of every prompt, and selects the prompts to roll out.

    Args:
        dynamics: the model of solving progress, or a baseline that brings its own filter.
        num_prompts: the number of prompts, or a list of their stable ids (distinct strings) in row order.
        acquisition: the rule that turns beliefs into a batch: "variance" (the default: prompts whose rewards are
            expected to vary most, and many different ones), "soft" (the same by the chance of a useful group),
            "thompson" (the batches of dynamic sampling without its rollouts), "top" (the rule of the paper), another
            name of `ACQUISITIONS`, or your own function.
        trials: the planned group size, for predictions of useful groups.
        posterior: a fitted prior of the same model. The default is the means of the model's own prior.
        posterior_draws: the number of the posterior's draws at which to filter, instead of at its mean. The belief is
            the average over the draws, weighted by how well each has predicted the groups so far (`TrackerOverDraws`).
            A step costs as many times as much. It cannot be combined with pooled beliefs or refits. None: the mean.
        features: what is known of each prompt, for the log: name -> N numbers or N strings. (A model that uses features
            takes them in its constructor.)
        refit_every: the number of steps between refits. A refit fits the model to the history so far and filters the
            history again at what was learned (online empirical Bayes). None never refits.
        refit: the settings of a refit.
        seed: the random seed. The same seed and the same rewards give the same selections.
        dtype: the dtype of the beliefs. The default is torch's.
        pooled: whether prompts that are alike and were never rolled out share one belief (`PooledTracker`), so that the
            cost of a step follows what was seen. Selections have the same distribution, but the same seed gives others.
            By default, beliefs are shared from 20,000 prompts on if the model and the acquisition allow it, on the CPU.
        device: where beliefs and refits are computed, such as "cuda". What the sampler returns lies on the CPU.

    One `observe` is one training step: the other prompts move on, too. Threads may share a sampler: calls wait in turn.

    Raises:
        ValueError: an argument is of another kind or out of range, or the posterior belongs to another model.
    """

    def __init__(
        self,
        dynamics: Dynamics[Any] | Predictor,
        num_prompts: int | Sequence[str],
        *,
        acquisition: str | Acquisition = "variance",
        trials: int = 8,
        posterior: Posterior | None = None,
        posterior_draws: int | None = None,
        features: Features | None = None,
        refit_every: int | None = None,
        refit: Refit = Refit(),  # noqa: B008 - it is frozen
        seed: int = 0,
        dtype: torch.dtype | None = None,
        pooled: bool | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.lock = Lock()
        ids = ids_of("num_prompts", num_prompts)
        count = checks.count("num_prompts", num_prompts if ids is None else len(ids), 1)
        self.trials = checks.count("trials", trials, 1)
        self._acquire: Acquisition = arguments.acquisition_of(acquisition)
        self.dynamics = dynamics
        values, choosable = arguments.site_values(dynamics, posterior), rule_of(self._acquire) is not None
        few = arguments.few_draws(dynamics, posterior, posterior_draws, pooled, refit_every)
        self.tracker: Filter = sampler_tracker(
            dynamics, count, values=values, draws=few, dtype=dtype, pooled=pooled, choosable=choosable, device=device
        )
        self._choice = PooledChoice.of(self.tracker, self._acquire)
        self.tracker.history.ids = ids
        self.tracker.history.features = checks.features("features", features, count)
        self._refit_every = None if refit_every is None else checks.count("refit_every", refit_every, 1)
        self._refitter = arguments.refitter_of(self.tracker, dynamics, refit_every, refit, posterior, device)
        self._generator = torch.Generator().manual_seed(checks.count("seed", seed, -(2**63), 2**64 - 1))
        self._coverage = Coverage(self.tracker)
        self._tally = Tally()
        self.matched: Matched | None = None
        """How the prompts of the last loaded state were matched to those of this sampler, if they were not the same."""
        self.ahead = Ahead(self.lock)  # the batches that were selected for data loaders

    @one_at_a_time
    def select(self, batch_size: int) -> Tensor:
        """Choose the prompts of the coming step: long [batch_size], distinct rows (`sampler.ids[row]` is the id).
        Prompts that were selected before and have not been observed yet may be selected again.

        Raises:
            ValueError: `batch_size` is not within 1..num_prompts, or a custom acquisition did not return N scores.
        """
        batch_size = checks.count("batch_size", batch_size, 1, self.num_prompts - self._coverage.num_retired)
        if self._choice is not None:
            found = self._choice.select(batch_size, self.trials, self._coverage.retired, self._generator)
            assert isinstance(self.tracker, PooledTracker)
            self._tally.selected(found.rows, found.chance, self.tracker.mean_informative(self.trials))
            return found.rows
        chance = self.informative(self.trials)
        ranked = self._coverage.without_retired(self._scores(chance))
        rows: Tensor = ranked.topk(batch_size).indices
        self._tally.selected(rows, chance[rows], float(chance.mean()))
        return rows

    def plan(self, rollouts: int, sizes: Sequence[int], signal: Signal = Signal(power=1.0)) -> Plan:  # noqa: B008
        """Choose the prompts of the coming step and their group sizes, for `rollouts` rollouts in total. Each prompt
        gets the group size in `sizes` with the most signal per rollout. The acquisition sees the chance that a group of
        that size is useful.

        Raises:
            ValueError: an argument is out of range.
            NotImplementedError: the tracker does not say how success rates are distributed.
        """
        rates = self.tracker.rates()
        own = best_sizes(rates, sizes, signal)
        chance = useful_of(rates, own).to(self.tracker.dtype)
        retired = self._coverage.retired
        order = self._scores(chance).argsort(descending=True)
        order = order if retired is None else order[~retired[order]]
        made = fill(order, own, rollouts, min(sizes))
        self._tally.selected(made.rows, chance[made.rows], float(chance.mean()))
        return made

    def baseline(self, prompts: Tensor | Sequence[int] | Sequence[str], rewards: Tensor) -> Tensor:
        """float64 [G, n], the expected reward of each rollout of the coming step, given the history and the other
        rollouts of its group (`dps_pyro.selection.baseline`). Call it before `observe`.

        Args:
            prompts: [G], rows or ids.
            rewards: float [G, n], the rewards of the groups, padded with NaN if a group is smaller than n.

        Raises:
            ValueError: the shapes disagree.
            NotImplementedError: the tracker does not define the expected reward of a rollout.
        """
        return leave_one_out(self.tracker, self.history.locate(prompts), rewards)

    def _scores(self, chance: Tensor) -> Tensor:
        """[N], the acquisition's scores for `chance` [N], the chances of a useful group."""
        return scores(self._acquire, self.tracker, self._coverage, chance, self.trials, self._generator)

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
        """Take in the groups of one step and move to the next step.

        Args:
            prompts: [V], the rows that were rolled out (as `select` returned them), or their ids. Each occurs once.
            solved: [V], how many rollouts of each group solved the prompt, within 0..trials.
            trials: [V] or one number, the group sizes. Use 0 for a group that was lost.
            step: the training step of the rollouts, counted from 0. The default is the coming step. With a later step,
                the steps in between pass without rollouts. An earlier step is a late observation: it is placed where it
                belongs and does not count as a step.
            trained: bool [V], whether the policy was updated on the group. The default is true if there were rollouts.
            progress: the policy's overall progress before the step, for instance its held-out accuracy, for models
                that use it (`Trained`). The default is the last known value.
            useful: bool [V], whether the group's rewards differ by more than `tolerance`, for the metrics and the log.
                By default it is `tolerance < solved < trials - tolerance`, which is right for rewards of 0 and 1. Pass
                it for other rewards, because their sum does not tell whether they differ.
            columns: your own numbers for the step by name, such as a temperature, for models that ask for them
                (`step.columns`). A column that is left out keeps its last known value.

        Raises:
            ValueError: an argument is invalid, or the step is more than 100,000 ahead. The sampler is left unchanged.
        """
        now = self.tracker.step
        step = arguments.coming_step(step, now)
        groups = arguments.groups_given(self.tracker, prompts, solved, trials, trained=trained, useful=useful)
        progress = None if progress is None else float(checks.numbers("progress", progress))
        own = step_columns(columns or {}, self.history.features)
        self._take_up_refit()
        rows, count, sizes, learned, differ = groups
        known: dict[str, Any] = {"predicted": self._tally.predicted(rows), "trained": learned, "useful": differ}
        evidence = self.tracker.observe(rows, count, sizes, step, progress=progress, columns=own, **known)
        if self._refitter is not None and step >= now and (step + 1) % (self._refit_every or 1) == 0 and self.history:
            self._refitter.begin(self.history)
            if not self._refitter.settings.background:
                self._take_up_refit()
        self._coverage.observed(rows, sizes)
        self._tally.observed(groups, evidence)

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
        names = ids_of("prompts", prompts)
        if (names is None) != (self.ids is None):
            raise ValueError(f"prompts: expected {'ids' if self.ids else 'a number'}, got {prompts!r}")
        if known := in_both(self.ids, names):
            raise ValueError(f"prompts: expected new ids, got {min(known)!r}, which is there already")
        learned = None if self._refitter is None else self._refitter.posterior
        if learned is not None and learned.about["per_prompt"] and isinstance(self.tracker, Tracker):
            # What was learned of each prompt's own says nothing of new prompts; the next refit has them all.
            self.tracker.refilter(learned.population().point)
        if names is None or len(names):
            self.tracker.add(checks.count("prompts", prompts, 1) if names is None else names, features)
        self._coverage.grow()

    def retire(self, prompts: Tensor | Sequence[int] | Sequence[str]) -> None:
        """Never select these prompts again. The rows keep their numbers, the beliefs move on, and groups that are still
        being rolled out may be observed.

        Raises:
            ValueError: the prompts are unknown, or no prompt would be left.
        """
        self._coverage.retire(self.history.locate(prompts))

    @one_at_a_time
    def informative(self, trials: int) -> Tensor:
        """[N], the predictive chance, in [0, 1], that a group of `trials` rollouts in the coming step is useful: its
        rewards differ by more than `tolerance`. With rewards of 0 and 1 this means neither all wrong nor all right."""
        return self.tracker.informative(checks.count("trials", trials, 1))

    @one_at_a_time
    def metrics(self) -> dict[str, float]:
        """Numbers to log after `observe`: the belief mass of each state, the predicted and realised shares of useful
        groups, coverage, rollouts, and the mean log evidence per group (the prequential score) of the last step and so
        far. Groups that the model holds to be impossible (log evidence -inf) are left out of the mean and counted."""
        mass = self.tracker.mass().tolist()
        names = self.tracker.states
        names = names if len(names) == len(mass) else tuple(f"state_{k}" for k in range(len(mass)))
        return {
            "step": float(self.tracker.step),
            "rollouts": self._tally.totals["rollouts"],
            "visited": self._coverage.num_visited / self.num_prompts,
            "pooled": float(self.pooled),
            **{f"belief/{name.replace(' ', '_')}": value for name, value in zip(names, mass, strict=True)},
            **self._tally.so_far(),
            **({} if self._refitter is None else {"refits": float(self._refitter.count)}),
            **self._tally.last,
        }

    @one_at_a_time
    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to continue exactly as this sampler would, as nested tensors and plain values.
        `dps_pyro.storage.save_state` saves it without pickle."""
        return {
            "tracker": self.tracker.state_dict(),
            "generator": self._generator.get_state(),
            **self._coverage.state_dict(),
            "choice": {} if self._choice is None else self._choice.state_dict(),
            **self._tally.state_dict(),
            "ids": saved_ids(self.history.ids),
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
        saved = saved_state(state, names, self.ids, self.num_prompts, by_id=not self.pooled)
        self.matched = saved.matched or self.matched
        self.tracker.load_state_dict(saved.state["tracker"])
        self._generator, self._tally = saved.generator, saved.tally
        self._coverage.load_state_dict(saved.state)
        if self._choice is not None:
            self._choice.load_state_dict(saved.state.get("choice", {}))
        self.ahead.load_state_dict(saved.state["ahead"])
        if self._refitter is not None and saved.state["refit"]:
            self._refitter.load_state_dict(saved.state["refit"])

    def as_torch_sampler(
        self,
        batch_size: int,
        repeats: int = 1,
        num_batches: int | None = None,
        *,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> PromptBatches:
        """A torch `Sampler` of rows for `DataLoader(dataset, batch_size=batch_size * repeats, sampler=...)`.

        Args:
            batch_size: the number of distinct prompts per batch.
            repeats: how often each prompt occurs in a row. Use the group size if your loop makes one rollout per row.
            num_batches: the number of batches in one pass. The default makes one pass over the prompts.
            num_replicas: the number of processes that share every batch. Each process needs a sampler with the same
                seed that observes the same groups.
            rank: the number of this process. It gets its part of each batch:
                `batch_size * repeats / num_replicas` rows.

        A batch is selected in the main process when the loader asks for its first row. With `num_workers=0` this is
        when the batch is wanted, so that everything observed before counts. With workers it is
        `num_workers * prefetch_factor` batches earlier. With torchdata's `StatefulDataLoader`, save
        `sampler.state_dict()` and `loader.state_dict()` together, and load the sampler's first. The loader then
        continues with the same batches, including those that were fetched ahead.

        Raises:
            ValueError: an argument is out of range, or a batch cannot be shared evenly.
        """
        return PromptBatches(self, batch_size, repeats, num_batches, num_replicas=num_replicas, rank=rank)

    @property
    def num_prompts(self) -> int:
        """N."""
        return self.tracker.num_prompts

    @property
    def ids(self) -> list[str] | None:
        """The prompts' ids in row order; None if there are none. From 100,000 on, `Names`, which read like a list."""
        return cast("list[str] | None", self.history.ids)

    @property
    @one_at_a_time
    def belief(self) -> Tensor:
        """[N, K], `p(z_t | y_<t)` for the coming step, states ordered from unsolved to solved. It is a copy."""
        return self.tracker.belief.clone()

    @property
    def tolerance(self) -> float:
        """The largest and the smallest reward of a useful group differ by more than this. The model sets it."""
        return self.tracker.tolerance

    @property
    def history(self) -> RolloutHistory:
        """Every group observed so far."""
        return self.tracker.history

    @property
    @one_at_a_time
    def visits(self) -> Tensor:
        """Long [N], how often each prompt has been rolled out. It is a copy."""
        return self._coverage.visits.clone()

    @property
    def pooled(self) -> bool:
        """Whether the cost of a step follows what was seen. Otherwise it follows the number of prompts."""
        return isinstance(self.tracker, PooledTracker)

    def _take_up_refit(self) -> None:
        """Filter the history again at what the last refit learned, if there is a new one."""
        posterior = None if self._refitter is None else self._refitter.collect()
        if posterior is not None and isinstance(self.tracker, Tracker):
            self.tracker.refilter(posterior.point)
