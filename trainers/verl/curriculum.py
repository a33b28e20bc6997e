"""verl 0.5 to 0.7: a sampler for `data.sampler.class_path`, which chooses the prompts and is told of each batch.

verl saves the dataloader's state, and this sampler's with it, before it tells of the step's rewards. So the state
after the step goes into a folder of its own beside it, as soon as the rewards are there; a run that was killed between
the two goes on without that one step's rewards, and says so.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

from dps_pyro.trainers.verl.versions import require

require("sampler")  # before anything of verl's, whose own errors would say less

from omegaconf import OmegaConf
from verl.experimental.dataset.sampler import AbstractCurriculumSampler

from dps_pyro.trainers.verl.groups import Trajectory, count
from dps_pyro.trainers.verl.rows import CARRIED, Rows
from dps_pyro.trainers.verl.selector import Selector
from dps_pyro.trainers.verl.settings import Settings

__all__ = ["PredictedSampler"]

FOLDER = "dps_pyro"
"""In verl's checkpoint folders, beside `actor` and `data.pt`."""

_REST = """
rollouts: ${oc.select:actor_rollout_ref.rollout.n,null}
folder: ${oc.select:trainer.default_local_dir,null}
resumed: ${oc.select:trainer.resume_from_path,null}
"""

logger = logging.getLogger(__name__)


class PredictedSampler(AbstractCurriculumSampler):  # type: ignore[misc]  # verl is untyped
    """Yields the rows of the prompts that are predicted to be partially solved, batch by batch.

    An epoch is as many batches as the dataset has, though not every prompt once.

    Args:
        data_source: verl's dataset.
        data_config: the `data` section of verl's configuration; `data.dps_pyro` holds the settings.

    Raises:
        ValueError: a setting is wrong, or two rows of the dataset cannot be told apart.
    """

    def __init__(self, data_source: Sized, data_config: Any) -> None:
        rest = OmegaConf.create(_REST, parent=data_config)
        settings = Settings.of(data_config, rest.rollouts)
        self._rows = Rows(data_source)
        self._rows.require_distinct()
        self._rule = settings.rule
        batch_size = data_config.get("gen_batch_size", None) or data_config.train_batch_size
        self.selector = Selector(settings.sampler(data_source, self._rows), batch_size)
        self._folder = None if rest.folder is None else Path(rest.folder)
        self._resumed = None if rest.resumed is None else Path(rest.resumed)
        self._yielded = 0  # in this epoch
        self._steps = 0  # of verl's that are over
        self._going_on = False
        self._saved: str | None = None  # the last state's token, until the step that it was saved in is over

    def __len__(self) -> int:
        return self.selector.sampler.num_prompts

    def __iter__(self) -> Iterator[int]:
        full = len(self) // self.selector.batch_size * self.selector.batch_size
        if not self._going_on or self._yielded >= full:
            self._yielded = 0
        self._going_on = False
        while self._yielded < full:
            self._yielded += 1
            yield self.selector.hand_out()

    def update(self, batch: Any) -> None:
        """Take in one step's rollouts.

        Args:
            batch: verl's, after the rewards: `token_level_scores`, `uid`, the dataset's columns, and what the reward
                function returned beside the score.

        Raises:
            ValueError: it is not of this dataset's prompts.
        """
        more = batch.non_tensor_batch
        rewards = batch.batch["token_level_scores"].sum(-1).tolist()
        named = [name for name in dict.fromkeys(("acc", self._rule.metric)) if name in more]
        rows: dict[str, int] = {}
        trajectories = []
        for at, (uid, reward) in enumerate(zip(more["uid"], rewards, strict=True)):
            if str(uid) not in rows:
                rows[str(uid)] = self._rows.row_of({column: more[column][at] for column in CARRIED if column in more})
            extra = {name: more[name][at] for name in named}
            trajectories.append(Trajectory(str(uid), at, 0, reward, extra))
        self.selector.dispatch_as(rows)
        self.selector.observe(count(trajectories, self._rule), version=self._steps)
        self.selector.keep_in_flight(())
        self._steps += 1
        numbers = self.selector.metrics()
        logger.info("step %d: %s", self._steps, " ".join(f"{name}={value:.4g}" for name, value in numbers.items()))
        if self._saved is not None and self._folder is not None:
            kept = self._folder / f"global_step_{self._steps}"
            if kept.is_dir():
                self.selector.save(kept / FOLDER, {"token": self._saved, "steps": self._steps})
        self._saved = None

    def state_dict(self) -> dict[str, Any]:
        """The state before the rewards of the step that verl is in, for verl's `data.pt`."""
        self._saved = uuid.uuid4().hex
        return {
            "selector": self.selector.state_dict(),
            "yielded": self._yielded,
            "steps": self._steps,
            "token": self._saved,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state: from the one after that step, if the run lived to write it.

        Raises:
            ValueError: it is another sampler's.
        """
        missing = [name for name in ("selector", "yielded", "steps", "token") if name not in state]
        if missing:
            raise ValueError(f"state: expected that of a PredictedSampler, got one without {', '.join(missing)}")
        self.selector.load_state_dict(state["selector"])
        self._yielded, self._steps, self._going_on = int(state["yielded"]), int(state["steps"]), True
        if self._yielded == 0:
            return  # before the first step
        step = self._steps + 1
        places = [self._folder / f"global_step_{step}"] if self._folder else []
        for place in [self._resumed, *places] if self._resumed else places:
            if (place / FOLDER).is_dir() and self.selector.load(place / FOLDER, {"token": state["token"]}):
                self._steps = step
                return
        logger.warning("No sampler state after step %d was written: its rewards are lost to the selection", step)
        # The rows of that step were rolled out and trained on: they are not handed out again.
        self.selector.abandon()
        self._steps = step
