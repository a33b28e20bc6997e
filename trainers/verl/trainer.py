"""verl 0.9: trainers registered beside verl's own, which choose their prompts and learn from what comes of them.

Each is verl's trainer of the same name with a few of its methods extended: the train dataloader's sampler
(`_init_dataloader`, `_next_train_batch`, `_fetch_one_gen_batch`), the rewards of a step (`step`), groups that the
replay buffer throws away (`_build_replay_buffer`), and checkpoints. Everything else is verl's.
"""

# What the mixin calls with super() is verl's, which the type checker does not see.
# mypy: disable-error-code="misc"

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dps_pyro.trainers.verl.versions import require

require("trainer")  # before anything of verl's, whose own errors would say less

import transfer_queue
from omegaconf import open_dict
from torch.utils.data import Sampler
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo.v1 import (
    PPOTrainerColocateAsync,
    PPOTrainerSeparateAsync,
    PPOTrainerSync,
    register_trainer,
)
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path
from verl.utils.dataset.rl_dataset import collate_fn

from dps_pyro.trainers.verl.groups import Trajectory, count
from dps_pyro.trainers.verl.rows import Rows
from dps_pyro.trainers.verl.selector import Selector
from dps_pyro.trainers.verl.settings import Settings

__all__ = ["PredictedColocateAsync", "PredictedSeparateAsync", "PredictedSync", "PredictedTrainer"]

FOLDER = "dps_pyro"
"""In verl's checkpoint folders, beside `actor` and `data.pt`."""

logger = logging.getLogger(__name__)


class _Selected(Sampler[int]):
    """The rows that the selector hands out, without end; an epoch of it is as long as the dataset."""

    def __init__(self, selector: Selector) -> None:
        self._selector = selector

    def __iter__(self) -> Iterator[int]:
        while True:
            yield self._selector.hand_out()

    def __len__(self) -> int:
        return self._selector.sampler.num_prompts


class PredictedTrainer:
    """Mixed into a trainer of verl's: its training prompts are those predicted to be partially solved.

    The driver process selects and observes; workers, rollouts and rewards know nothing of it. Groups that an
    asynchronous trainer trains on later than in the step after their rollouts are placed at the policy that made them.
    """

    mode: str
    """The trainer mode of verl's that this is one of."""

    def __init__(self, config: Any) -> None:
        # verl branches on the mode's name in many places; it has found this class by its own name already.
        with open_dict(config):
            config.trainer.v1.trainer_mode = self.mode
        self._evicted: list[Trajectory] = []
        super().__init__(config)  # type: ignore[call-arg]  # verl's trainer comes next

    # ------------------------------------------------------------------------------------------- before the rollouts

    def _init_dataloader(self: Any) -> None:
        super()._init_dataloader()
        settings = Settings.of(self.config.data, self.config.actor_rollout_ref.rollout.n)
        self._rule = settings.rule
        sampler = settings.sampler(self.train_dataset, Rows(self.train_dataset))
        self.selector = Selector(sampler, self.config.data.train_batch_size)
        self.train_dataloader = self._selected_dataloader()

    def _selected_dataloader(self: Any) -> StatefulDataLoader:
        """verl's train dataloader on selected rows. In this process, whatever data.dataloader_num_workers: workers
        would fetch prompts ahead of the rewards that they are selected by."""
        return StatefulDataLoader(
            dataset=self.train_dataset,
            batch_size=self.config.data.get("gen_batch_size", None) or self.config.data.train_batch_size,
            num_workers=0,
            drop_last=True,
            collate_fn=collate_fn,
            sampler=_Selected(self.selector),
        )

    def _next_train_batch(self: Any, num_prompts: int | None = None) -> Any:
        # Together, also where verl then fetches them one at a time: they shall be distinct.
        self.selector.plan(self.config.data.train_batch_size if num_prompts is None else num_prompts)
        return super()._next_train_batch(num_prompts)

    def _fetch_one_gen_batch(self: Any) -> Any:
        batch = super()._fetch_one_gen_batch()
        self.selector.dispatch(list(batch["uid"]))
        return batch

    # -------------------------------------------------------------------------------------------- after the rollouts

    def step(self: Any, metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
        """verl's step, then the sampler's: it observes the step's groups, and those thrown away meanwhile."""
        batch = super().step(metrics, timing_raw)
        real = [(key, tag) for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
        trained = _trajectories([key for key, _ in real], [tag for _, tag in real], batch.partition_id)
        evicted = {one.uid for one in self._evicted}
        groups = count([*trained, *self._evicted], self._rule)
        self._evicted.clear()
        self.selector.observe(groups, version=self.global_steps - 1, evicted=evicted)
        waiting = (transfer_queue.kv_list("train") or {}).get("train", {})
        self.selector.keep_in_flight({key for key, tag in waiting.items() if tag.get("is_prompt", False)})
        metrics.update(self.selector.metrics())
        return batch

    def _build_replay_buffer(self: Any) -> Any:
        """verl's replay buffer, which tells of the groups that it throws away, too: those that group filtering
        (DAPO's dynamic sampling) finds useless, above all. A sampler that saw the others only would believe that every
        prompt is useful."""
        buffer = super()._build_replay_buffer()
        clear = getattr(buffer, "_clear_groups", None)
        if clear is None:  # a user's own, with rules of its own
            return buffer

        def tell_and_clear(partition_id: str, uids: set[str]) -> None:
            if partition_id == "train":
                tags = buffer.partitions[partition_id]
                keys = [key for key in tags if key.split("_")[0] in uids]
                self._evicted.extend(_trajectories(keys, [tags[key] for key in keys], partition_id))
            clear(partition_id, uids)

        buffer._clear_groups = tell_and_clear
        return buffer

    # ------------------------------------------------------------------------------------------------------- keeping

    def _save_checkpoint(self: Any) -> None:
        # Before verl's own, which ends by naming this checkpoint the latest: it is then whole.
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        self.selector.save(folder / FOLDER)
        super()._save_checkpoint()

    def _load_checkpoint(self: Any) -> None:
        super()._load_checkpoint()
        # What verl has restored is where a dataloader stood; which rows come next the selector alone knows.
        self.train_dataloader = self._selected_dataloader()
        if self.global_steps == 0:
            return
        folder = self._resumed_from() / FOLDER
        if folder.is_dir():
            self.selector.load(folder)
        else:
            self.selector.origin = self.global_steps
            logger.warning("No sampler state at %s: prompts are predicted from nothing, as in a new run", folder)

    def _resumed_from(self: Any) -> Path:
        """The checkpoint that verl has just loaded."""
        trainer = self.config.trainer
        if trainer.resume_mode == "resume_path":
            return Path(trainer.resume_from_path).absolute()
        return Path(find_latest_ckpt_path(str(Path(trainer.default_local_dir).absolute())))


def _trajectories(keys: Sequence[str], tags: Sequence[dict[str, Any]], partition: str) -> list[Trajectory]:
    """What the transfer queue holds under `keys`, each of the form uid_session_index."""
    if not keys:
        return []
    data = transfer_queue.kv_batch_get(
        keys=list(keys), partition_id=partition, select_fields=["rm_scores", "extra_fields"]
    )
    extras = list(data["extra_fields"]) if "extra_fields" in data else [{}] * len(keys)
    found = []
    for key, tag, scores, extra in zip(keys, tags, data["rm_scores"].unbind(), extras, strict=True):
        uid, session, index = key.rsplit("_", 2)
        fields = getattr(extra, "data", extra)
        more = fields.get("reward_extra_info") if isinstance(fields, dict) else None
        version = tag.get("max_global_steps")
        found.append(Trajectory(uid, int(session), int(index), float(scores.sum()), more or {}, version))
    return found


@register_trainer("dps_pyro_sync")
class PredictedSync(PredictedTrainer, PPOTrainerSync):
    """verl's synchronous trainer on predicted prompts."""

    mode = "sync"


@register_trainer("dps_pyro_colocate_async")
class PredictedColocateAsync(PredictedTrainer, PPOTrainerColocateAsync):
    """verl's asynchronous trainer with trainer and rollouts on the same GPUs, on predicted prompts."""

    mode = "colocate_async"


@register_trainer("dps_pyro_separate_async")
class PredictedSeparateAsync(PredictedTrainer, PPOTrainerSeparateAsync):
    """verl's asynchronous trainer with rollouts on GPUs of their own, on predicted prompts."""

    mode = "separate_async"
