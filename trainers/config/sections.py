"""The settings of a training run in seven sections, with defaults, meanings and bounds beside each field.

The sections divide the settings as the YAML file and `dps-pyro train --help` do. `SECTION_OF` tells which section holds
a setting, by its short name: short names are unique over all sections.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tyro
from pydantic import Field, StrictBool, StrictInt, model_validator

from dps_pyro.policies.embedded import EMBEDDED
from dps_pyro.selection.acquisition import ACQUISITIONS
from dps_pyro.tasks.by_name import TASKS
from dps_pyro.trainers.config.kinds import Count, CountOrNone, NotNegative, Number, Positive, Section

__all__ = [
    "SECTIONS",
    "SECTION_OF",
    "EngineSection",
    "EvaluationSection",
    "MachineSection",
    "RolloutsSection",
    "SelectionSection",
    "TaskSection",
    "UpdateSection",
]


Arguments = Annotated[dict[str, Any], tyro.conf.Suppress]
"""Settings of something else, which only the YAML file can give."""

ORACLE = "oracle_rollouts: expected some with dynamics Oracle, without async_rollouts, and none with any other"


class TaskSection(Section):
    """The problems, the policy that solves them, and the place and length of the run."""

    out: Path | None = None
    """The run folder. The default is runs/<number>."""
    resume: StrictBool = False
    """Continue from the last checkpoint in --out. Settings given here replace the run's own settings."""
    model: str | None = None
    """The policy: the name of an embedded policy, or the folder or hub id of a causal language model for transformers.
    The default is the task's embedded policy."""
    task: str = "countdown"
    """The task: "countdown", "math", "blocks", "geometry", "reasoning-gym:NAME", or a class or function of your own,
    path/to/file.py:Mine."""
    task_args: Arguments = Field(default_factory=dict)
    """Arguments of the task's constructor. Set them in the YAML file, for instance {train_size: 4096}."""
    prompt_format: Literal["auto", "chat", "raw"] = "auto"
    """How prompts are written: "chat" uses the tokenizer's chat template, "raw" leaves them unchanged, and "auto" uses
    the template if there is one."""
    data: str | None = None
    """Records to train on in place of a task, one per problem: a file (.jsonl, .json, .parquet, .csv, .arrow), a
    folder, or the hub id of a data set. Without --reward they are mathematical problems, and their answers are graded.
    The usual fields are found; task_args names others, for instance {problem: my.question, answer: my.gold}."""
    reward: str | None = None
    """The function that scores completions for --data, path/to/file.py:function. It is called as
    function(completion, record), or as TRL, verl or OpenRLHF call theirs. It returns a number in 0..1, such a number
    and a reason, a dictionary with score or acc, or None to abstain."""
    reward_range: tuple[Number, Number] | None = None
    """Values of the reward function that are worth 0 and 1. The default is 0 and 1."""
    reward_solved_at: Number | None = None
    """Smallest value of the reward function that counts as solved. Every reward is then 0 or 1."""
    reward_timeout: Positive = 10.0
    """Longest time in seconds that one call of a reward function of your own may take. A function that scores a whole
    batch may take ten times as long."""
    system: str | None = None
    """The system prompt. The default is the task's own."""
    max_prompt_tokens: Count | None = None
    """Longest prompt in tokens. Longer prompts are left out. The default leaves out prompts that leave no room for a
    completion in the model's context."""
    steps: Count = 100
    """Number of training steps. Each step draws and trains on one batch of rollouts."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.reward is not None and self.data is None:
            raise ValueError("reward: expected --data with it, the records whose completions it judges, got none")
        if (self.reward_range or self.reward_solved_at) is not None and self.reward is None:
            raise ValueError("reward_range, reward_solved_at: expected --reward with them, got none")
        if self.task not in TASKS and ":" not in self.task:
            raise ValueError(f"task: expected one of {', '.join(TASKS)}, or path/to/file.py:Name, got {self.task!r}")
        return self

    @property
    def policy(self) -> str:
        """The policy: `model`, or the task's embedded policy if `model` is left out.

        Raises:
            ValueError: `model` is left out and the task has no embedded policy.
        """
        if self.model is None and self.data is not None:
            raise ValueError("model: expected a causal LM's folder or hub id for --data, got none")
        if self.model is None and self.task not in EMBEDDED:
            expected = f"a causal LM's folder or hub id for the task {self.task}"
            raise ValueError(f"model: expected {expected}, or one of {', '.join(EMBEDDED)}, which ship, got none")
        return self.task if self.model is None else self.model


class RolloutsSection(Section):
    """How many rollouts a step draws, and how they are sampled."""

    batch_size: Count = 32
    """Number of prompts per step."""
    group_size: Count = 8
    """Number of rollouts per prompt."""
    group_sizes: tuple[Count, ...] = ()
    """Group sizes to choose from for each prompt. Each prompt gets the size with the most expected signal per rollout.
    A step then spends batch_size * group_size rollouts in all. By default every group has group_size rollouts."""
    first_rollouts: CountOrNone = 0
    """Draw groups in two parts. The first part has this many rollouts per prompt, and spends half of the step's
    rollouts. The second part goes to the groups in which more rollouts promise the most signal. 0 draws groups
    whole."""
    temperature: Positive = 1.0
    """Sampling temperature for training and evaluation."""
    max_new_tokens: Count | None = None
    """Longest completion in tokens. The default is 24 for most embedded policies (math: 8, blocks: 36) and
    1024 for other models."""
    rollout_batch: Count | None = None
    """Number of rollouts that are decoded together, which bounds memory. The default is all rollouts of a step."""
    dynamic_sampling: CountOrNone = 1
    """Largest number of candidate batches that are rolled out until a batch of useful groups is full (DAPO). 1 draws
    one batch, useful or not. 0 sets no limit."""
    refill: Literal["batch", "missing"] = "batch"
    """Number of prompts that dynamic sampling rolls out at a time: "batch" is a whole batch (DAPO), and "missing" is as
    many as will complete the batch by the predicted chances. "missing" wastes fewer rollouts, and may take more rounds
    per step."""
    async_rollouts: StrictBool = False
    """Draw the completions of the next step while the policy is updated, from the weights before the update."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.async_rollouts and self.dynamic_sampling != 1:
            raise ValueError("async_rollouts: expected neither full_log nor dynamic_sampling with it, got one of them")
        if self.ragged and self.dynamic_sampling != 1:
            raise ValueError("dynamic_sampling: expected 1 with group_sizes or first_rollouts, got another number")
        if self.refill == "missing" and self.dynamic_sampling == 1:
            raise ValueError("refill: expected dynamic_sampling of 0, or of at least 2, with missing, got 1")
        if self.first_rollouts and (self.group_sizes or self.async_rollouts):
            raise ValueError("first_rollouts: expected neither group_sizes nor async_rollouts with it, got one of them")
        if self.first_rollouts * 2 > (total := self.batch_size * self.group_size):
            raise ValueError(f"first_rollouts: expected at most half of the step's {total}, got {self.first_rollouts}")
        if self.group_sizes and total < min(self.group_sizes):
            raise ValueError(f"group_sizes: expected one within the step's {total} rollouts, got {self.group_sizes}")
        return self

    @property
    def ragged(self) -> bool:
        """Whether the groups of a step differ in size."""
        return bool(self.group_sizes or self.first_rollouts)

    @property
    def candidates(self) -> int:
        """Largest number of prompts that a step rolls out; 0 stands for all prompts."""
        if self.first_rollouts:
            return self.batch_size * self.group_size // 2 // self.first_rollouts
        return self.batch_size * self.dynamic_sampling


class EngineSection(Section):
    """The program that draws the completions, and the settings of vLLM."""

    engine: str = "transformers"
    """The engine: "transformers" is the policy itself, "vllm" runs vLLM in this process, and http://host:port is a
    running vLLM server."""
    engine_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of vLLM's copy of the policy. "auto" follows --precision."""
    max_model_len: Count | None = None
    """Largest number of tokens in prompt and completion together for vLLM. The default is the model's own limit."""
    kv_cache_gib: Positive | None = None
    """Memory for vLLM's keys and values, in GiB. The default is 1 on a CPU, and on a GPU what
    --gpu-memory-utilization leaves."""
    gpu_memory_utilization: Positive = 0.4
    """Share of a GPU's memory that vLLM may take."""
    tensor_parallel: Count = 1
    """Number of GPUs over which vLLM spreads one copy of the policy."""
    engine_sleep: StrictBool = True
    """Let vLLM release its GPU memory while the policy is updated."""
    vllm_args: Arguments = Field(default_factory=dict)
    """Further arguments of vllm.LLM. Set them in the YAML file, for instance {max_num_seqs: 64}."""
    engine_timeout: Positive = 600.0
    """Longest time in seconds that a vLLM server may take for the completions of one prompt, or to load new weights."""
    weights_folder: Path | None = None
    """Folder for new weights while a vLLM server reads them. Both machines must see it. By default the weights stay in
    memory, for a server on this machine."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.engine not in ("transformers", "vllm") and not self.engine.startswith(("http://", "https://")):
            raise ValueError(
                f"engine: expected transformers, vllm or a vLLM server's http://host:port, got {self.engine!r}"
            )
        return self


class SelectionSection(Section):
    """How prompts are predicted and chosen."""

    dynamics: str = "Siblings"
    """The model of solving progress: a name in dps_pyro.models, or path/to/file.py:Name. In the default,
    Siblings, prompts learn from the rollouts of similar prompts."""
    dynamics_args: Arguments = Field(default_factory=dict)
    """Arguments of the model's constructor. Set them in the YAML file. Models with groups or features accept the names
    of the task's features, for instance {groups: operands}. Models with features use all of them by default."""
    groups: str = "auto"
    """The feature of the prompts by which a model with groups pools them, or several features joined by +, as in
    blocks+moves. "auto" is the task's own choice, and "none" treats all prompts as one population."""
    refit_every: CountOrNone = 0
    """Number of steps between fits of the model to the run's own rollouts. 0 never fits."""
    acquisition: str = "soft"
    """How beliefs become a batch: "thompson" (the distribution of dynamic sampling), "top" (the paper's top B), "soft"
    (a compromise), "variance" ("soft" with --worth variance and --sharpness 2), "covering" (as sharp as --coverage
    allows), "target" (success rates near one half), "priority" (SPO's), "entropy" (the most uncertain), "uniform" (any
    prompt), or path/to/file.py:function."""
    sharpness: NotNegative = 2.0
    """Exponent of the acquisition "soft": each prompt is weighted by worth ** sharpness, where worth is what --worth
    says. 0 is uniform, and large values approach "top"."""
    coverage: Annotated[Number, Field(gt=0, le=1)] = 0.5
    """Share of the prompts over which the acquisition "covering" spreads its draws."""
    worth: Literal["variance", "useful", "signal", "progress"] | None = None
    """What a prompt is worth to the acquisition: "variance" is the expected variance of one rollout's reward, which is
    largest at success rates near one half, "useful" the chance of a useful group, "signal" the expected squared
    advantage under the loss in use, and "progress" the expected gain in success rate from training on it. The default
    is "variance" for the acquisition "soft", and "useful" for all others."""
    retire: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Chance of an all-correct group above which a prompt that has been rolled out is not chosen. The prompt returns
    when this chance falls again."""
    read_prompts: CountOrNone = 0
    """Number of principal components of the policy's hidden state at the end of each prompt that models such as
    Siblings and Covariate get as features, together with the prompt's log-probability. 0 gives none."""
    oracle_rollouts: CountOrNone = 0
    """Number of rollouts per prompt whose outcomes the dynamics "Oracle" is told before a selection. These rollouts are
    not counted. The result of such a run bounds what any prediction can achieve."""
    oracle_every: Count = 1
    """Number of steps between the times at which the dynamics "Oracle" is told outcomes of fresh rollouts."""
    prior: Path | None = None
    """A posterior to start from, as saved by `dps-pyro fit` or in a run's posterior/ folder."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.acquisition not in ACQUISITIONS and ":" not in self.acquisition:
            names = ", ".join(ACQUISITIONS)
            raise ValueError(
                f"acquisition: expected one of {names}, or path/to/file.py:function, got {self.acquisition!r}"
            )
        if (self.oracle_rollouts > 0) != (self.dynamics == "Oracle"):
            raise ValueError(f"{ORACLE}, got {self.oracle_rollouts}")
        return self


class UpdateSection(Section):
    """The loss and the optimizer."""

    loss: Literal["grpo", "dr_grpo", "dapo", "rloo"] = "grpo"
    """The loss and its advantages."""
    baseline: Literal["auto", "group", "belief"] = "auto"
    """What rewards are compared with: "group" is the loss's own baseline, and "belief" is the reward that the tracker
    expected. With "belief", all-correct and all-wrong groups also carry signal. "auto" is the belief for groups of a
    single rollout, and the group for larger ones."""
    baseline_scale: Literal["auto", "none", "centred", "belief", "group", "batch"] = "auto"
    """What is made of the difference to the baseline "belief". "none" leaves it as it is. "centred" subtracts the mean
    of all differences of the step. "belief" and "group" divide it by the standard deviation of the belief or of the
    group. "batch" subtracts the mean and divides by the standard deviation of the step. "auto" is "centred" for groups
    of a single rollout. For larger groups it is "belief" with grpo and dapo, and "none" with the other losses."""
    thinning: NotNegative = 0.0
    """Largest accepted growth of the mean square of the gradient, as a share of it, in exchange for cheaper updates.
    The update then leaves out some of the completions with small advantages, at random, and gives those that it keeps a
    larger weight, so that the expected gradient stays the same. 0 leaves none out. 0.1 suits groups of a single
    rollout."""
    learning_rate: NotNegative | None = None
    """Learning rate of AdamW. The default is 1e-4 for an embedded policy (2e-4 for math) and 1e-6 for other models."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate changes after the warmup: it stays, or it falls to zero at the last step."""
    warmup_steps: CountOrNone = 0
    """Number of first steps over which the learning rate rises to its full size."""
    weight_decay: NotNegative = 0.0
    """Weight decay of AdamW."""
    epochs: Count = 1
    """Number of passes over the rollouts of a step."""
    mini_batches: Count = 1
    """Number of optimizer steps per pass."""
    micro_batch: Count = 64
    """Largest number of completions per forward pass. It bounds memory and does not change the result."""
    micro_batch_tokens: Count | None = None
    """Largest number of tokens per forward pass, with prompts and padding. By default only micro_batch is a bound."""
    clip: tuple[Number, Number] | None = None
    """Lower and upper clip of the probability ratio. The default is the loss's own."""
    tis_cap: NotNegative = 2.0
    """Largest importance weight of a token when the engine is not the policy itself (truncated importance sampling).
    0 sets no limit."""
    overlong: Literal["keep", "mask", "punish"] = "keep"
    """What happens to completions that are cut off at max_new_tokens: "keep" trains on them, "mask" leaves them out of
    the update, and "punish" lowers the reward over the last overlong_buffer tokens (DAPO)."""
    overlong_buffer: Count | None = None
    """Number of tokens over which the punishment grows from 0 to 1. The default is a fifth of max_new_tokens."""
    kl: NotNegative = 0.0
    """Weight of the KL divergence from the initial policy."""
    max_grad_norm: Positive = 1.0
    """Largest norm of the gradient. Larger gradients are scaled down to it."""
    lora_rank: CountOrNone = 0
    """Rank of low-rank adapters (LoRA) that are trained in place of the weights. 0 trains all weights."""
    lora_alpha: Positive | None = None
    """Scale of LoRA: adapters are multiplied by alpha / rank. The default is twice the rank."""
    lora_targets: tuple[str, ...] = ("all-linear",)
    """Modules that get adapters, by the ends of their names, for instance q_proj v_proj. "all-linear" is every linear
    layer except the output layer."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.lora_targets:
            raise ValueError("lora_targets: expected names of modules, or all-linear, got none")
        if self.tis_cap != 0 and self.tis_cap < 1:
            raise ValueError(f"tis_cap: expected 1 or more, or 0 for any, got {self.tis_cap}")
        if self.clip is not None and not (0 <= self.clip[0] <= 1 and self.clip[1] >= 0):
            raise ValueError(f"clip: expected lower in [0, 1] and upper of at least 0, got {list(self.clip)}")
        return self


class EvaluationSection(Section):
    """What is measured and kept: evaluations, checkpoints, logs and the report."""

    eval_every: CountOrNone = 25
    """Number of steps between evaluations on the held-out prompts. 0 evaluates only before and after training."""
    eval_samples: Count = 4
    """Number of completions per held-out prompt, for accuracy (avg@n) and pass@k."""
    keep_best: StrictBool = True
    """Keep the policy with the best evaluation in best/, as an ordinary transformers folder."""
    log_completions: CountOrNone = 10
    """Number of steps between the times at which completions are written to completions/. 0 writes none."""
    wandb: str | None = None
    """Weights & Biases project that shows the run, in addition to TensorBoard."""
    checkpoint_every: Count = 25
    """Number of steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Number of checkpoints that are kept."""
    full_log: StrictBool = False
    """Roll out all other prompts at every step too, and keep all groups in full_log.parquet for `dps-pyro replay`. The
    training itself does not change, but the run takes longer."""
    report: StrictBool = True
    """Fit the model to the run's history (posterior/) and draw report.html after the last step."""
    compare: tuple[Path, ...] = ()
    """Finished runs that the report draws beside this run."""


class MachineSection(Section):
    """Random seed, devices, number formats and memory."""

    seed: StrictInt = 0
    """Random seed for prompt selection, rollouts and evaluation."""
    device: str = "auto"
    """Device of the policy: "auto", "cpu", "cuda" and so on."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of forward passes. "auto" is bfloat16 on a GPU that supports it."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Number format of the weights. bfloat16 halves the memory of weights and optimizer but rounds small updates away.
    LoRA's adapters are always float32."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Implementation of attention. "auto" is transformers' choice for the model."""
    gradient_checkpointing: StrictBool = False
    """Compute activations again in the backward pass. This needs less memory and takes about a third longer."""
    threads: Count | None = None
    """Number of CPU threads. The default is torch's choice."""


SECTIONS: dict[str, type[Section]] = {
    "task": TaskSection,
    "rollouts": RolloutsSection,
    "engine": EngineSection,
    "selection": SelectionSection,
    "update": UpdateSection,
    "evaluation": EvaluationSection,
    "machine": MachineSection,
}
"""The sections by the name that they have in the YAML file, in order."""

SECTION_OF: dict[str, str] = {name: key for key, section in SECTIONS.items() for name in section.model_fields}
"""The section of each setting, by the setting's short name. Flat files from earlier versions are read by it."""
