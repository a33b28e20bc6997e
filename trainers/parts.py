"""What a configuration names, made: the task, the sampler and its model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from dps_pyro.dynamics.contract import Dynamics
from dps_pyro.history.log import Features
from dps_pyro.inference.posterior import Posterior
from dps_pyro.inference.refit import Refit
from dps_pyro.models.by_name import make
from dps_pyro.policies.embedded import EMBEDDED
from dps_pyro.rollouts import RolloutEngine
from dps_pyro.selection.acquisition import Acquisition, acquisition_named, by_variance, worth_named
from dps_pyro.selection.sampler import PromptSampler
from dps_pyro.selection.worth import by_progress, by_signal, retiring
from dps_pyro.support.plugins import call
from dps_pyro.tasks import Math, PromptSet, Task, by_name, feature_columns
from dps_pyro.tasks.own.records import Records
from dps_pyro.tasks.own.task_process import TaskProcess
from dps_pyro.testing import check_quickly
from dps_pyro.tracking.predictor import Predictor
from dps_pyro.tracking.tracker import is_fitted
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.policy.load import autocast

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dps_pyro.trainers.policy.processors import Reader

__all__ = ["make_acquisition", "make_engine", "make_model", "make_sampler", "make_task"]


def make_engine(config: TrainConfig, policy: PreTrainedModel, tokenizer: Reader) -> RolloutEngine:
    """The configured engine, sampling from the policy as it is now.

    Raises:
        ValueError: vLLM is wanted and not installed.
        EngineError: it cannot run this policy with these settings, or the server cannot.
    """
    from transformers import ProcessorMixin

    if config.engine.engine == "transformers":
        from dps_pyro.rollouts.transformers import TransformersEngine

        return TransformersEngine(
            policy, tokenizer, batch_size=config.rollouts.rollout_batch, frozen=config.rollouts.async_rollouts
        )
    if config.engine.engine != "vllm":
        if isinstance(tokenizer, ProcessorMixin):
            raise ValueError(
                "engine: expected transformers or vllm for a vision-language model, got a server, "
                f"{config.engine.engine}"
            )
        from dps_pyro.rollouts.vllm_server import VllmServerEngine

        return VllmServerEngine(
            config.engine.engine,
            policy,
            tokenizer,
            max_model_len=config.engine.max_model_len,
            weights_folder=config.engine.weights_folder,
            timeout=config.engine.engine_timeout,
        )
    own = "bfloat16" if isinstance(autocast(config), torch.autocast) else "auto"
    from dps_pyro.rollouts.vllm import VllmEngine

    return VllmEngine(
        policy,
        tokenizer,
        dtype=own if config.engine.engine_dtype == "auto" else config.engine.engine_dtype,
        max_model_len=config.engine.max_model_len,
        kv_cache_gib=config.engine.kv_cache_gib,
        gpu_memory_utilization=config.engine.gpu_memory_utilization,
        tensor_parallel=config.engine.tensor_parallel,
        sleep=config.engine.engine_sleep and not config.rollouts.async_rollouts,
        args=config.engine.vllm_args,
    )


def make_model(
    config: TrainConfig, task: Task, features: Features, prior: Posterior | None = None
) -> Dynamics[Any] | Predictor:
    """The configured model of the task's prompts, of which `features` are known, to start from `prior`.

    Raises:
        ValueError: there is no such model, its arguments are wrong, or there is no such feature to group by.
    """
    groups: str | None = config.selection.groups
    if groups == "auto":  # the task's own choice, as far as the data have it
        groups = getattr(task, "groups", None)
        groups = groups if groups is not None and set(groups.split("+")) <= features.keys() else None
    asked = {} if groups in (None, "none") else {"groups": groups}
    model: Dynamics[Any] | Predictor = make(
        config.selection.dynamics, asked | config.selection.dynamics_args, features, optional=asked, posterior=prior
    )
    if ":" in config.selection.dynamics and is_fitted(
        model
    ):  # a user's own: the run is long, and the check takes a second
        check_quickly(model, num_prompts=len(task.prompts("train")))
    return model


def make_acquisition(config: TrainConfig) -> Acquisition:
    """The configured acquisition, as `PromptSampler` takes it.

    Raises:
        ValueError: it is of a file that is not there, or is no function.
    """
    chosen = config.selection
    made = acquisition_named(chosen.acquisition, chosen.sharpness, chosen.coverage)
    worth = worth_named(chosen.worth, chosen.acquisition)
    if worth == "signal":
        made = by_signal(made, replace(config.signal, power=2.0))
    elif worth == "variance":
        made = by_variance(made)
    elif worth == "progress":
        made = by_progress(made)
    return made if chosen.retire is None else retiring(made, chosen.retire)


def make_task(config: TrainConfig, tokenizer: Reader | None = None) -> Task:
    """Make the configured task. If a task has prompts in English and in a compact form, they are in English, except for
    the embedded policies and what was trained from them, because their tokenizers have no words.

    Raises:
        ValueError: there is no such task, its arguments are wrong, or it has too few prompts for the configuration.
    """
    words: Any = getattr(tokenizer, "tokenizer", tokenizer)  # a processor has one
    wordless = words is not None and words.unk_token_id in words("Using")["input_ids"]
    style = "compact" if wordless or config.task.policy in EMBEDDED else "instruct"
    task: Task
    if config.task.data is not None and config.task.reward is None:
        task = call("task_args", Math.from_files, {"train": config.task.data} | config.task.task_args)
    elif config.task.data is not None:
        own = {"source": config.task.data, "reward": config.task.reward, "timeout": config.task.reward_timeout}
        rule = {"reward_range": config.task.reward_range, "reward_solved_at": config.task.reward_solved_at}
        task = call("task_args", Records, own | rule | config.task.task_args)
    else:
        optional = {"style": style}
        task = by_name.make(config.task.task, config.task.task_args, optional)
        if ":" in config.task.task:  # a user's own: nothing is known of how long its rewards take
            task = TaskProcess(task, config.task.task, config.task.task_args, optional, config.task.reward_timeout)
    if config.rollouts.batch_size > (there := len(task.prompts("train"))):
        raise ValueError(
            f"batch_size: expected at most {there}, the number of prompts, got {config.rollouts.batch_size}"
        )
    if len(task.prompts("test")) == 0:
        raise ValueError("task_args: expected at least 1 test prompt, to evaluate on, got none (a test_size of 0)")
    return task


def make_sampler(
    config: TrainConfig, task: Task, prompts: PromptSet | None = None, read: Features | None = None
) -> PromptSampler:
    """The configured sampler of the task's prompts, or of those of them that fit; `read` are further features of them,
    such as the policy's reading."""
    prompts = task.prompts("train") if prompts is None else prompts
    if config.rollouts.batch_size > len(prompts):
        raise ValueError(
            f"batch_size: expected at most {len(prompts)}, the prompts that fit, got {config.rollouts.batch_size}"
        )
    features = feature_columns(prompts) | dict(read or {})
    prior = None if config.selection.prior is None else Posterior.load(config.selection.prior)
    return PromptSampler(
        make_model(config, task, features, prior),
        prompts.ids,
        acquisition=make_acquisition(config),
        trials=config.rollouts.group_size,
        posterior=prior,
        features=features,
        refit_every=config.selection.refit_every or None,
        refit=Refit(background=True),
        seed=config.machine.seed,
    )
