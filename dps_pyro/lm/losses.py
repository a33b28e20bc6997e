"""Advantages and losses of GRPO and its kin, as pure tensor functions.

Four published algorithms, chosen by name (`Kind`), differ only in the advantage and in the average:

========= ============================================== ================================================ ===========
kind      advantage of completion i in a group of n      surrogate, averaged over                         clip
========= ============================================== ================================================ ===========
grpo      (r_i - mean) / (std + eps)                     tokens of a completion, then over completions    0.2, 0.2
dapo      (r_i - mean) / (std + eps)                     all tokens of the mini-batch                     0.2, 0.28
dr_grpo   r_i - mean                                     completions x max_completion_length (constant)   0.2, 0.2
rloo      r_i - mean of the n - 1 others                 completions (the ratio is the completion's)      0.2, 0.2
========= ============================================== ================================================ ===========

Sources: GRPO, DeepSeekMath (arXiv 2402.03300, eq. 3 and 4); Dr. GRPO (arXiv 2503.20783); DAPO (arXiv 2503.14476,
sections 3.1 and 3.3); RLOO (arXiv 2402.14740). If a paper leaves a choice open, the numbers are those of TRL's
`GRPOTrainer` and `RLOOTrainer` and of verl's `core_algos`, and the docstrings say which.

Shapes: G groups of n completions; B rows of at most C tokens, right-padded; V tokens in the vocabulary. The completions
of a group are adjacent, so that `rewards.flatten()` is in row order.

**Groups without signal**, whose rewards are all equal, have zero advantage. The caller finds them with
`informative_groups` before the forward pass, and drops their rows. The averages above then run over the rows that were
kept, so that the step is the one that would have been taken without these groups. (Plain GRPO keeps their rows, which
shrinks the loss by the share of useful rows.)

**Micro-batches.** An average over a mini-batch is not the average of its micro-batches' averages. `policy_loss`
therefore divides by the `Counts` of the whole mini-batch, which are taken once. The loss of each micro-batch is its
share of the whole, and the shares add up for every split:

    counts = count(completion_mask)                      # once, over all rows of the optimizer step
    for rows in torch.arange(len(completion_mask)).split(8):
        policy_loss(kind, logprobs(rows), ..., counts).loss.backward()
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, assert_never, get_args

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["grpo", "dr_grpo", "dapo", "rloo"]

CLIP: Mapping[Kind, tuple[float, float]] = {
    "grpo": (0.2, 0.2),
    "dr_grpo": (0.2, 0.2),
    "dapo": (0.2, 0.28),  # clip-higher: DAPO, section 3.1
    "rloo": (0.2, 0.2),
}
"""Default (lower, upper) clip ranges: the ratio is kept in [1 - lower, 1 + upper]."""


# ------------------------------------------------------------------------------------------------------- advantages


def informative_groups(rewards: Tensor, tolerance: float = 0.0, there: Tensor | None = None) -> Tensor:
    """Find the useful groups: those whose rewards are not all equal.

    Args:
        rewards: float [G, n].
        tolerance: rewards this close count as equal, in the units of the reward.
        there: bool [G, n], which entries are completions, for groups that differ in size. The default is all of them.

    Returns:
        bool [G]; True if the largest and the smallest reward differ by more than `tolerance`.
    """
    _check_rewards(rewards, there)
    # In floating point 0.4 - 0.3 is more than 0.1, and graded rewards often differ by exactly the tolerance.
    rounding = 4 * torch.finfo(rewards.dtype).eps if tolerance else 0.0
    if there is None:
        return rewards.amax(1) - rewards.amin(1) > tolerance + rounding
    most = rewards.masked_fill(~there, -math.inf).amax(1)
    least = rewards.masked_fill(~there, math.inf).amin(1)
    return most - least > tolerance + rounding  # a group of none has -inf - inf


def advantages(rewards: Tensor, kind: Kind, *, eps: float = 1e-4, there: Tensor | None = None) -> Tensor:
    """Compute the advantage of each completion over its group.

    `grpo` and `dapo` divide by the group's *unbiased* standard deviation (n - 1 in the denominator: `torch.std`, as in
    TRL and verl; the papers do not say) plus `eps` (1e-4 in TRL, 1e-6 in verl). `rloo` is n / (n - 1) times `dr_grpo`.

    Args:
        rewards: float [G, n], finite, n >= 2.
        kind: the algorithm.
        eps: added to the standard deviation; unused by `dr_grpo` and `rloo`.
        there: bool [G, n], which entries are completions, for groups that differ in size. Other entries are ignored.

    Returns:
        float [G, n]. Rows sum to zero. Groups of equal rewards, groups of one completion, and entries that are no
        completions are exactly zero, not merely up to rounding.

    Raises:
        ValueError: `rewards` is not [G, n >= 2] or not finite.
    """
    _check_kind(kind)
    # Rounding of the mean would leave a trace in equal rewards such as 0.1, and the small std would blow it up.
    useful = informative_groups(rewards, there=there)[:, None]
    known = torch.ones_like(rewards, dtype=torch.bool) if there is None else there
    n = known.sum(1, keepdim=True).clamp_min(2)
    earned = rewards.masked_fill(~known, 0.0)
    centred = (earned - earned.sum(1, keepdim=True) / n).masked_fill(~(known & useful), 0.0)
    match kind:
        case "grpo" | "dapo":
            return centred / ((centred.square().sum(1, keepdim=True) / (n - 1)).sqrt() + eps)
        case "dr_grpo":
            return centred
        case "rloo":
            return centred * (n / (n - 1))  # r_i - (sum - r_i) / (n - 1)
    assert_never(kind)


def _check_rewards(rewards: Tensor, there: Tensor | None) -> None:
    ragged = there is not None
    if rewards.ndim != 2 or rewards.shape[1] < (1 if ragged else 2) or not rewards.is_floating_point():
        raise ValueError(
            f"expected float rewards of shape [groups, completions >= 2], got {rewards.dtype} {list(rewards.shape)}"
        )
    if there is not None and (there.dtype != torch.bool or there.shape != rewards.shape):
        raise ValueError(
            f"expected there to be bool of shape {list(rewards.shape)}, got {there.dtype} {list(there.shape)}"
        )
    if not (rewards if there is None else rewards[there]).isfinite().all():
        raise ValueError("expected finite rewards, got NaN or infinity: score unscorable completions before this point")


# ------------------------------------------------------------------------------------------------------------ losses


class Counts(NamedTuple):
    """What a mini-batch is averaged over: the rows of one optimizer step, without the groups that are not useful."""

    sequences: int
    tokens: int


def count(completion_mask: Tensor) -> Counts:
    """Count the rows and the unmasked tokens of a whole mini-batch; `completion_mask` is bool [B, C]."""
    return Counts(completion_mask.shape[0], int(completion_mask.sum()))


class PolicyLoss(NamedTuple):
    """A micro-batch's share of the mini-batch's loss and diagnostics; every field adds up over micro-batches."""

    loss: Tensor  # scalar, to be minimised
    clip_fraction: Tensor  # share of tokens (rloo: of completions) whose gradient the clip removed, 0..1
    kl: Tensor  # KL(behaviour || policy) per token, nats; k3 estimate, >= 0
    reference_kl: Tensor  # KL(policy || reference) per token, nats; k3 estimate, >= 0; 0 without a reference
    entropy: Tensor  # mean of -log p over the sampled tokens, nats; unbiased if the policy is the behaviour
    engine_kl: Tensor  # KL(engine || behaviour) per token, nats; k3 estimate, >= 0; 0 without engine_logprobs
    truncated_weights: Tensor  # share of tokens (rloo: of completions) whose importance weight was cut to the cap


def policy_loss(
    kind: Kind,
    logprobs: Tensor,
    behaviour_logprobs: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    counts: Counts,
    *,
    max_completion_length: int | None = None,
    clip: tuple[float, float] | None = None,
    reference_logprobs: Tensor | None = None,
    beta: float = 0.0,
    engine_logprobs: Tensor | None = None,
    cap: float = 2.0,
) -> PolicyLoss:
    """The clipped surrogate (PPO, arXiv 1707.06347, eq. 7) with the aggregation of `kind`, plus beta times a KL.

    With ratio = exp(logprobs - behaviour_logprobs) and advantage A, a token's loss is

        -min(ratio * A, clip(ratio, 1 - lower, 1 + upper) * A)

    so a token stops contributing once its probability has moved by more than the clip *in the direction of A*. A large
    ratio with A < 0 has no bound, as published and as in TRL.

    `rloo` applies the formula once per completion, as TRL does, with ratio = exp(sum over tokens of the log-ratio).
    While the policy is still the behaviour (ratio 1), its gradient is that of the paper's REINFORCE estimator,
    -A * grad log p(completion), averaged over completions.

    The KL penalty is the k3 estimate of KL(policy || reference) per token (DeepSeekMath, eq. 4), aggregated like the
    tokens of `kind` (`rloo`: summed over a completion). It enters the loss for every kind; the RLOO paper puts it in
    the reward, which a caller can do instead. Its gradient is that of the estimate, as in TRL and verl.

    **Truncated importance sampling.** A separate engine such as vLLM, with another precision, other kernels or older
    weights, draws from a distribution that is not quite the behaviour's. With `engine_logprobs` every token's
    surrogate is multiplied by the constant min(exp(behaviour_logprobs - engine_logprobs), cap); for `rloo`, a
    completion's by that of the sums. Up to the cap, the average over the engine's draws is then that over the
    behaviour's. Source: Yao et al., "Your efficient RL framework secretly brings you off-policy RL training", 2025.
    TRL and verl use its cap of 2, too. The KL penalty is not weighted.

    Worked example, `grpo`, lower = upper = 0.2, two completions of 2 and 1 tokens, A = (1, -1), log-ratios
    ((0, log 1.5), (0,)): token losses ((-1, -min(1.5, 1.2)), (1,)); means (-1.1, 1); loss -0.05. `dapo` with the same
    clip: (-1 - 1.2 + 1) / 3 = -0.4.

    Args:
        kind: the algorithm.
        logprobs: float [B, C], the log-probabilities of the completions' tokens under the policy, with gradient.
        behaviour_logprobs: float [B, C], the same under the distribution from which they were drawn
            (`Rollouts.logprobs`), or under the policy at the start of the step; `logprobs.detach()` for a strictly
            on-policy step.
        advantages: float [B].
        completion_mask: bool [B, C], which entries are tokens. Other entries are ignored, even NaN and infinities.
        counts: the counts of the whole mini-batch (`count`). Each field of the result is divided by them.
        max_completion_length: the constant of `dr_grpo` in tokens, required there and unused elsewhere. It has to be
            the same in all steps: the sampling limit, not the longest completion of the batch.
        clip: (lower, upper), both >= 0 and lower <= 1. The default is `CLIP[kind]`.
        reference_logprobs: float [B, C], the log-probabilities under the reference policy.
        beta: the coefficient of the KL to the reference, >= 0.
        engine_logprobs: float [B, C], the log-probabilities under the engine's distribution (`Rollouts.logprobs`), if
            that is not the behaviour. `behaviour_logprobs` are then the trainer's own, from before the step.
        cap: the largest importance weight, >= 1. Infinity leaves all weights as they are.

    Raises:
        ValueError: shapes disagree, `kind` is unknown, or an argument that `kind` or `beta` needs is missing.
    """
    _check_kind(kind)
    _check_shapes(logprobs, behaviour_logprobs, advantages, completion_mask, reference_logprobs, engine_logprobs)
    if not cap >= 1:
        raise ValueError(f"expected cap >= 1, got {cap}")
    lower, upper = clip if clip is not None else CLIP[kind]
    if not (0 <= lower <= 1 and upper >= 0):
        raise ValueError(f"expected clip (lower in [0, 1], upper >= 0), got {(lower, upper)}")
    if counts.sequences < 1 or counts.tokens < 1:
        raise ValueError(f"expected a mini-batch with rows and tokens, got {counts}: skip a step without useful groups")
    if beta < 0 or (beta > 0 and reference_logprobs is None):
        raise ValueError(f"expected beta >= 0, and reference_logprobs where beta > 0; got beta = {beta}")

    mask = completion_mask.bool()
    weights = _token_weights(kind, mask.to(logprobs.dtype), counts, max_completion_length)
    log_ratio = (logprobs - behaviour_logprobs).masked_fill(~mask, 0.0)
    drift = torch.zeros_like(log_ratio)
    if engine_logprobs is not None:
        drift = (behaviour_logprobs - engine_logprobs).detach().masked_fill(~mask, 0.0)
    if kind == "rloo":
        importance = drift.sum(1).exp()
        surrogate, clipped = _clipped_surrogate(log_ratio.sum(1), advantages, lower, upper)
        loss = (surrogate * importance.clamp(max=cap)).sum() / counts.sequences
        clip_fraction = clipped.to(logprobs.dtype).sum() / counts.sequences
        truncated = (importance > cap).to(logprobs.dtype).sum() / counts.sequences
    else:
        importance = drift.exp()
        surrogate, clipped = _clipped_surrogate(log_ratio, advantages[:, None], lower, upper)
        loss = (surrogate * importance.clamp(max=cap) * weights).sum()
        clip_fraction = (clipped & mask).to(logprobs.dtype).sum() / counts.tokens
        truncated = ((importance > cap) & mask).to(logprobs.dtype).sum() / counts.tokens

    reference_kl = loss.new_zeros(())
    if reference_logprobs is not None:
        per_token = k3((reference_logprobs - logprobs).masked_fill(~mask, 0.0))
        reference_kl = per_token.sum() / counts.tokens
        if beta > 0:
            loss = loss + beta * (per_token * weights).sum()
    return PolicyLoss(
        loss=loss,
        clip_fraction=clip_fraction.detach(),
        kl=k3(log_ratio.detach()).sum() / counts.tokens,
        reference_kl=reference_kl.detach(),
        entropy=-logprobs.detach().masked_fill(~mask, 0.0).sum() / counts.tokens,
        engine_kl=k3(drift).sum() / counts.tokens,
        truncated_weights=truncated,
    )


def k3(log_ratio: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(p || q) from draws of p: (q / p) - 1 - log(q / p), elementwise, >= 0, unbiased.

    Args:
        log_ratio: log q - log p at the draws; any shape. (http://joschu.net/blog/kl-approx.html)
    """
    return torch.expm1(log_ratio) - log_ratio


def _clipped_surrogate(log_ratio: Tensor, advantages: Tensor, lower: float, upper: float) -> tuple[Tensor, Tensor]:
    """Return the loss of each element, and whether the clip removed its gradient. Shapes broadcast."""
    ratio = log_ratio.exp()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - lower, 1 + upper) * advantages)
    clipped = ((ratio > 1 + upper) & (advantages > 0)) | ((ratio < 1 - lower) & (advantages < 0))
    return loss, clipped


def _token_weights(kind: Kind, mask: Tensor, counts: Counts, max_completion_length: int | None) -> Tensor:
    """The weight of each token in the mini-batch's average, float [B, C]; zero where `mask`, float [B, C], is zero."""
    lengths = mask.sum(1, keepdim=True)
    match kind:
        case "grpo":
            return mask / (lengths.clamp(min=1) * counts.sequences)
        case "dapo":
            return mask / counts.tokens
        case "dr_grpo":
            if max_completion_length is None or max_completion_length < lengths.max():
                raise ValueError(
                    "dr_grpo divides by a constant length: expected max_completion_length >= the longest completion "
                    f"({int(lengths.max())} tokens), got {max_completion_length}"
                )
            return mask / (counts.sequences * max_completion_length)
        case "rloo":
            return mask / counts.sequences
    assert_never(kind)


def _check_kind(kind: str) -> None:
    if kind not in get_args(Kind):
        raise ValueError(f"expected an algorithm among {', '.join(get_args(Kind))}; got {kind!r}")


def _check_shapes(
    logprobs: Tensor,
    behaviour: Tensor,
    advantages: Tensor,
    mask: Tensor,
    reference: Tensor | None,
    engine: Tensor | None,
) -> None:
    others = {"behaviour_logprobs": behaviour, "reference_logprobs": reference, "engine_logprobs": engine}
    same = [mask.shape] + [other.shape for other in others.values() if other is not None]
    if logprobs.ndim != 2 or any(shape != logprobs.shape for shape in same) or advantages.shape != logprobs.shape[:1]:
        shapes = ", ".join(f"{name} {None if other is None else list(other.shape)}" for name, other in others.items())
        raise ValueError(
            "expected log-probabilities and mask [B, C] and advantages [B]; got "
            f"logprobs {list(logprobs.shape)}, {shapes}, advantages {list(advantages.shape)}, mask {list(mask.shape)}"
        )


# --------------------------------------------------------------------------------------------------- log-probabilities
