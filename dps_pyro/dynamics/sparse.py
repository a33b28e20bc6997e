"""The likelihood where few prompts are rolled out at a step.

If all steps have the same moves, prompts that were rolled out about as often are taken together, round by round.
Otherwise all prompts move at every step, and those few are conditioned.

The mathematics is `dps_pyro.dynamics.forward`'s, and so are the conventions: prompts last, [..., K, N].
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from dps_pyro.dynamics.forward import Leaps, _ahead, _back, _matrices, leaps_over, log_likelihood
from dps_pyro.dynamics.laws import together

__all__ = ["Block", "blocks_of", "log_likelihood_of_rounds"]

OVERHEAD = 15_000
"""What one more operation costs, in multiplications that it could have had more at the same cost."""

_blocks = WeakTensorKeyDictionary()


class Block(NamedTuple):
    """Prompts that were rolled out about as often as each other."""

    rows: Tensor  # long [B], which
    steps: Tensor  # long [B, R], the steps of their rounds, ascending; T where a prompt has no more
    leaps: Leaps  # the moves before each round

    def cost(self, num_states: int) -> int:
        """What it costs to take the block through its rounds: to condition at each, and to move in between."""
        return (len(self.leaps) + sum(map(len, self.leaps))) * (OVERHEAD + len(self.rows) * num_states**2)


def blocks_of(at: Tensor, num_steps: int, num_states: int, dtype: torch.dtype) -> list[Block]:
    """The prompts with rounds, in blocks of those with 1, 2, 3 or 4, 5 to 8, 9 to 16, ... of them. Neighbours are one
    block where that costs less. No blocks at all, if to take all prompts through all steps costs less. The blocks are
    kept as long as the tensor is.

    Args:
        at: long [N, R], each prompt's rounds as `log_likelihood_of_rounds` takes them.
        num_steps: T.
        num_states: K.
        dtype: that of the law's chances.
    """
    known = cast("dict[Any, list[Block]]", _blocks.setdefault(at, {}))
    if (num_states, dtype) in known:
        return known[num_states, dtype]
    counts = (at < num_steps).sum(-1)
    digits = (counts - 1).clamp_min(0).double().add(0.5).log2().floor().long() + 1  # of 1: 0, of 2: 1, of 3 and 4: 2

    def block(rows: Tensor) -> Block:
        steps = at[rows, : int(counts[rows].max())]
        seen = torch.where(steps < num_steps, steps, 0)
        gaps = seen.diff(dim=-1, prepend=torch.zeros_like(seen[:, :1])).clamp_min(0)
        return Block(rows, steps, leaps_over(gaps.mT, dtype))

    made: list[Block] = []
    for digit in torch.unique(digits[counts > 0]).tolist():
        new = block(((digits == digit) & (counts > 0)).nonzero().squeeze(-1))
        while made:
            both = block(torch.cat([made[-1].rows, new.rows]))
            if both.cost(num_states) > made[-1].cost(num_states) + new.cost(num_states):
                break
            made.pop()
            new = both
        made.append(new)
    if sum(one.cost(num_states) for one in made) > num_steps * (OVERHEAD + len(at) * num_states**2):
        made = []
    known[num_states, dtype] = made
    return made


def log_likelihood_of_rounds(
    initial: Tensor, transition: Tensor, emitted: Tensor, at: Tensor, num_steps: int
) -> Tensor:
    """The forward algorithm, as `log_likelihood` has it, of prompts that were rolled out in some of the steps.

    Args:
        initial: [..., N or 1, K], `p(z_1)`; leading dimensions may be left out.
        transition: [T or 1, ..., N or 1, K, K], row-stochastic; the last step's is not used.
        emitted: [R, ..., N, K], `log p(y | z)` of each prompt's first, second, ... group; zeros where it has no more.
        at: long [N, R], the groups' steps, ascending; T where a prompt has no more.
        num_steps: T.

    Returns:
        [..., N]. Differentiable in all three, as `log_likelihood` is.
    """
    seen = at < num_steps
    if len(transition) == 1:
        gaps = torch.where(seen, at, 0).diff(dim=-1, prepend=torch.zeros_like(at[:, :1])).clamp_min(0).mT
        leaps = leaps_over(gaps, transition.dtype)
        if sum(map(len, leaps)) < num_steps / 2:
            return log_likelihood(initial, transition, emitted, leaps)
    batch = together(initial.shape[:-1], emitted.shape[1:-1], transition.shape[1:-2])
    steps = at.mT.flatten()
    order = steps.argsort(stable=True)[: int(seen.sum())]
    prompt, counts = order % len(at), torch.bincount(steps[order], minlength=num_steps).tolist()
    shown = emitted.expand(len(emitted), *batch, -1).movedim(-2, 1).flatten(0, 1).index_select(0, order)  # [M, ..., K]
    if len(batch) == 1:
        total, sound = _Visits.apply(initial, transition, shown, prompt, counts, len(at))  # type: ignore[no-untyped-call]
        if bool(sound):
            return torch.as_tensor(total)
    return log_likelihood(initial, transition, _all_steps(shown, prompt, counts, len(at)))


def _all_steps(shown: Tensor, prompt: Tensor, counts: list[int], size: int) -> Tensor:
    """[T, ..., N, K] for groups [M, ..., K] in the order of steps, `counts` of them at each: zeros where missing."""
    device = shown.device
    step = torch.arange(len(counts), device=device).repeat_interleave(torch.tensor(counts, device=device))
    dense = shown.new_zeros(len(counts) * size, *shown.shape[1:]).index_copy(0, step * size + prompt, shown)
    return dense.view(len(counts), size, *shown.shape[1:]).movedim(1, -2)


class _Visits(torch.autograd.Function):
    """[N], of groups as `_all_steps` takes them; and whether it is sound. As in `forward`, likelihoods are shifted by
    those of the likeliest state, believed possible or not, which may leave nothing of the others."""

    @staticmethod
    def forward(
        ctx: Any, initial: Tensor, transition: Tensor, shown: Tensor, prompt: Tensor, counts: list[int], size: int
    ) -> tuple[Tensor, Tensor]:
        likelihood = shown.mT.contiguous()  # [K, M]
        shift = likelihood.amax(0)
        likelihood = (likelihood - shift).exp_()
        matrices, shared = _matrices(transition)
        evidence = torch.empty_like(shift)
        beliefs = initial.new_empty(len(counts), initial.shape[-1], size)  # p(z_t | y_<=t)
        beliefs[0] = initial.expand(size, -1).mT
        groups = zip(prompt.split(counts), likelihood.split(counts, 1), evidence.split(counts), strict=True)
        for t, (who, ratio, total) in enumerate(groups):
            if t:
                beliefs[t] = _ahead(beliefs[t - 1], matrices[(t - 1) % len(matrices)], shared)
            if len(who):
                joint = beliefs[t].index_select(1, who) * ratio
                torch.sum(joint, 0, out=total)
                beliefs[t].index_copy_(1, who, joint.div_(total))
                ratio.div_(total)  # p(y_t | z_t) / p(y_t | y_<t), by which Bayes' rule multiplied
        ctx.save_for_backward(initial, transition, shown)
        ctx.groups, ctx.found = (prompt, counts, size), (beliefs, likelihood)
        limits = torch.finfo(evidence.dtype)
        sound = (evidence > limits.tiny / limits.eps).all()
        ctx.mark_non_differentiable(sound)
        return evidence.new_zeros(size).index_add(0, prompt, evidence.log() + shift), sound

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        prompt, counts, size = ctx.groups
        initial, transition, shown = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            asked = [one for one, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False) if needed]
            total = log_likelihood(initial, transition, _all_steps(shown, prompt, counts, size))
            found = iter(torch.autograd.grad(total, asked, gradients[0], create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None, None, None
        beliefs, ratios = ctx.found
        matrices, shared = _matrices(transition)
        moved: list[Tensor | None] = [None] * len(matrices)  # the gradient in each: the moves from state to state
        to_shown = torch.empty_like(ratios)
        # p(y_t+1:T | z_t) / p(y_t+1:T | y_1:t), and what the likelihood is worth
        ahead = gradients[0].expand(beliefs.shape[1:]).clone()
        groups = zip(prompt.split(counts), ratios.split(counts, 1), to_shown.split(counts, 1), strict=True)
        for t, (who, ratio, to_group) in reversed(list(enumerate(groups))):
            if len(who):
                onward = ahead.index_select(1, who)
                torch.mul(beliefs[t].index_select(1, who), onward, out=to_group)
                ahead.index_copy_(1, who, onward * ratio)
            if t:
                which = (t - 1) % len(matrices)
                if ctx.needs_input_grad[1]:
                    before = beliefs[t - 1]
                    step = before @ ahead.mT if shared else before.unsqueeze(-2) * ahead.unsqueeze(-3)
                    moved[which] = step if (sofar := moved[which]) is None else sofar + step
                ahead = _back(ahead, matrices[which], shared)
        to_transition = None
        if ctx.needs_input_grad[1]:
            like = next((one for one in moved if one is not None), torch.zeros_like(matrices[0]))
            stacked = torch.stack([torch.zeros_like(like) if one is None else one for one in moved])
            to_transition = (stacked.unsqueeze(-3) if shared else stacked.movedim(-1, -3)).sum_to_size(transition.shape)
        return ahead.mT.sum_to_size(initial.shape), to_transition, to_shown.mT, None, None, None
