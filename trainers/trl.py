"""TRL's trainers on predicted prompts: `PredictiveGRPOTrainer`, `PredictiveRLOOTrainer`.

Three lines of a TRL script change::

    from dps_pyro import PromptSampler
    from dps_pyro.models import Siblings
    from dps_pyro.trainers.trl import PredictiveGRPOTrainer

    sampler = PromptSampler(Siblings(), len(dataset), trials=args.num_generations)
    trainer = PredictiveGRPOTrainer(..., train_dataset=dataset, prompt_sampler=sampler)

How it fits in: TRL's dataloader returns a generation batch `steps_per_generation * num_iterations` times and rolls
out one of them. It also fetches ahead, so the answers of a sampler would be at least one step old. Here the dataloader
is only the clock. The prompts are selected at the moment that TRL generates, when every reward so far has been
observed, and laid out as TRL's `RepeatSampler` lays them out: each prompt `num_generations` times in a row, over the
processes in order. The main process selects and tells the others; rewards are gathered (by TRL) before they are
observed. Losses, generation with vLLM or without, reward functions and evaluation are TRL's own, untouched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dps_pyro.history.counts import count_groups
from dps_pyro.history.rollouts import prompt_id
from dps_pyro.selection.sampler import PromptSampler
from dps_pyro.selection.state.matching import distinct, realigned
from dps_pyro.storage import atomic_path, load_state, save_state
from dps_pyro.support import checks
from dps_pyro.support.versions import require

SUPPORTED = ">=1.0,<2"
"""The versions of TRL that this module was made for."""

require("trl", SUPPORTED, extra="trl")

from accelerate.utils import broadcast_object_list  # noqa: E402
from datasets import Dataset  # noqa: E402
from trl import GRPOTrainer, RLOOTrainer  # type: ignore[attr-defined]  # noqa: E402

__all__ = ["WEIGHTED_SUM", "PredictiveGRPOTrainer", "PredictiveRLOOTrainer", "PredictiveSampling"]

WEIGHTED_SUM = "weighted sum"
"""`solved_by`: the sum of all reward functions by `reward_weights`, which is what TRL trains on."""

FOLDER = "dps_pyro"
"""The sampler's folder in a checkpoint."""

HOOKS = ("_generate_and_score_completions", "_calculate_rewards", "_save_checkpoint", "_load_optimizer_and_scheduler")
"""The methods that this module overrides. TRL does not promise these names, so their presence is checked."""

MEANS = ("useful", "log_evidence", "informative/selected", "informative/pool")
"""The sampler's metrics that describe one generation. Their means over a logging interval are logged."""

logger = logging.getLogger(__name__)

SolvedBy = str | Callable[[Mapping[str, Tensor]], Tensor]


class PredictiveSampling:
    """A mixin that puts predicted prompts into a TRL trainer of GRPO's build: `class Mine(PredictiveSampling, Theirs)`.

    Args:
        *args: the trainer's own arguments.
        prompt_sampler: a sampler of the training prompts, row for row, with `trials=num_generations`.
        solved_by: the reward that decides whether a completion solved its prompt: the name of a reward function (its
            `__name__`), `WEIGHTED_SUM`, or a function of all rewards, name -> [R] (NaN where a reward function returned
            None), that returns [R]. It may be left out if there is a single reward function.
        solved_at: a completion with at least this reward solved its prompt. None: rewards within 0..1 are partial
            solutions, for models of partial reward such as `DenseReward`.
        prompt_id: the column of `train_dataset` with the sampler's ids. If left out, the sampler's rows are those of
            the dataset, and a resumed run finds each prompt by its content, wherever it stands by then.
        **kwargs: the trainer's own arguments.

    One generation is one step of the sampler. What is logged under `sampler/` is its `metrics()`.

    Raises:
        ValueError: the sampler does not fit the dataset or `num_generations`, the dataset is a stream or too small
            for a batch, or it is not clear which reward decides what is solved.
        RuntimeError: this version of TRL lacks a method that has to be overridden.
    """

    # What the trainer brings.
    args: Any
    accelerator: Any
    model: Any
    train_dataset: Any
    num_generations: int
    reward_func_names: list[str]
    reward_weights: Tensor

    def __init__(
        self,
        *args: Any,
        prompt_sampler: PromptSampler,
        solved_by: SolvedBy | None = None,
        solved_at: float | None = 1.0,
        prompt_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        trainer = super()
        absent = [name for name in HOOKS if not hasattr(trainer, name)]
        if absent:
            version = require("trl", SUPPORTED, extra="trl")
            raise RuntimeError(f"expected a trainer with {', '.join(absent)}, which trl {version} does not have")
        self.prompt_sampler = checks.instance("prompt_sampler", prompt_sampler, PromptSampler)
        super().__init__(*args, **kwargs)
        self._solved_by = self._checked_reward(solved_by)
        self._solved_at = solved_at
        self._places = self._checked_places(prompt_id)
        self._groups_in_batch()  # says whether the dataset is large enough
        self._rows: list[int] = []  # the rows whose rollouts are being trained on
        self._unscored = False  # whether the rollouts under way have no rewards yet
        self._resumed_within = False  # whether the checkpoint was made while rollouts were being reused
        self._seen: list[dict[str, float]] = []  # the sampler's metrics since the last log

    # --------------------------------------------------------------------------------------------- TRL's own hooks

    def get_train_dataloader(self) -> Any:
        """TRL's dataloader over as many blank rows, as the clock. The real rows are read when they are rolled out, once
        per rollout instead of once for each of TRL's `steps_per_generation * num_iterations` repeats."""
        real = self.train_dataset
        self.train_dataset = Dataset.from_dict({"prompt": [""] * len(real)})
        try:
            return super().get_train_dataloader()  # type: ignore[misc]
        finally:
            self.train_dataset = real

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        if not self.model.training:  # TRL's own test; evaluation is TRL's
            return super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        self._select(len(inputs) * self.accelerator.num_processes)
        self._unscored = True
        output = super()._generate_and_score_completions(self._examples(len(inputs)))  # type: ignore[misc]
        if self._unscored:
            raise RuntimeError("expected TRL to call _calculate_rewards once a generation; it did not")
        return output

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # type: ignore[misc]
        if self.model.training:
            self._observe(rewards)
        return rewards

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """TRL's log, with the sampler's metrics in training."""
        if self.model.training and self._seen:
            steps, self._seen = self._seen, []
            for name, value in steps[-1].items():
                known = [step[name] for step in steps if name in step]
                logs[f"sampler/{name}"] = sum(known) / len(known) if name in MEANS else value
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Before the rest: whatever looks like a whole checkpoint of TRL's has the sampler's state.
        if self.accelerator.is_main_process:
            step: int = self.state.global_step  # type: ignore[attr-defined]
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{step}" / FOLDER  # type: ignore[attr-defined]
            rows = torch.tensor(self._rows, dtype=torch.long)
            state = {
                "sampler": self.prompt_sampler.state_dict(),
                "micro_step": self._step,
                "rows": rows,
                "names": self._names(),
            }
            with atomic_path(folder) as aside:
                aside.mkdir()
                save_state(aside, state)
        super()._save_checkpoint(model, trial)  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None:
            return
        folder = Path(checkpoint) / FOLDER
        found: dict[str, Any] = {}
        if self.accelerator.is_main_process:
            if folder.is_dir():
                state = load_state(folder)
                found = {"micro_step": state["micro_step"], "rows": self._load_sampler(state)}
            else:
                logger.warning("%s has no %s folder: the sampler starts as it is, not resumed", checkpoint, FOLDER)
        found = self._from_main(found)
        if found:
            # TRL counts micro-batches from 0 again, which would move the moments of generation.
            self._step: int = found["micro_step"]
            self._rows = found["rows"]
            self._resumed_within = self._step % self._reuse() != 0
            self._buffered_inputs = None

    def _names(self) -> list[str]:
        """A name for each of the sampler's rows, made from the content of its row in the dataset."""
        if self.prompt_sampler.ids is not None:
            return self.prompt_sampler.ids
        names = [prompt_id(prompt) for prompt in self.train_dataset["prompt"]]
        if len(set(names)) < len(names):  # the same question with another answer
            names = [prompt_id(dict(row)) for row in self.train_dataset]
        return distinct(names)

    def _load_sampler(self, state: Mapping[str, Any]) -> list[int]:
        """Load the sampler's state and match its prompts by their content. Returns the rows that are being trained on,
        or none if one of them is no longer there.

        Raises:
            ValueError: it is of other prompts.
        """
        sampler, rows = self.prompt_sampler, state["rows"]
        if sampler.ids is not None:
            before = sampler.matched
            sampler.load_state_dict(state["sampler"])
            matched = None if sampler.matched is before else sampler.matched
        else:
            found, matched = realigned(state["sampler"], state["names"], self._names())
            sampler.load_state_dict(found)
            if not matched.same:
                logger.warning("train_dataset: %s", matched)
        moved = rows if matched is None else matched.rows(rows)
        return [] if moved is None else list(moved.tolist())

    # ------------------------------------------------------------------------------------------- the five verbs

    def _select(self, rollouts: int) -> None:
        """Choose the prompts of the coming rollouts, the same in every process."""
        groups, rest = divmod(rollouts, self.num_generations)
        if rest:
            raise ValueError(f"expected a generation batch of whole groups of {self.num_generations}, got {rollouts}")
        # TRL does not save rollouts. A checkpoint in the middle of their reuse rolls the same prompts out again, and
        # what the sampler was told of them it was told before.
        if self._resumed_within and len(self._rows) == groups:
            return
        self._resumed_within = False
        chosen = self.prompt_sampler.select(groups).tolist() if self.accelerator.is_main_process else []
        self._rows = self._from_main(chosen)

    def _examples(self, count: int) -> list[dict[str, Any]]:
        """This process's share of the rollouts: `count` rows of the dataset, in RepeatSampler's order."""
        layout = [row for row in self._rows for _ in range(self.num_generations)]
        first = self.accelerator.process_index * count
        dataset = self._remove_unused_columns(self.train_dataset, description="training")  # type: ignore[attr-defined]
        # Each rollout gets an example of its own, as from TRL's dataloader: TRL writes into them.
        return [dataset[self._places[row]] for row in layout[first : first + count]]

    def _observe(self, rewards: Tensor) -> None:
        """Tell the sampler; `rewards` [R, F] of all processes, in the layout's order."""
        self._unscored = False
        layout = torch.tensor(self._rows).repeat_interleave(self.num_generations)
        if len(rewards) != len(layout):
            raise ValueError(f"rewards: expected one row for each of {len(layout)} rollouts, got {len(rewards)}")
        if self._resumed_within:
            self._resumed_within = False
            return
        if self.accelerator.is_main_process:
            counts = count_groups(layout, self._verdict(rewards.detach().double().cpu()), self._solved_at)
            useful = counts.useful(self.prompt_sampler.tolerance)
            self.prompt_sampler.observe(counts.prompts, counts.solved, counts.trials, useful=useful)
            self._seen.append(self.prompt_sampler.metrics())

    def _verdict(self, rewards: Tensor) -> Tensor:
        """[R], the reward that decides what is solved; NaN if no reward function returned one."""
        named = dict(zip(self.reward_func_names, rewards.unbind(-1), strict=True))
        if callable(self._solved_by):
            return self._solved_by(named)
        if self._solved_by == WEIGHTED_SUM:
            total = (rewards * self.reward_weights.double().cpu()).nansum(-1)
            return total.masked_fill(rewards.isnan().all(-1), torch.nan)
        return named[self._solved_by]

    # ----------------------------------------------------------------------------------------------- the rest

    def _from_main(self, value: Any) -> Any:
        """The main process's value, in every process."""
        box = [value]
        broadcast_object_list(box, from_process=0)
        return box[0]

    def _reuse(self) -> int:
        """How many micro-batches one generation serves."""
        count: int = self.args.steps_per_generation * self.args.num_iterations
        return count

    def _groups_in_batch(self) -> int:
        groups: int = self.args.generation_batch_size // self.num_generations
        if groups > len(self._places):
            raise ValueError(
                f"train_dataset: expected at least the {groups} prompts of a generation, got {len(self._places)}: "
                "lower per_device_train_batch_size or steps_per_generation, or raise num_generations"
            )
        return groups

    def _checked_reward(self, solved_by: SolvedBy | None) -> SolvedBy:
        names = self.reward_func_names
        if solved_by is None and len(names) > 1:
            raise ValueError(
                f"solved_by: expected the reward function that tells what is solved, one of {', '.join(names)}, or "
                f"{WEIGHTED_SUM!r} (with solved_at=), got none"
            )
        if isinstance(solved_by, str) and solved_by != WEIGHTED_SUM and names.count(solved_by) != 1:
            raise ValueError(f"solved_by: expected {WEIGHTED_SUM!r} or one of {', '.join(names)}, got {solved_by!r}")
        return names[0] if solved_by is None else solved_by

    def _checked_places(self, prompt_id: str | None) -> list[int]:
        """The position in the dataset of each of the sampler's rows."""
        sampler, dataset = self.prompt_sampler, self.train_dataset
        if not isinstance(dataset, Dataset):
            raise ValueError(
                f"train_dataset: expected a Dataset, whose rows can be chosen, got {type(dataset).__name__}"
            )
        if sampler.trials != self.num_generations:
            raise ValueError(
                f"prompt_sampler: expected trials={self.num_generations}, as num_generations, got {sampler.trials}"
            )
        if prompt_id is None:
            if sampler.num_prompts != len(dataset):
                rows = f"{len(dataset)} prompts, one per row of train_dataset"
                raise ValueError(f"prompt_sampler: expected {rows}, got {sampler.num_prompts}")
            return list(range(len(dataset)))
        if prompt_id not in dataset.column_names:
            raise ValueError(f"prompt_id: expected one of {', '.join(dataset.column_names)}, got {prompt_id!r}")
        if sampler.ids is None:
            raise ValueError(f"prompt_id: expected a sampler with ids, got one of {sampler.num_prompts} rows")
        place = {str(name): at for at, name in enumerate(dataset[prompt_id])}
        if len(place) < len(dataset):
            raise ValueError(f"prompt_id: expected distinct ids in column {prompt_id!r}, got repeated ones")
        strange = sorted(set(sampler.ids).symmetric_difference(place))
        if strange:
            where = "train_dataset" if strange[0] in place else "the sampler"
            raise ValueError(f"prompt_id: expected the same ids in both, got {strange[0]!r} in {where} only")
        return [place[name] for name in sampler.ids]


class PredictiveGRPOTrainer(PredictiveSampling, GRPOTrainer):  # type: ignore[misc]
    """TRL's `GRPOTrainer`, with all of its losses, on predicted prompts: see `PredictiveSampling`."""


class PredictiveRLOOTrainer(PredictiveSampling, RLOOTrainer):  # type: ignore[misc]
    """TRL's `RLOOTrainer` on predicted prompts: see `PredictiveSampling`."""
