"""Prompts, rolled out and judged: a step's groups, and the held-out accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dps_pyro.policy_gradient import informative_groups
from dps_pyro.rollouts import Query, RolloutEngine, Rollouts, concatenate
from dps_pyro.tasks import Prompt, Task, judge
from dps_pyro.trainers.bookkeeping import Clock, seed_for
from dps_pyro.trainers.config import TrainConfig
from dps_pyro.trainers.policy import autocast, query

__all__ = ["Groups", "draw", "evaluate", "judged", "rewarded", "roll_out"]


class Groups(NamedTuple):
    """Prompts, rolled out and judged."""

    rollouts: Rollouts  # G * n rows, the n of a prompt adjacent
    rewards: Tensor  # [G, n], 0..1
    reasons: list[str]  # G * n, what the task says of each reward
    tolerance: float = 0.0  # rewards that are no further apart are equal: the model's

    @property
    def useful(self) -> Tensor:
        """bool [G], the groups whose rewards differ, so that there is something to learn."""
        return informative_groups(self.rewards, self.tolerance)


def roll_out(
    engine: RolloutEngine,
    tokenizer: Any,
    task: Task,
    prompts: Sequence[Prompt],
    config: TrainConfig,
    step: int,
    clock: Clock,
    tolerance: float = 0.0,
    drawn: Rollouts | None = None,
) -> Groups:
    """Roll out the candidates, a batch at a time, until a batch's worth of groups is useful.

    Useful is a group whose rewards differ by more than `tolerance`. Without dynamic sampling the candidates are one
    batch. With it (DAPO, arXiv 2503.14476) later batches are paid for only while useful groups are missing.

    What was `drawn` ahead is not drawn again.
    """
    rollouts: list[Rollouts] = []
    reasons: list[str] = []
    rewards = torch.zeros(0, config.group_size)
    for part in range(0, len(prompts), config.batch_size):
        batch = prompts[part : part + config.batch_size]
        seed = seed_for(config.seed, "rollout", step, part)
        if drawn is None or part > 0:
            with clock("rollout"):
                drawn = draw(engine, tokenizer, task, batch, config, seed)
        found = judged(task, batch, drawn, config, clock)
        rollouts.append(found.rollouts)
        rewards = torch.cat([rewards, found.rewards])
        reasons += found.reasons
        if int(informative_groups(rewards, tolerance).sum()) >= config.batch_size:
            break
    return Groups(concatenate(rollouts), rewards, reasons, tolerance)


def rewarded(
    engine: RolloutEngine,
    tokenizer: Any,
    task: Task,
    prompts: Sequence[Prompt],
    config: TrainConfig,
    seed: int,
    clock: Clock,
    tolerance: float = 0.0,
) -> Groups:
    """Roll out a group a prompt, and judge it."""
    with clock("rollout"):
        drawn = draw(engine, tokenizer, task, prompts, config, seed)
    return judged(task, prompts, drawn, config, clock, tolerance)


def draw(
    engine: RolloutEngine, tokenizer: Any, task: Task, prompts: Sequence[Prompt], config: TrainConfig, seed: int
) -> Rollouts:
    """A group of completions a prompt."""
    texts = _shown(tokenizer, task, prompts, config)
    with autocast(config):
        return engine.generate(texts, config.group_size, config.sampling, seed=seed)


def judged(
    task: Task, prompts: Sequence[Prompt], drawn: Rollouts, config: TrainConfig, clock: Clock, tolerance: float = 0.0
) -> Groups:
    """What each completion earned."""
    with clock("reward"):
        owners = [prompt for prompt in prompts for _ in range(config.group_size)]
        earned = judge(task, owners, drawn.texts)
        values = torch.tensor([reward.value for reward in earned]).view(len(prompts), config.group_size)
    return Groups(drawn, values, [reward.reason for reward in earned], tolerance)


def evaluate(engine: RolloutEngine, tokenizer: Any, task: Task, config: TrainConfig) -> dict[str, float | None]:
    """Held-out accuracy: the share of `eval_samples` completions a test prompt that solve it, at the training
    temperature. The same draws at every evaluation. The standard error is over prompts."""
    prompts = task.prompts("test")
    texts = _shown(tokenizer, task, prompts, config)
    with autocast(config):
        rollouts = engine.generate(texts, config.eval_samples, config.sampling, seed=seed_for(config.seed, "evaluate"))
    owners = [prompt for prompt in prompts for _ in range(config.eval_samples)]
    earned = judge(task, owners, rollouts.texts)
    by_prompt = torch.tensor([reward.value for reward in earned], dtype=torch.float64).view(len(prompts), -1).mean(1)
    return {
        "accuracy": float(by_prompt.mean()),
        "stderr": float(by_prompt.std() / len(prompts) ** 0.5) if len(prompts) > 1 else None,
        "prompts": len(prompts),
        "samples": config.eval_samples,
    }


def _shown(tokenizer: Any, task: Task, prompts: Sequence[Prompt], config: TrainConfig) -> list[str | Query]:
    """What the policy reads of each prompt."""
    system = getattr(task, "system", None)
    return [query(tokenizer, prompt, system, config.prompt_format) for prompt in prompts]
