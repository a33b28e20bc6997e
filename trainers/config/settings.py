"""The configuration of a training run: seven sections, and what follows from several of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dps_pyro.lm.known_baseline import Scale
from dps_pyro.lm.losses import Kind
from dps_pyro.policies.embedded import defaults_of
from dps_pyro.rollouts import Sampling
from dps_pyro.selection.signal import Signal
from dps_pyro.trainers.config.errors import told, unknown
from dps_pyro.trainers.config.kinds import Section
from dps_pyro.trainers.config.sections import (
    ORACLE,
    SECTION_OF,
    SECTIONS,
    EngineSection,
    EvaluationSection,
    MachineSection,
    RolloutsSection,
    SelectionSection,
    TaskSection,
    UpdateSection,
)

__all__ = ["TrainConfig", "sectioned"]


class TrainConfig(BaseModel):
    """Fine-tune a causal language model by policy gradient on prompts that are predicted to be partially solved."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: TaskSection = Field(default_factory=TaskSection)
    rollouts: RolloutsSection = Field(default_factory=RolloutsSection)
    engine: EngineSection = Field(default_factory=EngineSection)
    selection: SelectionSection = Field(default_factory=SelectionSection)
    update: UpdateSection = Field(default_factory=UpdateSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    machine: MachineSection = Field(default_factory=MachineSection)

    def __init__(self, **sections: Any) -> None:
        try:
            super().__init__(**sections)
        except ValidationError as error:
            raise ValueError(told(error, sections)) from None

    @classmethod
    def flat(cls, **settings: Any) -> Self:
        """Make a configuration from settings by their short names, as on the command line: `flat(steps=10, seed=1)`.

        Raises:
            ValueError: there is no such setting, or a value is wrong.
        """
        return cls(**sectioned(settings))

    def replaced(self, **settings: Any) -> Self:
        """Return a copy in which some settings, given by their short names, have other values.

        Raises:
            ValueError: there is no such setting, or a value is wrong.
        """
        return type(self).flat(
            **{name: getattr(getattr(self, key), name) for name, key in SECTION_OF.items()} | settings
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        rollouts = self.rollouts
        least = 1 if self.by_belief else 2  # an advantage over the group needs company
        for name, sizes in (("group_size", (rollouts.group_size,)), ("group_sizes", rollouts.group_sizes)):
            if any(size < least for size in sizes):
                raise ValueError(f"{name}: expected {least} or more, got {min(sizes)}")
        if self.selection.oracle_rollouts and rollouts.async_rollouts:
            raise ValueError(f"{ORACLE}, got {self.selection.oracle_rollouts}")
        if rollouts.async_rollouts and self.evaluation.full_log:
            raise ValueError("async_rollouts: expected neither full_log nor dynamic_sampling with it, got one of them")
        return self

    @property
    def single(self) -> bool:
        """Whether there are groups of a single rollout."""
        return 1 in (self.rollouts.group_sizes or (self.rollouts.group_size,))

    @property
    def by_belief(self) -> bool:
        """Whether rewards are compared with what the tracker expected, not with the group's."""
        return self.update.baseline == "belief" or (self.update.baseline == "auto" and self.single)

    @property
    def scale(self) -> Scale:
        """What is made of the difference to the belief's baseline."""
        if self.update.baseline_scale != "auto":
            return self.update.baseline_scale
        if self.single:
            return "centred"
        return "belief" if self.update.loss in ("grpo", "dapo") else "none"

    @property
    def signal(self) -> Signal:
        """What group sizes go by: the expected length of the advantages under the loss in use. RLOO's advantages are
        taken without the factor n / (n - 1), which is the noise of its baseline and no signal."""
        loss: Kind = "dr_grpo" if self.update.loss == "rloo" else self.update.loss
        return Signal(loss, tracked=self.by_belief, power=1.0)

    @property
    def corrected(self) -> bool:
        """Whether rollouts come from another distribution than the policy's, so that their tokens are weighted."""
        return self.engine.engine != "transformers" or self.rollouts.async_rollouts

    @property
    def sampling(self) -> Sampling:
        """How completions are drawn."""
        given = self.rollouts.max_new_tokens
        tokens = defaults_of(self.task.policy).max_new_tokens if given is None else given
        return Sampling(tokens, self.rollouts.temperature)

    @property
    def buffer(self) -> int:
        """Number of tokens over which the punishment of length grows.

        Raises:
            ValueError: `overlong_buffer` is longer than a completion.
        """
        limit, given = self.sampling.max_new_tokens, self.update.overlong_buffer
        buffer = max(limit // 5, 1) if given is None else given
        if buffer > limit:
            raise ValueError(f"overlong_buffer: expected at most max_new_tokens, {limit}, got {buffer}")
        return buffer

    @property
    def step_size(self) -> float:
        """The learning rate of the optimizer."""
        given = self.update.learning_rate
        return defaults_of(self.task.policy).learning_rate if given is None else given

    def resolved(self) -> Self:
        """Return a copy in which the settings that were left to the task and the model are filled in."""
        tokens, rate = self.sampling.max_new_tokens, self.step_size
        return self.replaced(model=self.task.policy, max_new_tokens=tokens, learning_rate=rate)


def sectioned(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sort settings into their sections.

    Settings may stand in their section (`{"update": {"kl": 0.1}}`), or by their short name alone (`{"kl": 0.1}`), as
    in configuration files of earlier versions. `task` and `engine` name a section and a setting: a mapping is the
    section.

    Raises:
        ValueError: there is no such setting; the nearest name is told.
    """
    sorted_in: dict[str, Any] = {key: {} for key in SECTIONS}
    strangers = []
    for name, value in settings.items():
        if name in SECTIONS and isinstance(value, Section):
            sorted_in[name] = {part: getattr(value, part) for part in type(value).model_fields} | sorted_in[name]
        elif name in SECTIONS and (isinstance(value, Mapping) or name not in SECTION_OF):
            if not isinstance(value, Mapping):
                raise ValueError(f"{name}: expected settings, as {{name: value}}, got {value!r}")
            wrong = [str(part) for part in value if part not in SECTIONS[name].model_fields]
            if wrong:
                raise ValueError(unknown(wrong, SECTIONS[name].model_fields, name))
            sorted_in[name] = dict(value) | sorted_in[name]
        elif name in SECTION_OF:
            sorted_in[SECTION_OF[name]][name] = value
        else:
            strangers.append(str(name))
    if strangers:
        raise ValueError(unknown(sorted(strangers), [*SECTION_OF, *(key for key in SECTIONS if key not in SECTION_OF)]))
    return sorted_in
