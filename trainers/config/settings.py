"""What a training run is made of: every setting, its default and its meaning."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

from dps_pyro.lm.known_baseline import Scale
from dps_pyro.lm.losses import Kind
from dps_pyro.policies.embedded import EMBEDDED, defaults_of
from dps_pyro.rollouts import Sampling
from dps_pyro.selection.acquisition import ACQUISITIONS
from dps_pyro.selection.signal import Signal
from dps_pyro.tasks.by_name import TASKS
from dps_pyro.trainers.config.convert import converted

__all__ = ["TrainConfig"]

_AT_LEAST = {
    **dict.fromkeys(("steps", "batch_size", "max_new_tokens", "rollout_batch", "epochs"), 1),
    **dict.fromkeys(("mini_batches", "micro_batch", "eval_samples", "checkpoint_every", "keep_checkpoints"), 1),
    **dict.fromkeys(("learning_rate", "weight_decay", "kl", "eval_every", "sharpness", "refit_every"), 0),
    **dict.fromkeys(("warmup_steps", "lora_rank", "log_completions", "dynamic_sampling", "first_rollouts"), 0),
    **dict.fromkeys(("oracle_rollouts", "read_prompts"), 0),
    **dict.fromkeys(("threads", "micro_batch_tokens", "max_prompt_tokens", "overlong_buffer"), 1),
    **dict.fromkeys(("tensor_parallel", "max_model_len"), 1),
    "group_size": 1,
}


@dataclass
class TrainConfig:
    """Fine-tune a causal language model by policy gradient on prompts that are predicted to be partially solved."""

    # Where
    out: Path | None = None
    """Run folder; runs/<number> if left out."""
    resume: bool = False
    """Go on from the last checkpoint in --out; settings are the run's own, except for those given here."""

    # What
    model: str | None = None
    """The policy: an embedded one by its task's name, or any transformers causal LM, a path or a hub id.
    If left out, the task's embedded policy."""
    task: str = "countdown"
    """The task: "countdown", "math", "blocks", "geometry", "reasoning-gym:NAME" (one of that library's), or a class or
    function of yours that makes one, path/to/file.py:Mine."""
    task_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the task's constructor, in the YAML file: for instance {train_size: 4096}."""
    prompt_format: Literal["auto", "chat", "raw"] = "auto"
    """"chat": prompts in the tokenizer's chat template; "raw": as they are; "auto": in the template if there is one."""
    data: str | None = None
    """In place of a task: records, one a problem, of a file (.jsonl, .json, .parquet), a folder or a data set's hub id;
    task_args names their fields, for instance {prompt: question, test_share: 0.05}."""
    reward: str | None = None
    """What judges completions of --data: path/to/file.py:function, called as function(completion, record), which
    returns a number in 0..1, or that and a reason."""
    reward_timeout: float = 10.0
    """Seconds that one call of --reward, or of `reward` of a task of yours, may take; `rewards`, of a batch, ten times
    that."""
    system: str | None = None
    """System prompt, in place of the task's."""
    max_prompt_tokens: int | None = None
    """Longer prompts are left out; if left out, those that leave no room for a completion in the model's context."""
    steps: int = 100
    """Training steps: one batch of rollouts each."""

    # Rollouts
    batch_size: int = 32
    """Prompts a step."""
    group_size: int = 8
    """Rollouts a prompt."""
    group_sizes: tuple[int, ...] = ()
    """Each prompt gets a group size of its own among these, that of the most expected signal per rollout: small where
    the outcome is uncertain, larger where it is hard. A step then spends batch_size * group_size rollouts in all, on as
    many prompts as that allows. Without any, every group has group_size."""
    first_rollouts: int = 0
    """Draw groups in two parts: first so many rollouts of each prompt, for half of batch_size * group_size in all; the
    other half goes to the groups in which more rollouts promise most, and is saved where they promise nothing. 0: draw
    them whole."""
    temperature: float = 1.0
    """Sampling temperature, for training and evaluation."""
    max_new_tokens: int | None = None
    """Longest completion, in tokens; if left out 24 for the embedded policy, 1024 otherwise."""
    engine: str = "transformers"
    """What draws the completions: "transformers" (the policy itself), "vllm" (beside it, in this process), or a running
    vLLM server by its address, http://host:port (docs/rollouts.md says how to start one)."""
    async_rollouts: bool = False
    """The next step's completions are drawn while the policy is updated, from the weights before the update."""
    rollout_batch: int | None = None
    """Rollouts decoded together, which bounds memory; all of a step's if left out."""
    dynamic_sampling: int = 1
    """Up to so many batches of candidates are rolled out until a full batch of useful groups is found (DAPO); 1: one
    batch, whatever it brings; 0: as many as there are."""

    # vLLM
    engine_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of vLLM's copy of the policy; "auto": what the policy computes in (--precision)."""
    max_model_len: int | None = None
    """The most tokens of prompt and completion; if left out as many as the model was made for."""
    kv_cache_gib: float | None = None
    """vLLM's memory for keys and values, in GiB; if left out 1 on a CPU, and on a GPU what --gpu-memory-utilization
    leaves."""
    gpu_memory_utilization: float = 0.4
    """The share of a GPU's memory that vLLM may take."""
    tensor_parallel: int = 1
    """GPUs that vLLM spreads one copy of the policy over."""
    engine_sleep: bool = True
    """On a GPU, vLLM gives its memory back while the policy is updated."""
    vllm_args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of vllm.LLM, in the YAML file: for instance {max_num_seqs: 64}."""
    engine_timeout: float = 600.0
    """Seconds that a vLLM server may take for one prompt's completions, or for the new weights."""
    weights_folder: Path | None = None
    """Where new weights lie while a vLLM server reads them, a folder that both see; in memory if left out, for a server
    on this machine."""

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
    compromise), "covering" (as sharp as coverage allows), "target" (rates near one half), "priority" (SPO's), "entropy"
    (the most uncertain), "uniform" (any), or path/to/file.py:function."""
    sharpness: float = 4.0
    """Of "soft": weights are p ** sharpness, p the chance of a useful group, from 0 (uniform) to large (top)."""
    coverage: float = 0.5
    """Of "covering": the share of the prompts, in (0, 1], that its draws spread over."""
    worth: Literal["useful", "signal", "progress"] = "useful"
    """What the acquisition takes for a prompt's worth: the chance of a useful group; "signal": the expected squared
    advantage of the loss in use; "progress": how much training on it is expected to raise its success rate, by a fitted
    model such as Trained."""
    retire: float | None = None
    """Leave prompts out while the chance that a whole group of theirs is right is above this, in (0, 1); they are back
    as soon as the belief says otherwise."""
    read_prompts: int = 0
    """Give models that regress on features (Covariate) the policy's own reading of each prompt before the first step:
    so many principal components of its hidden state at the prompt's end, and the prompt's log-probability. 0: none."""
    oracle_rollouts: int = 0
    """With dynamics Oracle: before each choice, roll out every prompt so often to tell it the success rates. They count
    nowhere: this bounds what prediction can bring at all."""
    prior: Path | None = None
    """A posterior saved by `dps-pyro fit` (or a run's posterior/ folder) to start from."""

    # Update
    loss: Literal["grpo", "dr_grpo", "dapo", "rloo"] = "grpo"
    """The loss and its advantages."""
    baseline: Literal["group", "belief"] = "group"
    """What rewards are compared with: "group", the loss's own; "belief", what the tracker expected of each rollout,
    given all history and the other rollouts of its group. Groups of any size then carry signal, even those that are all
    right or all wrong."""
    baseline_scale: Literal["auto", "none", "belief", "group", "batch"] = "auto"
    """What the difference to the belief's baseline is divided by: nothing, the belief's standard deviation, the group's
    where its rewards differ, or the batch's. "auto": the belief's for grpo and dapo, nothing for the others."""
    learning_rate: float | None = None
    """AdamW's; if left out 1e-4 for an embedded policy (math: 2e-4), 1e-6 otherwise."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate goes from there over the steps: it stays, or falls to zero after the last one."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises to its full size first."""
    weight_decay: float = 0.0
    """AdamW's."""
    epochs: int = 1
    """Passes over a step's rollouts."""
    mini_batches: int = 1
    """Optimizer steps a pass."""
    micro_batch: int = 64
    """Completions a forward pass, of about the same length each; bounds memory and changes nothing else."""
    micro_batch_tokens: int | None = None
    """Tokens a forward pass, prompts and padding included: as many completions as fit, at most micro_batch. No bound if
    left out."""
    clip: tuple[float, float] | None = None
    """Lower and upper clip of the ratio; the loss's own if left out."""
    tis_cap: float = 2.0
    """Where the engine is not the policy itself, tokens are weighted by the ratio of the policy's probability to the
    engine's, up to this (truncated importance sampling); 0: up to any number."""
    overlong: Literal["keep", "mask", "punish"] = "keep"
    """Completions cut off at max_new_tokens: "keep" them as they are, "mask" them out of the update, or "punish" length
    in the reward over the last overlong_buffer tokens before it (both DAPO's)."""
    overlong_buffer: int | None = None
    """Tokens over which the punishment grows from 0 to 1; a fifth of max_new_tokens if left out."""
    kl: float = 0.0
    """Weight of the KL to the initial policy."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank (LoRA) in place of the weights; 0: all weights."""
    lora_alpha: float | None = None
    """LoRA's scale: adapters are multiplied by alpha / rank; twice the rank if left out."""
    lora_targets: tuple[str, ...] = ("all-linear",)
    """The modules that get adapters, by the ends of their names: q_proj v_proj, for instance; all-linear: every linear
    layer but the output's."""

    # Evaluation and keeping
    eval_every: int = 25
    """Steps between evaluations on the held-out prompts; 0: only before and after."""
    eval_samples: int = 4
    """Completions a held-out prompt: for accuracy (avg@n) and pass@k."""
    keep_best: bool = True
    """Keep the policy with the best evaluation in best/, an ordinary transformers folder."""
    log_completions: int = 10
    """Steps between those whose completions are written to completions/, for reading; 0: none are."""
    wandb: str | None = None
    """Weights & Biases project to show the run in, beside TensorBoard."""
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
    """Of the forward passes; "auto": bfloat16 on a GPU that has it."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """How weights are kept. bfloat16 halves them and the optimizer, and rounds small updates away; not so with LoRA,
    whose adapters stay float32."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """The implementation of attention; "auto": transformers' choice for the model."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass in place of keeping them: less memory, about a third slower."""
    threads: int | None = None
    """CPU threads; torch's choice if left out."""

    def __post_init__(self) -> None:  # noqa: C901 - one check after another
        hints = _hints()
        for item in dataclasses.fields(self):
            setattr(self, item.name, converted(item.name, getattr(self, item.name), hints[item.name]))
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: expected {least} or more, got {value}")
        above = (
            *("temperature", "max_grad_norm", "lora_alpha", "reward_timeout", "engine_timeout"),
            *("gpu_memory_utilization", "kv_cache_gib"),
        )
        for name in above:
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name}: expected more than 0, got {value}")
        self._check_data()
        self._check_groups()
        if not 0 < self.coverage <= 1:
            raise ValueError(f"coverage: expected a share in (0, 1], got {self.coverage}")
        if self.retire is not None and not 0 < self.retire < 1:
            raise ValueError(f"retire: expected a chance in (0, 1), got {self.retire}")
        if (self.oracle_rollouts > 0) != (self.dynamics == "Oracle") or (self.oracle_rollouts and self.async_rollouts):
            expected = "some with dynamics Oracle, without async_rollouts, and none with any other"
            raise ValueError(f"oracle_rollouts: expected {expected}, got {self.oracle_rollouts}")
        if not self.lora_targets:
            raise ValueError("lora_targets: expected names of modules, or all-linear, got none")
        if self.tis_cap != 0 and self.tis_cap < 1:
            raise ValueError(f"tis_cap: expected 1 or more, or 0 for any, got {self.tis_cap}")
        if self.async_rollouts and (self.full_log or self.dynamic_sampling != 1):
            raise ValueError("async_rollouts: expected neither full_log nor dynamic_sampling with it, got one of them")
        if self.engine not in ("transformers", "vllm") and not self.engine.startswith(("http://", "https://")):
            raise ValueError(
                f"engine: expected transformers, vllm or a vLLM server's http://host:port, got {self.engine!r}"
            )
        if self.clip is not None and not (0 <= self.clip[0] <= 1 and self.clip[1] >= 0):
            raise ValueError(f"clip: expected lower in [0, 1] and upper of at least 0, got {list(self.clip)}")
        if self.task not in TASKS and ":" not in self.task:
            raise ValueError(f"task: expected one of {', '.join(TASKS)}, or path/to/file.py:Name, got {self.task!r}")
        if self.acquisition not in ACQUISITIONS and ":" not in self.acquisition:
            names = ", ".join(ACQUISITIONS)
            raise ValueError(
                f"acquisition: expected one of {names}, or path/to/file.py:function, got {self.acquisition!r}"
            )

    def _check_groups(self) -> None:
        least = 2 if self.baseline == "group" else 1  # an advantage over the group needs company
        for name, sizes in (("group_size", (self.group_size,)), ("group_sizes", self.group_sizes)):
            if any(size < least for size in sizes):
                raise ValueError(f"{name}: expected {least} or more, got {min(sizes)}")
        if self.ragged and self.dynamic_sampling != 1:
            raise ValueError("dynamic_sampling: expected 1 with group_sizes or first_rollouts, got another number")
        if self.first_rollouts and (self.group_sizes or self.async_rollouts):
            raise ValueError("first_rollouts: expected neither group_sizes nor async_rollouts with it, got one of them")
        if self.first_rollouts * 2 > (total := self.batch_size * self.group_size):
            raise ValueError(f"first_rollouts: expected at most half of the step's {total}, got {self.first_rollouts}")
        if self.group_sizes and total < min(self.group_sizes):
            raise ValueError(f"group_sizes: expected one within the step's {total} rollouts, got {self.group_sizes}")

    def _check_data(self) -> None:
        if (self.data is None) != (self.reward is None):
            raise ValueError("data, reward: expected both or none: records, and the function that judges completions")

    @property
    def policy(self) -> str:
        """The policy: `model`, or where that is left out the task's embedded one.

        Raises:
            ValueError: there is none.
        """
        if self.model is None and self.data is not None:
            raise ValueError("model: expected a causal LM's folder or hub id for --data, got none")
        if self.model is None and self.task not in EMBEDDED:
            expected = f"a causal LM's folder or hub id for the task {self.task}"
            raise ValueError(f"model: expected {expected}, or one of {', '.join(EMBEDDED)}, which ship, got none")
        return self.task if self.model is None else self.model

    @property
    def ragged(self) -> bool:
        """Whether a step's groups differ in size."""
        return bool(self.group_sizes or self.first_rollouts)

    @property
    def candidates(self) -> int:
        """The most prompts that a step rolls out, 0 for all."""
        if self.first_rollouts:
            return self.batch_size * self.group_size // 2 // self.first_rollouts
        return self.batch_size * self.dynamic_sampling

    @property
    def scale(self) -> Scale:
        """What the difference to the belief's baseline is divided by."""
        if self.baseline_scale == "auto":
            return "belief" if self.loss in ("grpo", "dapo") else "none"
        return self.baseline_scale

    @property
    def signal(self) -> Signal:
        """What group sizes go by: the expected length of the advantages of the loss in use. RLOO's are taken without
        the factor n / (n - 1), which is the noise of its baseline and no signal."""
        loss: Kind = "dr_grpo" if self.loss == "rloo" else self.loss
        return Signal(loss, tracked=self.baseline == "belief", power=1.0)

    @property
    def corrected(self) -> bool:
        """Whether rollouts come from another distribution than the policy's, and are weighted."""
        return self.engine != "transformers" or self.async_rollouts

    @property
    def sampling(self) -> Sampling:
        """How completions are drawn."""
        tokens = defaults_of(self.policy).max_new_tokens if self.max_new_tokens is None else self.max_new_tokens
        return Sampling(tokens, self.temperature)

    @property
    def buffer(self) -> int:
        """Tokens over which the punishment of length grows.

        Raises:
            ValueError: it is longer than a completion.
        """
        limit = self.sampling.max_new_tokens
        buffer = max(limit // 5, 1) if self.overlong_buffer is None else self.overlong_buffer
        if buffer > limit:
            raise ValueError(f"overlong_buffer: expected at most max_new_tokens, {limit}, got {buffer}")
        return buffer

    @property
    def step_size(self) -> float:
        """The optimizer's learning rate."""
        return defaults_of(self.policy).learning_rate if self.learning_rate is None else self.learning_rate

    def resolved(self) -> TrainConfig:
        """With the settings that were left to the task and the model filled in."""
        tokens, rate = self.sampling.max_new_tokens, self.step_size
        return replace(self, model=self.policy, max_new_tokens=tokens, learning_rate=rate)


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(TrainConfig)
