"""What a training run is made of: every setting, its default and its meaning."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import yaml

import dps_pyro
from dps_pyro.acquisition import ACQUISITIONS, Acquisition, soft
from dps_pyro.dynamics import Dynamics
from dps_pyro.filter import Predictor
from dps_pyro.history import Features
from dps_pyro.models.by_name import make
from dps_pyro.plugins import call, load
from dps_pyro.rollouts import Sampling
from dps_pyro.tasks import Countdown, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "EMBEDDED",
    "TrainConfig",
    "check_resumed",
    "load_config",
    "make_acquisition",
    "make_model",
    "make_task",
    "save_config",
]

EMBEDDED = {"countdown": Path(dps_pyro.__file__).parent / "policies" / "countdown"}
"""The policies that ship with the package."""

_AT_LEAST = {
    **dict.fromkeys(("steps", "batch_size", "max_new_tokens", "rollout_batch", "dynamic_sampling", "epochs"), 1),
    **dict.fromkeys(("mini_batches", "micro_batch", "eval_samples", "checkpoint_every", "keep_checkpoints"), 1),
    **dict.fromkeys(("learning_rate", "weight_decay", "kl", "eval_every", "sharpness", "refit_every"), 0),
    "threads": 1,
    "group_size": 2,  # an advantage needs company
}
_KEPT = ("model", "task", "task_args", "dynamics", "dynamics_args", "groups", "prior")
"""What a resumed run cannot change: its checkpoint is of these."""


@dataclass
class TrainConfig:
    """Fine-tune a causal language model by policy gradient on prompts that are predicted to be partially solved."""

    # Where
    out: Path | None = None
    """Run folder; runs/<number> if left out."""
    resume: bool = False
    """Go on from the last checkpoint in --out; settings are the run's own, except for those given here."""

    # What
    model: str = "countdown"
    """The policy: the embedded one ("countdown"), or any transformers causal LM, a path or a hub id."""
    task: Literal["countdown"] = "countdown"
    """The task."""
    task_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the task's constructor, in the YAML file: for instance {train_size: 4096}."""
    steps: int = 100
    """Training steps: one batch of rollouts each."""

    # Rollouts
    batch_size: int = 32
    """Prompts a step."""
    group_size: int = 8
    """Rollouts a prompt."""
    temperature: float = 1.0
    """Sampling temperature, for training and evaluation."""
    max_new_tokens: int | None = None
    """Longest completion, in tokens; if left out 24 for the embedded policy, 1024 otherwise."""
    rollout_batch: int | None = None
    """Rollouts decoded together, which bounds memory; all of a step's if left out."""
    dynamic_sampling: int = 1
    """Up to so many batches of candidates are rolled out until a full batch of useful groups is found (DAPO); 1: one
    batch, whatever it brings."""

    # Selection
    dynamics: str = "SolvingProgress"
    """The model of solving progress: a name in dps_pyro.models, or path/to/file.py:Name."""
    dynamics_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor, in the YAML file. Of a model with groups or features these may be named after the
    task's: {groups: operands}."""
    groups: str = "auto"
    """The feature of the task's prompts by which a model with groups pools them; "auto": the task's own choice, "none":
    one population."""
    refit_every: int = 0
    """Fit the model to the run's own rollouts every so many steps, beside the next rollouts, and filter again at what
    was learned; 0: never."""
    acquisition: str = "soft"
    """How beliefs become a batch: "thompson" (dynamic sampling's distribution), "top" (the paper's top B), "soft" (a
    compromise), "entropy" (the most uncertain), "uniform" (any), or path/to/file.py:function."""
    sharpness: float = 4.0
    """Of "soft": weights are p ** sharpness, p the chance of a useful group, from 0 (uniform) to large (top)."""
    prior: Path | None = None
    """A posterior saved by `dps-pyro fit` (or a run's posterior/ folder) to start from."""

    # Update
    loss: Literal["grpo", "dr_grpo", "dapo", "rloo"] = "grpo"
    """The loss and its advantages."""
    learning_rate: float | None = None
    """AdamW's; if left out 1e-4 for the embedded policy, 1e-6 otherwise."""
    weight_decay: float = 0.0
    """AdamW's."""
    epochs: int = 1
    """Passes over a step's rollouts."""
    mini_batches: int = 1
    """Optimizer steps a pass."""
    micro_batch: int = 64
    """Completions a forward pass, of about the same length each; bounds memory and changes nothing else."""
    clip: tuple[float, float] | None = None
    """Lower and upper clip of the ratio; the loss's own if left out."""
    kl: float = 0.0
    """Weight of the KL to the initial policy."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""

    # Evaluation and keeping
    eval_every: int = 25
    """Steps between evaluations on the held-out prompts; 0: only before and after."""
    eval_samples: int = 4
    """Completions a held-out prompt."""
    checkpoint_every: int = 25
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """How many of them stay."""

    full_log: bool = False
    """Also roll out every other prompt at every step, to keep all groups in full_log.parquet: what `dps-pyro replay`
    compares selectors and models on. Training is the same with it and without; it only takes longer."""

    report: bool = True
    """After the last step, fit the model to the run's own history (posterior/) and draw report.html."""
    compare: tuple[Path, ...] = ()
    """Finished runs to draw beside this one in the report."""

    # Machine
    seed: int = 0
    """Of everything drawn: prompts chosen, rollouts, evaluations."""
    device: str = "auto"
    """"auto", "cpu", "cuda", ..."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward passes; "auto": bfloat16 on a GPU that has it. Weights and optimizer stay float32."""
    threads: int | None = None
    """CPU threads; torch's choice if left out."""

    def __post_init__(self) -> None:
        hints = _hints()
        for item in dataclasses.fields(self):
            setattr(self, item.name, _convert(item.name, getattr(self, item.name), hints[item.name]))
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: expected {least} or more, got {value}")
        for name in ("temperature", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")
        if self.clip is not None and not (0 <= self.clip[0] <= 1 and self.clip[1] >= 0):
            raise ValueError(f"clip: expected lower in [0, 1] and upper of at least 0, got {list(self.clip)}")
        if self.acquisition not in ACQUISITIONS and ":" not in self.acquisition:
            names = ", ".join(ACQUISITIONS)
            raise ValueError(
                f"acquisition: expected one of {names}, or path/to/file.py:function, got {self.acquisition!r}"
            )

    @property
    def sampling(self) -> Sampling:
        """How completions are drawn."""
        tokens = _of_the_model(self.model)[0] if self.max_new_tokens is None else self.max_new_tokens
        return Sampling(tokens, self.temperature)

    @property
    def step_size(self) -> float:
        """The optimizer's learning rate."""
        return _of_the_model(self.model)[1] if self.learning_rate is None else self.learning_rate

    def resolved(self) -> TrainConfig:
        """With the settings that were left to the model filled in."""
        return replace(self, max_new_tokens=self.sampling.max_new_tokens, learning_rate=self.step_size)


def _of_the_model(model: str) -> tuple[int, float]:
    """`max_new_tokens` and `learning_rate` where they are left out: what the embedded policy and its checkpoints learn
    with, and what a language model that reasons does."""
    own = Path(model) / "tokenizer.json"
    known = model in EMBEDDED or any(_vocabulary(own) == _vocabulary(at / own.name) for at in EMBEDDED.values())
    return (24, 1e-4) if known else (1024, 1e-6)


@cache
def _vocabulary(file: Path) -> Any:
    """A tokenizer's vocabulary; None where there is no such file."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a hub id, or a folder that transformers will judge


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(TrainConfig)


def _convert(name: str, value: Any, hint: Any) -> Any:
    """A setting as its type says, from what YAML, the command line or Python make of it."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is UnionType:  # all of ours are "something, or None"
        return None if value is None else _convert(name, value, parts[0])
    if kind is Literal:
        if value not in parts:
            raise ValueError(f"{name}: expected one of {', '.join(parts)}; got {value!r}")
        return value
    if kind is tuple and isinstance(value, list | tuple) and (parts[-1] is ... or len(value) == len(parts)):
        return tuple(_convert(name, part, parts[0]) for part in value)  # all of ours are of one type
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is float and math.isfinite(number := _number(value)):
        return number
    named = kind is not dict or (isinstance(value, dict) and all(isinstance(key, str) for key in value))
    if kind in (bool, int, str, dict) and type(value) is kind and named:
        return value
    raise ValueError(f"{name}: expected {_EXPECTED[kind]}, got {value!r}")


_EXPECTED: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a string",
    Path: "a path",
    dict: "settings, as {name: value}",
    tuple: "a list of the right length",
}


def _number(value: Any) -> float:
    """A float; YAML reads 1e-4, without a point, as a string. NaN for what is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan


def load_config(path: Path) -> TrainConfig:
    """Read a configuration file (YAML); settings left out keep their defaults.

    Raises:
        ValueError: the file is no mapping, names a setting that does not exist, or holds a wrong value.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected YAML, got {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: expected settings, one a line as `name: value`, got {type(loaded).__name__}")
    known = {item.name for item in dataclasses.fields(TrainConfig)}
    unknown = sorted(str(name) for name in set(loaded) - known)
    if unknown:
        raise ValueError(f"{path}: expected settings among {', '.join(sorted(known))}; got {', '.join(unknown)}")
    try:
        return TrainConfig(**loaded)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def save_config(config: TrainConfig) -> str:
    """The configuration as YAML that `load_config` reads; `resume` is of one invocation, and left out.

    Raises:
        ValueError: `task_args` or `dynamics_args` hold something that YAML does not.
    """
    plain = {name: _plain(value) for name, value in dataclasses.asdict(config).items() if name != "resume"}
    try:
        return yaml.safe_dump(plain, sort_keys=False)
    except yaml.YAMLError as error:
        raise ValueError(f"task_args, dynamics_args: expected numbers, strings, lists and mappings: {error}") from error


def _plain(value: Any) -> Any:
    """Paths and tuples as YAML has them."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def check_resumed(before: TrainConfig, now: TrainConfig) -> None:
    """Check that a run can go on with the settings it is given.

    Raises:
        ValueError: one of those differs that its checkpoints depend on.
    """
    for name in _KEPT:
        was, wanted = (_plain(getattr(config, name)) for config in (before, now))
        if was != wanted:
            raise ValueError(f"{name}: expected the run's own, {was!r}, to resume it, got {wanted!r}")


def make_model(config: TrainConfig, task: Task, features: Features) -> Dynamics[Any] | Predictor:
    """The configured model of the task's prompts, of which `features` are known.

    Raises:
        ValueError: there is no such model, its arguments are wrong, or there is no such feature to group by.
    """
    groups = getattr(task, "groups", None) if config.groups == "auto" else config.groups
    asked = {} if groups in (None, "none") else {"groups": groups}
    return make(config.dynamics, asked | config.dynamics_args, features, optional=asked)


def make_acquisition(config: TrainConfig) -> str | Acquisition:
    """The configured acquisition, as `PromptSampler` takes it.

    Raises:
        ValueError: it is of a file that is not there, or is no function.
    """
    if config.acquisition == "soft":
        return soft(config.sharpness)
    if config.acquisition in ACQUISITIONS:
        return config.acquisition
    found: Acquisition | None = load("acquisition", config.acquisition)
    if not callable(found):
        raise ValueError(f"acquisition: expected a function, path/to/file.py:function, got {config.acquisition!r}")
    return found


def make_task(config: TrainConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> Task:
    """The configured task. Its prompts are in English, except for the embedded policy and what was trained from it,
    whose tokenizer has no words: those read the compact form.

    Raises:
        ValueError: its arguments are wrong, or it has too few prompts for the configuration.
    """
    wordless = tokenizer is not None and tokenizer.unk_token_id in tokenizer("Using")["input_ids"]
    style = "compact" if wordless or config.model == "countdown" else "instruct"
    task = call("task_args", Countdown, {"style": style, **config.task_args})
    if config.batch_size > (there := len(task.prompts("train"))):
        raise ValueError(f"batch_size: expected at most {there}, the number of prompts, got {config.batch_size}")
    if len(task.prompts("test")) == 0:
        raise ValueError("task_args: expected a test_size of at least 1, to evaluate on, got 0")
    return task
