"""Prompts, rolled out and judged: a step's groups, and the held-out accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dps_pyro.lm.inputs import encode
from dps_pyro.lm.losses import informative_groups
from dps_pyro.rollouts import Query, RolloutEngine, Rollouts, concatenate
from dps_pyro.rollouts.seeds import seed_for
from dps_pyro.selection.rounds import completing
from dps_pyro.support.text import clean
from dps_pyro.tasks import Prompt, PromptSet, Reward, Task, judge
from dps_pyro.tasks.own.reward_process import RewardError
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.policy.chat import query
from dps_pyro.trainers.policy.load import autocast
from dps_pyro.trainers.step.bookkeeping import Clock

__all__ = [
    "Groups",
    "Source",
    "draw",
    "earnings",
    "evaluate",
    "go_on",
    "judged",
    "merged",
    "pass_at",
    "pictured",
    "rewarded",
    "roll_out",
    "shown",
    "told",
]

LONGEST_REASON = 300
"""Characters of a reason that are kept."""


@dataclass(frozen=True)
class Source:
    """The source of a run's rollouts: what draws completions, and what judges them."""

    engine: RolloutEngine
    """What draws completions."""
    tokenizer: Any
    """The policy's tokenizer, or its processor if it reads images."""
    task: Task
    """What judges completions."""
    config: TrainConfig
    """The run's settings."""
    tolerance: float = 0.0
    """Rewards that are no further apart than this are equal."""


class Groups(NamedTuple):
    """Prompts, rolled out and judged. If groups differ in size, `rewards` is as wide as the largest group and padded
    with NaN. Its other entries are in the order of the rollouts."""

    rollouts: Rollouts  # one row a completion, those of a prompt adjacent
    rewards: Tensor  # [G, n], 0..1
    reasons: list[str]  # one per completion, what the task says about each reward
    tolerance: float = 0.0  # rewards that are no further apart are equal: the model's
    places: Tensor | None = None  # long [G], which of the prompts these are; None: all of them
    skipped: int = 0  # completions of other prompts, left out because one of theirs could not be judged
    trouble: str | None = None  # why the first of them could not
    expected: Tensor | None = None  # [G, n], what each completion was expected to earn, where that is the baseline

    def of(self, rows: Tensor) -> Tensor:
        """The entries for these groups in `rows`, which has one entry per prompt that was to be rolled out."""
        return rows[: len(self.rewards)] if self.places is None else rows[self.places]

    @property
    def there(self) -> Tensor:
        """bool [G, n], which entries are completions; those that are, in this order, are the rows of the rollouts."""
        return ~self.rewards.isnan()

    @property
    def sizes(self) -> Tensor:
        """long [G], the completions of each group."""
        return self.there.sum(1)

    @property
    def solved(self) -> Tensor:
        """[G], the sum of each group's rewards."""
        return self.rewards.nansum(1)

    @property
    def useful(self) -> Tensor:
        """bool [G], the groups whose rewards differ, so that there is something to learn."""
        return informative_groups(self.rewards, self.tolerance, self.there)

    def spread(self, values: Tensor) -> Tensor:
        """[G, n], one value a completion (in the rollouts' order) laid out as the rewards are; 0 elsewhere."""
        laid = values.new_zeros(self.rewards.shape)
        return laid.masked_scatter(self.there, values)


def roll_out(
    source: Source,
    prompts: Sequence[Prompt],
    step: int,
    clock: Clock,
    *,
    drawn: Rollouts | None = None,
    sizes: Tensor | None = None,
    chances: Tensor | None = None,
) -> Groups:
    """Roll out the candidates, some at a time, until a batch's worth of groups is useful.

    A group is useful if its rewards differ by more than the source's tolerance. Without dynamic sampling the candidates
    are one batch. With it (DAPO, arXiv 2503.14476) further ones are paid for only while useful groups are missing.

    Args:
        source: What draws and what judges.
        prompts: The candidates.
        step: The training step, which decides the draws.
        clock: What times the rollouts and the rewards.
        drawn: Completions of the first batch that were drawn ahead. They are not drawn again.
        sizes: long, one group size per prompt. The candidates are then one batch. None: the run's group size.
        chances: The predicted chance of each candidate that its group is useful. As many are rolled out at a time as
            will complete the batch by these chances. None: a batch at a time.

    Raises:
        ValueError: not one group of the first round could be judged. A later round of that kind is left out.
    """
    config = source.config
    parts: list[Groups] = []
    places: list[Tensor] = []
    lost, trouble = 0, None
    whole = config.rollouts.batch_size if sizes is None else len(prompts)
    part, missing = 0, config.rollouts.batch_size
    while part < len(prompts) and missing > 0:
        count = whole if chances is None else completing(chances[part:], missing)
        batch = prompts[part : part + count]
        seed = seed_for(config.machine.seed, "rollout", step, part)
        if drawn is None or part > 0:
            with clock("rollout"):
                drawn = draw(source, batch, seed, sizes)
        try:
            found = judged(source, batch, drawn, clock, sizes)
        except ValueError as error:
            if not parts:
                raise
            lost, trouble = lost + len(drawn.texts), trouble or str(error)
        else:
            parts.append(found)
            places.append(found.of(torch.arange(part, part + len(batch))))
            missing -= int(found.useful.sum())
        part += count
    return Groups(
        concatenate([one.rollouts for one in parts]),
        torch.cat([one.rewards for one in parts]),
        [reason for one in parts for reason in one.reasons],
        source.tolerance,
        torch.cat(places),
        lost + sum(one.skipped for one in parts),
        next((one.trouble for one in parts if one.trouble is not None), trouble),
    )


def go_on(source: Source, groups: Groups, more: Tensor, prompts: Sequence[Prompt], step: int, clock: Clock) -> Groups:
    """Draw the second part of the groups. A group whose second part could not be judged keeps its first part.

    Args:
        source: What draws and what judges.
        groups: The first part.
        more: long [G], the number of further completions of each group; 0 for groups that end here.
        prompts: The prompts of the groups, G.
        step: The training step, which decides the draws.
        clock: What times the rollouts and the rewards.
    """
    going = more.nonzero().squeeze(-1)
    if len(going) == 0:
        return groups
    asked, sizes = [prompts[place] for place in going.tolist()], more[going]
    seed = seed_for(source.config.machine.seed, "rollout", step, "second part")
    with clock("rollout"):
        drawn = draw(source, asked, seed, sizes)
    try:
        second = judged(source, asked, drawn, clock, sizes)
    except ValueError as error:  # not one of them could be judged: the first part is whole without it
        return groups._replace(skipped=groups.skipped + int(sizes.sum()), trouble=groups.trouble or str(error))
    return merged(groups, second, second.of(going))


def merged(first: Groups, second: Groups, places: Tensor) -> Groups:
    """The groups of `first`, each followed by its completions in `second`; `places` (long) says whose these are."""
    owner = torch.arange(len(first.rewards))
    owners = torch.cat([owner.repeat_interleave(first.sizes), places.repeat_interleave(second.sizes)])
    order = owners.argsort(stable=True)
    values = torch.cat([first.rewards[first.there], second.rewards[second.there]])[order]
    reasons = [*first.reasons, *second.reasons]
    return first._replace(
        rollouts=concatenate([first.rollouts, second.rollouts]).select(order),
        rewards=_laid_out(values, first.sizes.index_add(0, places, second.sizes)),
        reasons=[reasons[row] for row in order.tolist()],
        skipped=first.skipped + second.skipped,
        trouble=first.trouble or second.trouble,
    )


def _laid_out(values: Tensor, sizes: Tensor) -> Tensor:
    """[G, widest], one value per completion, with one row per group and NaN behind the smaller groups."""
    there = torch.arange(int(sizes.max())) < sizes[:, None]
    return torch.full(there.shape, math.nan, dtype=values.dtype).masked_scatter(there, values)


def rewarded(source: Source, prompts: Sequence[Prompt], seed: int, clock: Clock) -> Groups:
    """Roll out a group for each prompt, and judge it as `judged` does."""
    with clock("rollout"):
        drawn = draw(source, prompts, seed)
    return judged(source, prompts, drawn, clock)


def told(source: Source, prompts: PromptSet, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """What an oracle is told before a step: rows, how many of `oracle_rollouts` rollouts of each prompt earned a full
    reward, and how many there were."""
    config = source.config
    sizes = torch.full((len(prompts),), config.selection.oracle_rollouts)
    asked = [prompts[row] for row in range(len(prompts))]
    drawn = draw(source, asked, seed_for(config.machine.seed, "oracle", step), sizes)
    groups = judged(source, asked, drawn, Clock(), sizes)
    return groups.of(torch.arange(len(prompts))), groups.solved, groups.sizes


def draw(source: Source, prompts: Sequence[Prompt], seed: int, sizes: Tensor | None = None) -> Rollouts:
    """Draw a group of completions for each prompt: `group_size` of them, or each prompt's own number in `sizes`."""
    config = source.config
    texts = shown(source.tokenizer, source.task, prompts, config)
    with autocast(config):
        return source.engine.generate(
            texts, config.rollouts.group_size if sizes is None else sizes.tolist(), config.sampling, seed=seed
        )


def judged(
    source: Source, prompts: Sequence[Prompt], drawn: Rollouts, clock: Clock, sizes: Tensor | None = None
) -> Groups:
    """Judge completions that were drawn for some prompts. A group with a completion that could not be judged is left
    out: its reward is not known, and nothing else stands in for it.

    Raises:
        ValueError: not one group could be judged.
    """
    number = torch.full((len(prompts),), source.config.rollouts.group_size) if sizes is None else sizes
    with clock("reward"):
        owners = [prompt for prompt, size in zip(prompts, number.tolist(), strict=True) for _ in range(size)]
        earned = earnings(source.task, owners, drawn.texts)
    reasons = [reward.reason for reward in earned]
    flat = torch.tensor([reward.value for reward in earned])
    owner = torch.arange(len(prompts)).repeat_interleave(number)
    known = torch.zeros(len(prompts)).index_add(0, owner, flat.isnan().float()) == 0
    if known.all():
        return Groups(drawn, _laid_out(flat, number), reasons, source.tolerance)
    rows = known[owner]
    skipped = int((~rows).sum())
    first = next(reward.reason for reward in earned if math.isnan(reward.value))
    if skipped == len(rows):
        raise ValueError(f"reward: expected whole groups to be judged, got none of {len(known)}: {first}")
    reasons = [reason for reason, kept in zip(reasons, rows.tolist(), strict=True) if kept]
    values = _laid_out(flat[rows], number[known])
    return Groups(drawn.select(rows), values, reasons, source.tolerance, known.nonzero()[:, 0], skipped, first)


def evaluate(source: Source, prompts: PromptSet | None = None) -> dict[str, float | None]:
    """Judge `eval_samples` completions per held-out prompt at the training temperature, with the same draws every time.

    Returns:
        accuracy: the mean reward of all completions (avg@n), and `stderr`, its standard error over prompts; pass@1,
        pass@2, pass@4, ... up to n: the chance that one of k completions earns a full reward (`pass_at`), averaged over
        prompts; prompts and samples, how many there were; unjudged, if there are any, the share of the completions
        whose reward raised or hung. Those count in none of the numbers.
    """
    config = source.config
    prompts = source.task.prompts("test") if prompts is None else prompts
    texts = shown(source.tokenizer, source.task, prompts, config)
    with autocast(config):
        rollouts = source.engine.generate(
            texts, config.evaluation.eval_samples, config.sampling, seed=seed_for(config.machine.seed, "evaluate")
        )
    owners = [prompt for prompt in prompts for _ in range(config.evaluation.eval_samples)]
    earned = earnings(source.task, owners, rollouts.texts)
    rewards = torch.tensor([reward.value for reward in earned], dtype=torch.float64).view(len(prompts), -1)
    whole = rewards[~rewards.isnan().any(1)]
    if len(whole) == 0:
        raise ValueError(f"reward: expected to judge the held-out completions, got {earned[0].reason}")
    by_prompt = whole.mean(1)
    samples = config.evaluation.eval_samples
    tries = sorted({2**power for power in range(samples.bit_length()) if 2**power <= samples} | {samples})
    unjudged = float(rewards.isnan().double().mean())
    return {
        "accuracy": float(by_prompt.mean()),
        "stderr": float(by_prompt.std() / len(whole) ** 0.5) if len(whole) > 1 else None,
        **{f"pass@{k}": float(pass_at(k, (whole >= 1).sum(1), samples).mean()) for k in tries},
        "prompts": len(prompts),
        "samples": samples,
        **({"unjudged": unjudged} if unjudged else {}),
    }


def pass_at(k: int, solved: Tensor, samples: int) -> Tensor:
    """The unbiased estimate of the chance that at least one of k completions is right, where `solved` (long, any shape)
    of `samples` were: 1 - C(n - c, k) / C(n, k) (Codex, arXiv 2107.03374, eq. 1). float64, in 0..1."""
    wrong = (samples - solved).double()
    tries = torch.arange(samples - k + 1, samples + 1, dtype=torch.float64)
    return 1 - ((wrong[..., None] - (samples - tries)) / tries).clamp(min=0).prod(-1)


def earnings(task: Task, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Reward]:
    """The reward of each completion. If the task's reward raised or ran out of time, the value is NaN, and the reason
    says so: a zero would teach the policy that it was wrong. If a task that judges a whole batch fails, the completions
    are judged one by one, so that only those at which it fails are lost."""
    if getattr(task, "rewards", None) is not None:
        with suppress(Exception):  # a user's own, of any kind; if it is the completions, each will say so
            found = judge(task, prompts, completions)
            return [reward._replace(reason=clean(reward.reason, LONGEST_REASON)) for reward in found]
    earned = []
    for prompt, completion in zip(prompts, completions, strict=True):
        try:
            reward = task.reward(prompt, completion)
            earned.append(reward._replace(reason=clean(reward.reason, LONGEST_REASON)))
        except Exception as error:  # noqa: BLE001 - as above; it is counted, and stops the run if all do
            told = str(error) if isinstance(error, RewardError) else f"reward raised {type(error).__name__}: {error}"
            earned.append(Reward(math.nan, clean(told, LONGEST_REASON)))
    return earned


def pictured(
    source: Source, prompts: PromptSet, rows: Tensor, sizes: Tensor | None = None
) -> list[Mapping[str, Tensor]]:
    """What the images of the prompts at `rows` become, one entry for each completion of a group, as in `Rollouts`; the
    groups are of `group_size`, or of `sizes`."""
    asked = shown(source.tokenizer, source.task, [prompts[row] for row in rows.tolist()], source.config)
    seen = [encode(source.tokenizer, one).vision if isinstance(one, Query) and one.images else {} for one in asked]
    number = [source.config.rollouts.group_size] * len(rows) if sizes is None else sizes.tolist()
    return [vision for vision, size in zip(seen, number, strict=True) for _ in range(size)]


def shown(tokenizer: Any, task: Task, prompts: Sequence[Prompt], config: TrainConfig) -> list[str | Query]:
    """What the policy reads of each prompt."""
    system = getattr(task, "system", None) if config.task.system is None else config.task.system
    return [query(tokenizer, prompt, system, config.task.prompt_format) for prompt in prompts]
