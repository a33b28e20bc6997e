"""What a training run is made of: every setting, its default and its meaning."""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

import dps_pyro.models
from dps_pyro.dynamics import Dynamics
from dps_pyro.tasks import Countdown, Task

__all__ = ["TrainConfig", "load_config", "make_dynamics", "make_task", "save_config"]


@dataclass
class TrainConfig:
    """Fine-tune a causal language model by policy gradient on prompts that are predicted to be partially solved."""

    # Where
    out: Path | None = None
    """Run folder; runs/<number> if left out."""
    resume: bool = False
    """Go on from the last checkpoint in --out, with the configuration given here."""

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
    max_new_tokens: int = 24
    """Longest completion, in tokens."""
    rollout_batch: int | None = None
    """Rollouts decoded together, which bounds memory; all of a step's if left out."""
    dynamic_sampling: int = 1
    """Up to so many batches of candidates are rolled out until a full batch of useful groups is found (DAPO); 1: one
    batch, whatever it brings."""

    # Selection
    dynamics: str = "SolvingProgress"
    """The model of solving progress: a name in dps_pyro.models, or path/to/file.py:Name."""
    dynamics_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor, in the YAML file."""
    acquisition: Literal["soft", "thompson", "top", "entropy", "uniform"] = "thompson"
    """How beliefs become a batch: dynamic sampling's distribution, the paper's top B, the most uncertain, any."""
    prior: Path | None = None
    """A posterior saved by `dps-pyro fit` (or a run's posterior/ folder) to start from."""

    # Update
    loss: Literal["grpo", "dr_grpo", "dapo", "rloo"] = "grpo"
    """The loss and its advantages."""
    learning_rate: float = 1e-4
    """AdamW's."""
    weight_decay: float = 0.0
    """AdamW's."""
    epochs: int = 1
    """Passes over a step's rollouts."""
    mini_batches: int = 1
    """Optimizer steps a pass."""
    micro_batch: int = 256
    """Completions a forward pass; bounds memory and changes nothing else."""
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

    report: bool = True
    """After the last step, fit the model to the run's own history (posterior/) and draw report.html."""

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
        positive = ("steps", "batch_size", "max_new_tokens", "dynamic_sampling", "epochs", "mini_batches")
        for name in (*positive, "micro_batch", "checkpoint_every", "keep_checkpoints", "eval_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.group_size < 2:
            raise ValueError(f"group_size: expected 2 or more (an advantage needs company), got {self.group_size}")
        if self.temperature <= 0:
            raise ValueError(f"temperature: expected more than 0, got {self.temperature}")


def load_config(path: Path) -> TrainConfig:
    """Read a configuration file (YAML); settings left out keep their defaults.

    Raises:
        ValueError: the file is no mapping, or names a setting that does not exist.
    """
    loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: expected settings, one a line as `name: value`, got {type(loaded).__name__}")
    known = {item.name for item in dataclasses.fields(TrainConfig)}
    unknown = sorted(set(loaded) - known)
    if unknown:
        raise ValueError(f"{path}: expected settings among {', '.join(sorted(known))}; got {', '.join(unknown)}")
    for name in ("out", "prior"):
        if loaded.get(name) is not None:
            loaded[name] = Path(loaded[name])
    if loaded.get("clip") is not None:
        loaded["clip"] = tuple(loaded["clip"])
    return TrainConfig(**loaded)


def save_config(config: TrainConfig) -> str:
    """The configuration as YAML that `load_config` reads."""
    plain = dataclasses.asdict(config)
    for name in ("out", "prior"):
        plain[name] = None if plain[name] is None else str(plain[name])
    plain["clip"] = None if plain["clip"] is None else list(plain["clip"])
    return yaml.safe_dump(plain, sort_keys=False)


def make_dynamics(name: str, arguments: dict[str, Any] | None = None) -> Dynamics[Any]:
    """A dynamics model by name: of the gallery (`SolvingProgress`), or of a file (`my_model.py:MyDynamics`).

    Raises:
        ValueError: there is no such model, or it is no `Dynamics`.
    """
    path, _, attribute = name.rpartition(":")
    if path:
        spec = importlib.util.spec_from_file_location(Path(path).stem, path)
        if spec is None or spec.loader is None or not Path(path).is_file():
            raise ValueError(f"dynamics: expected a Python file before the colon, got {path!r}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = getattr(module, attribute, None)
    else:
        found = getattr(dps_pyro.models, name, None)
    if not (isinstance(found, type) and issubclass(found, Dynamics)):
        gallery = ", ".join(dps_pyro.models.__all__)
        raise ValueError(f"dynamics: expected one of {gallery}, or path/to/file.py:Name, got {name!r}")
    return found(**(arguments or {}))


def make_task(config: TrainConfig) -> Task:
    """The configured task: in the embedded policy's compact form for the embedded policy, in English for any other."""
    style = "compact" if config.model == "countdown" else "instruct"
    return Countdown(**{"style": style, **config.task_args})
