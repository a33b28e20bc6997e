"""What stands under `data.dps_pyro` in verl's configuration, and the sampler that it makes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, StrictInt

from dps_pyro.inference.posterior import Posterior
from dps_pyro.inference.refit import Refit
from dps_pyro.models.by_name import make
from dps_pyro.selection.acquisition import Acquisition, acquisition_named, by_variance, worth_named
from dps_pyro.selection.sampler import PromptSampler
from dps_pyro.trainers.config.errors import unknown
from dps_pyro.trainers.config.kinds import Count, CountOrNone, NotNegative, Number, Section
from dps_pyro.trainers.verl.groups import Rule
from dps_pyro.trainers.verl.rows import Rows, features

__all__ = ["Settings"]


class Settings(Section):
    """The keys of `data.dps_pyro`. All have defaults; given on the command line they need a plus:
    `+data.dps_pyro.dynamics=LogitWalk`.
    """

    dynamics: str = "Siblings"
    """The model of solving progress: a name in dps_pyro.models, or path/to/file.py:Name. The default pools the prompts
    of a group, which `dynamics_args` names: {groups: level}."""
    dynamics_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the model's constructor. Those that take groups or features accept names from `features`."""
    features: tuple[str, ...] = ()
    """What is known about each prompt, by names of the dataset's columns or of entries of its extra_info. Models with
    groups or covariates use it, and the log keeps it."""
    acquisition: str = "soft"
    """How beliefs become a batch: soft, thompson, top, entropy, uniform, or path/to/file.py:function."""
    sharpness: NotNegative = 2.0
    """Exponent of the acquisition "soft": each prompt is weighted by worth ** sharpness."""
    worth: Literal["variance", "useful"] | None = None
    """What a prompt is worth to the acquisition: "variance" is the expected variance of one rollout's reward, which is
    largest at success rates near one half, and "useful" is the chance of a useful group. The default is "variance" for
    the acquisition "soft", and "useful" for all others."""
    prior: Path | None = None
    """A posterior to start from, as saved by `dps-pyro fit`."""
    refit_every: CountOrNone = 0
    """Number of steps between fits of the model to the run's own rollouts. 0 never fits."""
    seed: StrictInt | None = None
    """Random seed for prompt selection. The default is verl's data.seed, or 0 if that is null."""
    trials: Count | None = None
    """Group size for which prompts are chosen. The default is verl's actor_rollout_ref.rollout.n."""
    metric: str = "auto"
    """What decides whether a rollout has solved its prompt: "reward", or the name of an entry that the reward function
    returns beside the score. "auto" is "acc" if the function returns it, and "reward" otherwise."""
    threshold: Number = 0.5
    """Smallest value of the metric with which a rollout has solved its prompt."""

    @classmethod
    def of(cls, data: Any, rollouts: int | None = None) -> Settings:
        """The settings in the `data` section of verl's configuration, what is left out filled in from the rest of it.

        Args:
            data: the section, an OmegaConf node or a mapping; `dps_pyro` may be missing in it.
            rollouts: verl's number of rollouts per prompt.

        Raises:
            ValueError: there is no such setting, or its value is of another type or out of range.
        """
        given = data.get("dps_pyro") or {}
        if isinstance(given, Mapping) and not isinstance(given, dict):
            from omegaconf import OmegaConf

            given = OmegaConf.to_container(given, resolve=True)
        if not isinstance(given, Mapping):
            raise ValueError(f"data.dps_pyro: expected settings, as name: value, got {given!r}")
        if strangers := sorted(str(name) for name in given if name not in cls.model_fields):
            raise ValueError(unknown(strangers, cls.model_fields, "data.dps_pyro"))
        try:
            made = cls(**given)
        except ValueError as error:
            raise ValueError(f"data.dps_pyro.{error}") from error
        seed, trials = made.seed, made.trials
        seed = (data.get("seed") or 0) if seed is None else seed
        trials = rollouts if trials is None else trials
        if trials is None:
            raise ValueError("data.dps_pyro.trials: expected the number of rollouts per prompt, got none")
        count: Any = trials  # `rollouts` is as verl's own configuration has it
        if type(count) is not int or count < 1:
            raise ValueError(f"data.dps_pyro.trials: expected a whole number of at least 1, got {trials!r}")
        return made.model_copy(update={"seed": seed, "trials": count})

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
            acquisition=self._acquisition(),
            trials=self.trials or 1,
            posterior=None if self.prior is None else Posterior.load(self.prior),
            features=known,
            refit_every=self.refit_every or None,
            refit=Refit(background=True),
            seed=self.seed or 0,
        )

    def _acquisition(self) -> Acquisition:
        made = acquisition_named(self.acquisition, self.sharpness)
        return by_variance(made) if worth_named(self.worth, self.acquisition) == "variance" else made
