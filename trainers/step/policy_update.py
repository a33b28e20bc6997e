"""The policy-gradient update of one training step, in micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from dps_pyro.lm.known_baseline import tracked_advantages
from dps_pyro.lm.logprobs import completion_logprobs
from dps_pyro.lm.losses import Counts, PolicyLoss, advantages, count, policy_loss
from dps_pyro.lm.shared_prompts import shares_prompts
from dps_pyro.lm.thinning import thinned
from dps_pyro.rollouts import Rollouts
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.policy.load import autocast, recomputing
from dps_pyro.trainers.step.batches import micro_batches, tight
from dps_pyro.trainers.step.bookkeeping import Means
from dps_pyro.trainers.step.groups import Groups
from dps_pyro.trainers.step.overlong import length_penalty, truncated

__all__ = ["Reference", "UpdateBatch", "advantages_of", "update", "update_batch"]

Reference: TypeAlias = Callable[[], AbstractContextManager[nn.Module]]
"""The initial policy, as a context to compute in."""


_OF_ENGINE = ("engine_kl", "truncated_weights")
_SHARES = tuple(name for name in PolicyLoss._fields if name != "loss")


class UpdateBatch(NamedTuple):
    """What an update learns from."""

    completions: Tensor  # bool [G, n]
    advantages: Tensor  # float [G, n], what the update weighs each of them by; 0 for other completions

    @property
    def groups(self) -> Tensor:
        """Bool [G], the groups with a completion that the update learns from."""
        return self.completions.any(1)


def update_batch(groups: Groups, config: TrainConfig, seed: int) -> UpdateBatch:
    """Choose what the update learns from: the completions of the groups with a signal, and with dynamic sampling of a
    batch of them; with `thinning`, of these completions those that are drawn with the seed of the update.

    Against the group's own baseline only a useful group has a signal, against a baseline that was known before every
    group that was not expected to the digit.
    """
    weighed, kept = advantages_of(groups, config), _kept(groups, config)
    signal = groups.useful if groups.expected is None else (weighed.abs() > 1e-6).any(1)
    signal = signal & kept.any(1)
    if not config.rollouts.ragged:
        signal = signal & (signal.cumsum(0) <= config.rollouts.batch_size)
    learned = signal[:, None] & kept
    if config.update.thinning > 0:
        generator = torch.Generator().manual_seed(seed)
        rows, weights = thinned(weighed[learned], config.update.thinning, generator)
        places = learned.nonzero()[rows].unbind(1)
        # The loss averages over what is left. Its mean is to be the one over all.
        sizes = groups.spread(groups.rollouts.completion_mask.sum(1).cpu()) if config.update.loss == "dapo" else learned
        ratio = float(sizes[places].sum()) / max(float(sizes[learned].sum()), 1.0)
        learned = torch.zeros_like(learned)
        learned[places] = True
        weighed[places] *= weights * ratio
    return UpdateBatch(learned, weighed.masked_fill(~learned, 0.0))


def advantages_of(groups: Groups, config: TrainConfig) -> Tensor:
    """float [G, n], what the update weighs each completion by, 0 where there is none; with `overlong` "punish", after
    the punishment for length (which the tracker is not told: its business is what the policy can solve)."""
    rewards, there = groups.rewards, groups.there
    if config.update.overlong == "punish":
        lengths = groups.spread(groups.rollouts.completion_mask.sum(1).cpu())
        rewards = rewards + length_penalty(lengths, config.sampling.max_new_tokens, config.buffer)
    if groups.expected is None:
        return advantages(rewards, config.update.loss, there=there)
    return tracked_advantages(rewards, groups.expected, config.scale, there=there)


def _kept(groups: Groups, config: TrainConfig) -> Tensor:
    """bool [G, n], the completions that the update may learn from: those with a token, and with `overlong` "mask" those
    of them that ended."""
    kept = groups.rollouts.completion_mask.any(1).cpu()
    if config.update.overlong == "mask":
        kept = kept & ~truncated(groups.rollouts)
    return groups.spread(kept)


def update(
    policy: nn.Module,
    reference: Reference | None,
    optimizer: torch.optim.Optimizer,
    groups: Groups,
    config: TrainConfig,
    seed: int,
) -> dict[str, float | None]:
    """Take the optimizer steps of one training step.

    Groups without signal are dropped before the forward pass: they cost nothing and dilute nothing. If dynamic
    sampling found more useful groups than a batch, one batch of them is used, as in DAPO. The policy stays in
    evaluation mode: with dropout, it would not be the one that was sampled from. With `overlong` "mask", completions
    that were cut off are dropped in the same way, though they count in their group's baseline.

    Returns:
        loss, grad_norm, clip_fraction, kl, reference_kl and entropy, averaged over the optimizer steps, and if the
        engine is not the policy also engine_kl and truncated_weights; None if no group had a signal.

    Raises:
        FloatingPointError: the gradient is no longer finite; the optimizer step was not taken.
    """
    learned, weighed = update_batch(groups, config, seed)
    rollouts = groups.rollouts.select(learned[groups.there])
    values = weighed[learned].to(rollouts.logprobs.device)
    generator = torch.Generator().manual_seed(seed)
    means = Means("loss", "grad_norm", *(name for name in _SHARES if config.corrected or name not in _OF_ENGINE))
    shared = rollouts.vision is None and shares_prompts(policy)
    # What an engine of its own drew is weighted to the policy's before the update. In a single step that is the policy
    # as the gradient finds it; in several it is computed once, before the first.
    several = config.update.epochs * config.update.mini_batches > 1
    before = _all_logprobs(policy, rollouts, config, shared) if config.corrected and several and len(values) else None
    for _ in range(config.update.epochs):
        order = torch.randperm(len(values), generator=generator)
        for mini in order.tensor_split(min(config.update.mini_batches, max(len(order), 1))):
            if len(mini) == 0:
                continue
            counts = count(rollouts.completion_mask[mini])
            optimizer.zero_grad(set_to_none=True)
            for micro in micro_batches(rollouts, mini, config, shared=shared):
                old = None if before is None else before[micro]
                part = rollouts.select(micro)
                means.add(
                    _backward(
                        policy, reference, part, config, before=old, values=values[micro], counts=counts, shared=shared
                    )
                )
            norm = nn.utils.clip_grad_norm_(policy.parameters(), config.update.max_grad_norm)
            if not torch.isfinite(norm):
                raise FloatingPointError(f"gradient norm: expected a finite number, got {float(norm)}")
            optimizer.step()
            means.add({"grad_norm": norm})
            means.close()
    return means.values()


def _backward(
    policy: nn.Module,
    reference: Reference | None,
    rollouts: Rollouts,
    config: TrainConfig,
    *,
    before: Tensor | None,
    values: Tensor,
    counts: Counts,
    shared: bool,
) -> dict[str, Tensor]:
    """Add the gradient of one micro-batch, and return its numbers for the metrics."""
    rollouts = tight(rollouts)
    with recomputing(policy):
        logprobs = _logprobs(policy, rollouts, config, shared)
        known = None
        if reference is not None:
            with torch.no_grad(), reference() as initial:
                known = _logprobs(initial, rollouts, config, shared)
    behaviour = rollouts.logprobs
    if config.corrected:
        behaviour = logprobs.detach() if before is None else before[:, : logprobs.shape[1]]
    share = policy_loss(
        config.update.loss,
        logprobs,
        behaviour,
        values,
        rollouts.completion_mask,
        counts,
        max_completion_length=config.sampling.max_new_tokens,
        clip=config.update.clip,
        reference_logprobs=known,
        beta=config.update.kl,
        engine_logprobs=rollouts.logprobs if config.corrected else None,
        cap=config.update.tis_cap or math.inf,
    )
    share.loss.backward()
    shares = share._asdict().items()
    return {name: value.detach() for name, value in shares if config.corrected or name not in _OF_ENGINE}


@torch.no_grad()
def _all_logprobs(policy: nn.Module, rollouts: Rollouts, config: TrainConfig, shared: bool) -> Tensor:
    """[R, C], the completions' log-probabilities under the policy as it is."""
    known = torch.zeros_like(rollouts.logprobs)
    for micro in micro_batches(rollouts, torch.arange(len(known)), config, shared=shared):
        drawn = _logprobs(policy, tight(rollouts.select(micro)), config, shared)
        known[micro.to(known.device), : drawn.shape[1]] = drawn
    return known


def _logprobs(model: nn.Module, rollouts: Rollouts, config: TrainConfig, shared: bool) -> Tensor:
    """Those of one micro-batch, under the policy or the one that it started from."""
    sequences = rollouts.prompt_ids, rollouts.prompt_mask, rollouts.completion_ids, rollouts.completion_mask
    with autocast(config):
        return completion_logprobs(
            model, *sequences, temperature=config.rollouts.temperature, vision=rollouts.vision, share_prompts=shared
        )
