"""The law of prompts' outcomes over steps, with their states summed out by the forward algorithm."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, TypeVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.ops.indexing import Vindex
from torch import Tensor

from dps_pyro.dynamics import sparse
from dps_pyro.dynamics.forward import Filtered, condition, filter_all, log_likelihood, predict
from dps_pyro.dynamics.laws import narrow, once, together, unchecked
from dps_pyro.dynamics.step import Chain, Step

Theta = TypeVar("Theta")

__all__ = ["Progress", "Size"]

Size = torch.Size | list[int] | tuple[int, ...]


class Progress(TorchDistribution):
    """The law of prompts' outcomes over T steps, their states summed out by the forward algorithm.

    Batch [..., N], event [T]: `log_prob` is `log p(y_1:T)` for each prompt, exact; `sample` draws a path and what it
    shows.

    Args:
        dynamics: the model.
        theta: its parameters, as `dynamics.prior` returned them.
        steps: what is known of the T steps, the fields [N or 1, T]: time last, as in the event.
        rounds: long [N, R], the steps in which `steps.trials > 0`, a prompt's first, second, ..., and T where it has no
            more. With them the cost of `log_prob` grows with R rather than with T, where the model allows it: that of
            the emissions always, that of the moves where they are the same for all prompts and steps. Without them,
            with T. The value is the same.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, dynamics: Chain[Theta], theta: Theta, steps: Step, rounds: Tensor | None = None) -> None:
        steps = steps.dated()
        first = steps.at(0)
        self._initial = dynamics.initial(theta)
        shown, moves = dynamics.emission(theta, first).batch_shape, dynamics.transition(theta, first).batch_shape
        # How many sample dimensions theta carries, left of the prompts: time goes further left than those.
        self._lead = max(0, len(self._initial.batch_shape) - 1, len(moves) - 2, len(shown) - 2)
        self._steps, self._rounds = steps, rounds
        self._emit = partial(dynamics.emission, theta)
        moving = dynamics.transition(theta, _time_first(steps, self._lead)).probs
        # [T, ..., N or 1, K, K]; or [1, ..., N or 1, K, K] where it does not depend on the step
        self._transition = moving.reshape(*[1] * (self._lead + 4 - moving.ndim), *moving.shape)
        batch = together(self._initial.batch_shape, steps.trials.shape[:-1], shown[:-1], moves[:-1])
        super().__init__(batch, torch.Size([steps.trials.shape[-1]]), validate_args=False)
        self._blocks = self._worth_splitting()

    def expand(self, batch_shape: Size, _instance: Progress | None = None) -> Progress:
        """The same law over a larger batch."""
        new: Progress = self._get_checked_instance(Progress, _instance)  # type: ignore[no-untyped-call]
        new.__dict__.update(self.__dict__)
        super(Progress, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new

    def log_evidence(self, value: Tensor) -> Tensor:
        """[T, ..., N], the terms of the prequential score: `log p(y_t | y_<t)`, 0 where missing."""
        belief = self._initial.probs
        shown = self._shown(value, self._steps)
        terms = []
        for seen, transition in zip(shown, self._moves(), strict=True):
            conditioned = condition(belief, seen)
            terms.append(conditioned.log_evidence)
            belief = predict(conditioned.belief, transition)
        return torch.stack(terms)

    def filter(self, value: Tensor) -> Filtered:
        """`p(z_t | y_<=t)` [T, ..., N, K] and `log p(y_t | y_<t)` [T, ..., N] for outcomes [..., N, T], without
        gradients."""
        with torch.no_grad():
            return filter_all(self._initial.probs, self._transition, self._shown(value, self._steps))

    def log_prob(self, value: Tensor) -> Tensor:
        """[..., N], `log p(y_1:T)` for outcomes [..., N, T]: the sum of `log_evidence`, with a gradient of its own."""
        (num_steps,), at = self.event_shape, self._rounds
        if self._blocks:
            return self._by_blocks(value, self._blocks)
        if at is None or 3 * at.shape[-1] > 2 * num_steps:  # to rearrange so many costs more than it saves
            return log_likelihood(self._initial.probs, self._transition, self._shown(value, self._steps))
        seen, steps = at < num_steps, at.clamp_max(num_steps - 1)
        picked = self._steps.each(lambda field: field.expand(len(at), num_steps).gather(-1, steps))
        picked = picked.replace(trials=torch.where(seen, picked.trials, 0))
        emitted = self._shown(value.gather(-1, steps.expand(*value.shape[:-1], -1)), picked)
        return sparse.log_likelihood_of_rounds(self._initial.probs, self._transition, emitted, at, num_steps)

    @property
    def cells(self) -> int:
        """The number of entries [B] x rounds or steps for which `log_prob` keeps a belief, for each sample."""
        if self._blocks:
            return sum(block.steps.numel() for block in self._blocks)
        return self.batch_shape[-1] * self.event_shape[0]

    def _worth_splitting(self) -> list[sparse.Block]:
        """The prompts by how often they were rolled out, if `log_prob` costs less so; otherwise none."""
        if self._rounds is None or len(self._transition) > 1:
            return []
        chances = self._transition
        blocks = sparse.blocks_of(self._rounds, self.event_shape[0], chances.shape[-1], chances.dtype)
        if not blocks:
            return []
        single = self._emit(self._steps.at(0).each(lambda field: field[..., :1])).batch_shape
        return blocks if len(single) < 2 or single[-2] == 1 else []  # not if each prompt has an emission of its own

    def _by_blocks(self, value: Tensor, blocks: list[sparse.Block]) -> Tensor:
        """`log_prob`, block by block. A prompt without rollouts is in none: whatever it does is certain."""
        initial, size, (num_steps,) = self._initial.probs, self.batch_shape[-1], self.event_shape
        batch = together(self.batch_shape, value.shape[:-1])
        value = value.expand(*batch, -1)
        found = []
        for block in blocks:
            at = block.rows.unsqueeze(-1), block.steps.clamp_max(num_steps - 1)
            picked = self._steps.each(lambda field, at=at: field.expand(size, num_steps)[at])  # type: ignore[misc]
            picked = picked.replace(trials=torch.where(block.steps < num_steps, picked.trials, 0))
            emitted = self._shown(value[..., at[0], at[1]], picked, torch.Size([*batch[:-1], len(block.rows)]))
            found.append(
                log_likelihood(_rows(initial, -2, block), _rows(self._transition, -3, block), emitted, block.leaps)
            )
        total = value.new_zeros(batch)
        if found:
            rows = torch.cat([block.rows for block in blocks])
            total = total.index_copy(-1, rows, torch.cat([one.expand(*batch[:-1], -1) for one in found], -1))
        return total

    def _moves(self) -> Tensor:
        """[T, ..., N or 1, K, K], `p(z_{t+1} | z_t)`."""
        return self._transition.expand(*self.event_shape, *self._transition.shape[1:])

    def _shown(self, value: Tensor, steps: Step, batch: torch.Size | None = None) -> Tensor:
        """[T, ..., N, K], `log p(y_t | z_t)` for outcomes [..., N, T] of some steps; 0 where missing. `batch` [..., N]
        is the law's own, unless the outcomes are those of some prompts."""
        timed = _time_first(steps, self._lead)
        batch = together(batch or self.batch_shape, value.shape[:-1])
        seen = (timed.trials > 0).unsqueeze(-1)
        # [sample dimensions of the value alone, T, ..., N, 1]: time lines up with the law's own
        outcome = value.expand(*batch, -1).movedim(-1, -self._lead - 2).unsqueeze(-1)
        # Many samples of theta share their outcomes, whose gamma functions are computed once.
        likelihood = narrow(unchecked(self._emit(timed))).log_prob(torch.where(seen, once(outcome), 0.0))
        whole = together(outcome.shape, likelihood.shape)
        return torch.where(seen, likelihood, 0.0).expand(whole).movedim(-self._lead - 3, 0)

    def sample_ahead(self, value: Tensor) -> Tensor:
        """[..., N, T], one draw from `p(y_t | y_<t)` at every step, each given the true outcomes before it; 0 where
        missing.

        Args:
            value: [..., N, T], the outcomes.
        """
        timed = _time_first(self._steps, self._lead)
        with torch.no_grad():
            after = self.filter(value).belief
            start = self._initial.probs.expand(after.shape[1:]).unsqueeze(0)
            before = torch.cat([start, predict(after[:-1], self._moves()[:-1])])
            z = dist.Categorical(before).sample()
            shown = unchecked(self._emit(timed)).expand(after.shape).sample()
            outcome = shown.gather(-1, z.unsqueeze(-1)).squeeze(-1)
            return torch.where(timed.trials > 0, outcome, 0.0).movedim(0, -1)

    def sample(self, sample_shape: Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        """[..., N, T] outcomes drawn from the law; 0 where missing."""
        return self.sample_with_states(sample_shape)[0]

    def sample_with_states(self, sample_shape: Size = torch.Size()) -> tuple[Tensor, Tensor]:  # noqa: B008 - as above
        """[..., N, T] outcomes drawn from the law, 0 where missing, and long [..., N, T], the states that show them."""
        batch = torch.Size(sample_shape) + self.batch_shape
        own = self._lead + 1  # batch dimensions between time and the states
        extra, inner = batch[:-own], batch[-own:]
        num_states = self._initial.probs.shape[-1]
        timed = _time_first(self._steps, self._lead)
        with torch.no_grad():
            z = self._initial.expand(inner).sample(extra)
            emission = unchecked(self._emit(timed)).expand([len(timed.trials), *inner, num_states])
            shown = emission.sample(extra).movedim(len(extra), 0)
            outcomes, states = [], []
            for t, transition in enumerate(self._moves()):
                outcome = shown[t].gather(-1, z.unsqueeze(-1)).squeeze(-1)
                outcomes.append(torch.where(timed.trials[t] > 0, outcome, 0.0))
                states.append(z)
                law = transition.expand(*batch, num_states, num_states)
                z = dist.Categorical(Vindex(law)[..., z, :]).sample()
        return torch.stack(outcomes, -1), torch.stack(states, -1)


class Shown(TorchDistribution):
    """The emission of a known state: batch [..., N, K] gathered at z."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real
    has_rsample = False

    def __init__(self, emission: TorchDistribution, z: Tensor) -> None:
        self._emission, self._z = unchecked(emission), z
        batch = together(emission.batch_shape[:-1], z.shape)
        super().__init__(batch, validate_args=False)

    def expand(self, batch_shape: Size, _instance: Shown | None = None) -> Shown:
        new: Shown = self._get_checked_instance(Shown, _instance)  # type: ignore[no-untyped-call]
        new._emission, new._z = self._emission, self._z
        super(Shown, new).__init__(torch.Size(batch_shape), validate_args=False)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        picked: Tensor = Vindex(self._emission.log_prob(value.unsqueeze(-1)))[..., self._z]
        return picked

    def sample(self, sample_shape: Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        drawn = self._emission.expand([*self.batch_shape, self._emission.batch_shape[-1]]).sample(sample_shape)
        picked: Tensor = Vindex(drawn)[..., self._z]
        return picked


def _rows(chances: Tensor, dim: int, block: sparse.Block) -> Tensor:
    """Those of the block's prompts, if the prompts have their own."""
    if chances.ndim < -dim or chances.shape[dim] == 1:
        return chances
    return chances.index_select(dim, block.rows)


def _time_first(steps: Step, lead: int) -> Step:
    """Fields [N or 1, T] -> [T, 1, ..., N or 1] with `lead` ones for theta's sample dimensions."""
    return steps.each(lambda field: field.movedim(-1, 0).reshape(field.shape[-1], *[1] * lead, *field.shape[:-1]))
