"""The filter's mathematics: Bayes' rule, Chapman-Kolmogorov, and the likelihood that they add up to.

Pure functions of tensors. The state axis is last, the prompt axis before it, time first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Conditioned", "condition", "log_likelihood", "predict"]


class Conditioned(NamedTuple):
    """A belief after Bayes' rule."""

    belief: Tensor  # [..., K], p(z_t | y_<=t)
    log_evidence: Tensor  # [...], log p(y_t | y_<t)


def condition(belief: Tensor, log_likelihood: Tensor) -> Conditioned:
    """Bayes' rule in probability space: `p(z | y) ∝ p(y | z) p(z)`.

    Args:
        belief: [..., K], `p(z_t | y_<t)`; need not be normalised.
        log_likelihood: [..., K], `log p(y_t | z_t)`, -inf allowed; all zeros for a missing step.

    The likelihood is shifted by its largest value among the states that the belief allows, a row at a time, so that
    nothing underflows: as exact as log space, and much faster. An outcome that is impossible in every allowed state
    has log evidence -inf; the belief then becomes the normalised likelihood (the outcome is believed), or stays as it
    was where no state at all could have produced it.
    """
    allowed = torch.where(belief > 0, log_likelihood, float("-inf"))
    shift = allowed.detach().amax(-1, keepdim=True)
    possible = shift > float("-inf")
    shift = torch.where(possible, shift, 0.0)
    joint = belief * torch.where(possible, (allowed - shift).exp(), torch.ones_like(belief))
    evidence = joint.sum(-1, keepdim=True)
    posterior = joint / evidence
    log_evidence = torch.where(possible, evidence.log() + shift, float("-inf")).squeeze(-1)
    if not bool(possible.all()):
        posterior = torch.where(possible, posterior, _likeliest(log_likelihood, posterior))
    return Conditioned(posterior, log_evidence)


def predict(belief: Tensor, transition: Tensor) -> Tensor:
    """Chapman-Kolmogorov: `p(z_{t+1} = j) = sum_i p(z_t = i) transition[..., i, j]`.

    Args:
        belief: [..., N, K], `p(z_t | y_<=t)`.
        transition: [..., N or 1, K, K] or [K, K], row-stochastic.

    Returns:
        [..., N, K], `p(z_{t+1} | y_<=t)`, normalised anew so that ten thousand steps do not drift.
    """
    ahead = _apply(belief, transition)
    return ahead / ahead.sum(-1, keepdim=True)


def _apply(rows: Tensor, matrix: Tensor) -> Tensor:
    """`rows[..., n, :] @ matrix[..., n, :, :]`."""
    if matrix.ndim == 2:  # one matrix for all prompts: a single matrix product, nothing is copied N times
        return rows @ matrix
    if matrix.shape[-3] == 1:
        return rows @ matrix.squeeze(-3)
    return (rows.unsqueeze(-2) @ matrix).squeeze(-2)


def _likeliest(log_likelihood: Tensor, otherwise: Tensor) -> Tensor:
    weight = (log_likelihood - log_likelihood.amax(-1, keepdim=True).clamp_min(torch.finfo(otherwise.dtype).min)).exp()
    total = weight.sum(-1, keepdim=True)
    return torch.where(total > 0, weight / total, otherwise)


def log_likelihood(initial: Tensor, transition: Tensor, emitted: Tensor) -> Tensor:
    """The forward algorithm: `log p(y_1:T)`, the states summed out exactly.

    Args:
        initial: [..., N or 1, K], `p(z_1)`; leading dimensions may be left out.
        transition: [T, ..., N or 1, K, K] or [T, K, K], row-stochastic; the last one is not used.
        emitted: [T, ..., N, K], `log p(y_t | z_t)`; zeros for a missing step.

    Returns:
        [..., N]. Differentiable in all three, by smoothing rather than by recording the T steps: the gradient of
        `log p(y)` is the expected number of times each factor is used (Fisher's identity). For the entries of
        `transition` this is the gradient with every row free; whatever normalises the rows takes it from there.
        Where the gradient is to be differentiated again (`create_graph`: a Hessian), the steps are recorded after all.
    """
    missing = emitted.ndim + 1 - transition.ndim
    aligned = transition.reshape(len(transition), *[1] * missing, *transition.shape[1:])
    total: Tensor = _Forward.apply(initial, aligned, emitted)  # type: ignore[no-untyped-call]
    return total


def _filter(initial: Tensor, transition: Tensor, emitted: Tensor) -> tuple[Tensor, Tensor]:
    """`p(z_t | y_<=t)` [T, ..., N, K] and `log p(y_t | y_<t)` [T, ..., N]."""
    shape = torch.broadcast_shapes(initial.shape, emitted.shape[1:], transition.shape[1:-2] + emitted.shape[-1:])
    belief = initial.expand(shape)
    filtered, evidence = [], []
    for shown, matrix in zip(emitted, transition, strict=True):
        conditioned = condition(belief, shown)
        filtered.append(conditioned.belief)
        evidence.append(conditioned.log_evidence)
        belief = predict(conditioned.belief, matrix)
    return torch.stack(filtered), torch.stack(evidence)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, initial: Tensor, transition: Tensor, emitted: Tensor) -> Tensor:
        filtered, evidence = _filter(initial, transition, emitted)
        ctx.save_for_backward(initial, transition, emitted, filtered, evidence)
        return evidence.sum(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        initial, transition, emitted, filtered, evidence = ctx.saved_tensors
        if torch.is_grad_enabled():  # What was saved in between knows nothing of the inputs.
            filtered, evidence = _filter(initial, transition, emitted)
        outer = gradients[0].unsqueeze(-1)  # [..., N, 1]
        # p(y_t | z_t) / p(y_t | y_<t): what Bayes' rule multiplied each state's probability by.
        weight = (emitted - evidence.unsqueeze(-1)).clamp_max(80.0).exp().nan_to_num(nan=0.0)
        ahead = torch.ones_like(filtered[0])  # p(y_t+1:T | z_t) / p(y_t+1:T | y_1:t)
        smoothed, arriving = [], []
        for t in range(len(filtered) - 1, -1, -1):
            smoothed.append(filtered[t] * ahead)
            arriving.append(weight[t] * ahead)  # how each state at t would explain y_t and all after it
            if t > 0:
                ahead = _apply(arriving[-1], transition[t - 1].mT)
        into = torch.stack(arriving[::-1])  # [T, ..., N, K]
        to_emitted = torch.stack(smoothed[::-1]) * outer
        to_initial = into[0] * outer
        now, then = filtered[:-1] * outer, into[1:]
        shared = transition.shape[-3] == 1  # then summed over prompts without an [N, K, K] on the way
        moved = (now.mT @ then).unsqueeze(-3) if shared else now.unsqueeze(-1) * then.unsqueeze(-2)
        to_transition = torch.cat([moved, torch.zeros_like(moved[:1])]) if len(moved) else torch.zeros_like(transition)
        return (
            to_initial.sum_to_size(initial.shape),
            to_transition.sum_to_size(transition.shape),
            to_emitted.sum_to_size(emitted.shape),
        )
