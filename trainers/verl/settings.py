"""What stands under `data.dps_pyro` in verl's configuration, and the sampler that it makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from dps_pyro.inference.posterior import Posterior
from dps_pyro.inference.refit import Refit
from dps_pyro.models.by_name import make
from dps_pyro.selection.acquisition import acquisition_named
from dps_pyro.selection.sampler import PromptSampler
from dps_pyro.support import checks
from dps_pyro.trainers.config.convert import converted
from dps_pyro.trainers.verl.groups import Rule
from dps_pyro.trainers.verl.rows import Rows, features

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """The keys of `data.dps_pyro`. All have defaults; given on the command line they need a plus:
    `+data.dps_pyro.dynamics=LogitWalk`.
    """

    dynamics: str = "SolvingProgress"
    """The model of solving progress: a name in dps_pyro.models, or path/to/file.py:Name."""
    dynamics_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor; those that take groups or features may be named after `features`."""
    features: tuple[str, ...] = ()
    """What is known of each prompt: columns of the dataset, or entries of its extra_info. For models with groups or
    covariates, and for the log."""
    acquisition: str = "soft"
    """How beliefs become a batch: soft, thompson, top, entropy, uniform, or path/to/file.py:function."""
    sharpness: float = 4.0
    """Of "soft": weights are p ** sharpness, p the chance of a useful group."""
    prior: Path | None = None
    """A posterior saved by `dps-pyro fit` to start from."""
    refit_every: int = 0
    """Fit the model to the run's own rollouts every so many steps, and filter again at what was learned; 0: never."""
    seed: int | None = None
    """Of the selections; verl's data.seed if left out, and 0 where that is null."""
    trials: int | None = None
    """The group size that prompts are chosen for; verl's actor_rollout_ref.rollout.n if left out."""
    metric: str = "auto"
    """What tells a solved prompt: "reward", the name of an entry that the reward function returns beside the score, or
    "auto": "acc" where it returns that, "reward" elsewhere."""
    threshold: float = 0.5
    """A rollout with at least this much of the metric has solved its prompt."""

    @classmethod
    def of(cls, data: Any, rollouts: int | None = None) -> Settings:
        """The settings in the `data` section of verl's configuration, what is left out filled in from the rest of it.

        Args:
            data: the section, an OmegaConf node or a mapping; `dps_pyro` may be missing in it.
            rollouts: verl's number of rollouts a prompt.

        Raises:
            ValueError: there is no such setting, or its value is of another type or out of range.
        """
        given = data.get("dps_pyro") or {}
        if isinstance(given, Mapping) and not isinstance(given, dict):
            from omegaconf import OmegaConf

            given = OmegaConf.to_container(given, resolve=True)
        if not isinstance(given, Mapping):
            raise ValueError(f"data.dps_pyro: expected settings, as name: value, got {given!r}")
        hints = get_type_hints(cls)
        unknown = sorted(str(name) for name in given if name not in hints)
        if unknown:
            raise ValueError(f"data.dps_pyro: expected settings among {', '.join(hints)}; got {', '.join(unknown)}")
        made = cls(**{name: converted(f"data.dps_pyro.{name}", value, hints[name]) for name, value in given.items()})
        seed, trials = made.seed, made.trials
        seed = data.get("seed") or 0 if seed is None else seed
        trials = rollouts if trials is None else trials
        if trials is None:
            raise ValueError("data.dps_pyro.trials: expected the number of rollouts a prompt, got none")
        checks.count("data.dps_pyro.trials", trials, 1)
        checks.count("data.dps_pyro.refit_every", made.refit_every, 0)
        return dataclasses.replace(made, seed=seed, trials=trials)

    @property
    def rule(self) -> Rule:
        """When a rollout has solved its prompt."""
        return Rule(self.metric, self.threshold)

    def sampler(self, dataset: Any, rows: Rows) -> PromptSampler:
        """The sampler of the dataset's prompts.

        Raises:
            ValueError: there is no such model, acquisition, posterior or feature, or they do not fit each other.
        """
        known = features(dataset, self.features)
        return PromptSampler(
            make(self.dynamics, self.dynamics_args, known),
            rows.ids,
            acquisition=acquisition_named(self.acquisition, self.sharpness),
            trials=self.trials or 1,
            posterior=None if self.prior is None else Posterior.load(self.prior),
            features=known,
            refit_every=self.refit_every or None,
            refit=Refit(background=True),
            seed=self.seed or 0,
        )
