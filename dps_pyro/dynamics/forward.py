"""The filter's mathematics: Bayes' rule, Chapman-Kolmogorov, and the likelihood that they add up to.

Pure functions of tensors. The state axis is last, the prompt axis before it, time first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dps_pyro.dynamics.laws import once, together

__all__ = [
    "Conditioned",
    "Filtered",
    "Leaps",
    "condition",
    "filter_all",
    "leaps_over",
    "log_likelihood",
    "predict",
    "prompt_by_prompt",
]


class Conditioned(NamedTuple):
    """A belief after Bayes' rule."""

    belief: Tensor  # [..., K], p(z_t | y_<=t)
    log_evidence: Tensor  # [...], log p(y_t | y_<t)


class Filtered(NamedTuple):
    """What is believed after each step, and what each step's outcomes add to the likelihood."""

    belief: Tensor  # [T, ..., N, K], p(z_t | y_<=t)
    log_evidence: Tensor  # [T, ..., N], log p(y_t | y_<t); 0 where missing


Leaps = list[list[tuple[int, Tensor | None]]]
"""The moves made before each step: by which matrix, and who makes it, [1, N] ones and zeros; None for all prompts."""


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
    total = ahead.sum(-1, keepdim=True)
    # A second large tensor would cost more than the division itself. Gradients need both.
    return ahead / total if ahead.requires_grad else ahead.div_(total)


def _apply(rows: Tensor, matrix: Tensor) -> Tensor:
    """`rows[..., n, :] @ matrix[..., n, :, :]`."""
    if matrix.ndim > 2 and matrix.shape[-3] > 1:
        return (rows.unsqueeze(-2) @ matrix).squeeze(-2)
    # One matrix for all prompts: a single matrix product, nothing is copied N times.
    matrix = matrix if matrix.ndim == 2 else matrix.squeeze(-3)
    return rows @ matrix


def prompt_by_prompt(belief: Tensor) -> Tensor:
    """The beliefs laid out in memory prompt by prompt. In this order a product with a matrix rounds alike however many
    prompts there are, so that some prompts filtered again have the beliefs that they had among all."""
    return belief.contiguous()


def _likeliest(log_likelihood: Tensor, otherwise: Tensor) -> Tensor:
    weight = (log_likelihood - log_likelihood.amax(-1, keepdim=True).clamp_min(torch.finfo(otherwise.dtype).min)).exp()
    total = weight.sum(-1, keepdim=True)
    return torch.where(total > 0, weight / total, otherwise)


def filter_all(initial: Tensor, transition: Tensor, emitted: Tensor) -> Filtered:
    """`condition` and `predict` over all steps of many prompts at once, without gradients.

    Args:
        initial: [..., N or 1, K], `p(z_1)`; leading dimensions may be left out.
        transition: [T or 1, ..., N or 1, K, K] or [T or 1, K, K], row-stochastic; the last step's is not used.
        emitted: [T, ..., N, K], `log p(y_t | z_t)`; zeros for a missing step.
    """
    transition = _aligned(transition, emitted)
    with torch.no_grad():
        found = _filter(initial, transition, emitted, _step_by_step(transition, emitted))
    return Filtered(found.belief.mT, found.log_evidence.squeeze(-2))


def log_likelihood(initial: Tensor, transition: Tensor, emitted: Tensor, leaps: Leaps | None = None) -> Tensor:
    """The forward algorithm: `log p(y_1:T)`, the states summed out exactly.

    Args:
        initial: [..., N or 1, K], `p(z_1)`; leading dimensions may be left out.
        transition: [T or 1, ..., N or 1, K, K] or [T or 1, K, K], row-stochastic; the last step's is not used.
        emitted: [T, ..., N, K], `log p(y_t | z_t)`; zeros for a missing step.
        leaps: where `emitted` are T rounds some steps apart, the moves before each, as `leaps_over` has them; then
            `transition` is [1, ...], the same at every step.

    Returns:
        [..., N]. Differentiable in all three, by smoothing rather than by recording the T steps: the gradient of
        `log p(y)` is the expected number of times each factor is used (Fisher's identity). For the entries of
        `transition` this is the gradient with every row free; whatever normalises the rows takes it from there.
        If the gradient is to be differentiated again (`create_graph`, for a Hessian), the steps are recorded after all.
    """
    transition = _aligned(transition, emitted)
    if leaps is None:
        leaps = _step_by_step(transition, emitted)
    else:
        powers = [transition]
        for _ in range(max((matrix for moves in leaps for matrix, _ in moves), default=0)):
            powers.append(powers[-1] @ powers[-1])
        transition = torch.cat(powers)
    total: Tensor = _Forward.apply(initial, transition, emitted, leaps)  # type: ignore[no-untyped-call]
    return total


def leaps_over(gaps: Tensor, dtype: torch.dtype) -> Leaps:
    """The moves by the powers 1, 2, 4, ... of one matrix that pass `gaps` long [T, N] steps before each round: as many
    as the largest gap has binary digits, at most."""
    digits = torch.arange(int(gaps.max()).bit_length(), device=gaps.device).view(-1, 1, 1)
    ones = gaps >> digits & 1  # [digits, T, N]
    whose = ones.to(dtype).unsqueeze(-2).transpose(0, 1)
    return [
        [(digit, mask[digit]) for digit, needed in enumerate(row) if needed]
        for row, mask in zip(ones.any(-1).mT.tolist(), whose, strict=True)
    ]


# Below, the prompts' axis is last, [T, ..., K, N]: a sum over few states then runs along many prompts, several times
# faster than the other way round. Matrices are [..., K, K, N], or [..., K, K] where all prompts share one.


def _step_by_step(transition: Tensor, emitted: Tensor) -> Leaps:
    timed = len(transition) > 1
    return [[(t - 1 if timed else 0, None)] if t else [] for t in range(len(emitted))]


def _aligned(transition: Tensor, emitted: Tensor) -> Tensor:
    missing = emitted.ndim + 1 - transition.ndim
    return transition.reshape(len(transition), *[1] * missing, *transition.shape[1:])


def _matrices(transition: Tensor) -> tuple[tuple[Tensor, ...], bool]:
    """The matrices, and whether all prompts share them."""
    if transition.shape[-3] == 1:
        return transition.squeeze(-3).unbind(), True
    own = transition.movedim(-3, -1)
    return (own if own.stride(-1) == 1 else own.contiguous()).unbind(), False


def _ahead(rows: Tensor, matrix: Tensor, shared: bool) -> Tensor:
    """`sum_i rows[..., i, n] matrix[..., i, j, n]`."""
    return matrix.mT @ rows if shared else (matrix * rows.unsqueeze(-2)).sum(-3)


def _back(rows: Tensor, matrix: Tensor, shared: bool) -> Tensor:
    """`sum_j matrix[..., i, j, n] rows[..., j, n]`."""
    return matrix @ rows if shared else (matrix * rows.unsqueeze(-3)).sum(-2)


class _Pass(NamedTuple):
    """What the filter found on its way forward."""

    belief: Tensor  # [T, ..., K, N], p(z_t | y_<=t)
    log_evidence: Tensor  # [T, ..., 1, N], log p(y_t | y_<t)
    likelihood: Tensor  # [T, ..., K, N], p(y_t | z_t), up to a factor per step and prompt
    evidence: Tensor  # [T, ..., 1, N], p(y_t | y_<t), up to the same factor
    before: list[list[Tensor]]  # [..., K, N], the belief before each of the moves

    def ratio(self) -> Tensor:
        """[T, ..., K, N], p(y_t | z_t) / p(y_t | y_<t), by which Bayes' rule multiplied."""
        return self.likelihood / self.evidence


def _filter(initial: Tensor, transition: Tensor, emitted: Tensor, moves: Leaps) -> _Pass:
    if torch.is_grad_enabled():
        return _filter_safely(initial, transition, emitted, moves)
    likelihood = once(emitted).mT.contiguous()  # many samples of the moves may share their emissions
    shift = likelihood.amax(-2, keepdim=True)
    likelihood = (likelihood - shift).exp_()
    likelihood = likelihood.expand(len(emitted), *likelihood.shape[1:])
    matrices, shared = _matrices(transition)
    batch = together(initial.shape[:-1], emitted.shape[1:-1], transition.shape[1:-2])
    belief = initial.expand(*batch, -1).mT
    filtered = belief.new_empty(len(emitted), *belief.shape)
    evidence = filtered.new_empty(len(emitted), *batch[:-1], 1, batch[-1])
    before: list[list[Tensor]] = []
    for now, total, seen, steps in zip(filtered.unbind(), evidence.unbind(), likelihood.unbind(), moves, strict=True):
        before.append([])
        for matrix, whose in steps:
            before[-1].append(belief)
            ahead = _ahead(belief, matrices[matrix], shared)
            belief = ahead if whose is None else torch.lerp(belief, ahead, whose)
        torch.mul(belief, seen, out=now)
        torch.sum(now, -2, keepdim=True, out=total)
        belief = now.div_(total)
    # The shift was by the likeliest state, believed possible or not. Where that left nothing of the others, or where an
    # outcome is impossible, all is done again with the care that `condition` takes.
    limits = torch.finfo(evidence.dtype)
    if not bool(evidence.amin() > limits.tiny / limits.eps):
        return _filter_safely(initial, transition, emitted, moves)
    return _Pass(filtered, evidence.log() + shift, likelihood, evidence, before)


def _filter_safely(initial: Tensor, transition: Tensor, emitted: Tensor, moves: Leaps) -> _Pass:
    """The same by `condition` and `predict`, differentiable."""
    belief = initial.expand(together(initial.shape, emitted.shape[1:], transition.shape[1:-1]))
    filtered, terms = [], []
    before: list[list[Tensor]] = []
    for shown, steps in zip(emitted, moves, strict=True):
        before.append([])
        for matrix, whose in steps:
            before[-1].append(belief.mT)
            ahead = predict(belief, transition[matrix])
            belief = ahead if whose is None else torch.where(whose.mT > 0, ahead, belief)
        belief, evidence = condition(belief, shown)
        filtered.append(belief)
        terms.append(evidence)
    log_evidence = torch.stack(terms).unsqueeze(-1)
    ratio = (emitted - log_evidence).clamp_max(80.0).exp().nan_to_num(nan=0.0).mT
    return _Pass(torch.stack(filtered).mT, log_evidence.mT, ratio, torch.ones_like(log_evidence.mT), before)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, initial: Tensor, transition: Tensor, emitted: Tensor, moves: Leaps) -> Tensor:
        ctx.found, ctx.moves = _filter(initial, transition, emitted, moves), moves
        ctx.save_for_backward(initial, transition, emitted)
        total: Tensor = ctx.found.log_evidence.squeeze(-2).sum(0)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        initial, transition, emitted = ctx.saved_tensors
        found: _Pass = ctx.found
        if torch.is_grad_enabled():  # What was saved in between knows nothing of the inputs.
            found = _filter(initial, transition, emitted, ctx.moves)
        outer = gradients[0].unsqueeze(-2)  # [..., 1, N]
        matrices, shared = _matrices(transition)
        moved: list[Tensor | None] = [None] * len(matrices)  # the gradient in each: the moves from state to state
        ahead = torch.ones_like(found.belief[0])  # p(y_t+1:T | z_t) / p(y_t+1:T | y_1:t)
        onward = []
        for seen, steps, before in zip(found.ratio().unbind()[::-1], ctx.moves[::-1], found.before[::-1], strict=True):
            onward.append(ahead)
            ahead = seen * ahead  # how each state at t would explain y_t and all after it
            for (matrix, whose), belief in zip(steps[::-1], before[::-1], strict=True):
                if ctx.needs_input_grad[1]:
                    flow = belief * (outer if whose is None else outer * whose)
                    # summed over prompts without an [N, K, K] on the way
                    step = flow @ ahead.mT if shared else flow.unsqueeze(-2) * ahead.unsqueeze(-3)
                    moved[matrix] = step if (sofar := moved[matrix]) is None else sofar + step
                back = _back(ahead, matrices[matrix], shared)
                ahead = back if whose is None else torch.lerp(ahead, back, whose)
        to_initial, to_transition, to_emitted = (ahead * outer).mT.sum_to_size(initial.shape), None, None
        if ctx.needs_input_grad[1]:
            like = next((one for one in moved if one is not None), torch.zeros_like(matrices[0]))
            stacked = torch.stack([torch.zeros_like(like) if one is None else one for one in moved])
            back = stacked.unsqueeze(-3) if shared else stacked.movedim(-1, -3)
            to_transition = back.sum_to_size(transition.shape)
        if ctx.needs_input_grad[2]:
            to_emitted = (found.belief * outer * torch.stack(onward[::-1])).mT.sum_to_size(emitted.shape)
        return to_initial, to_transition, to_emitted, None
