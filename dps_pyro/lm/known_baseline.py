"""Advantages over a baseline that is known beforehand, such as what a tracker expects of each rollout.

`PromptSampler.baseline` gives the Bayesian leave-one-out baseline; any other of the same shape will do. No comparison
within the group is needed: a completion's advantage is its reward minus its own baseline. Groups of any size therefore
carry signal, even groups of one completion, and groups that are all right or all wrong.
"""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from torch import Tensor

from dps_pyro.lm.losses import informative_groups

__all__ = ["Scale", "tracked_advantages"]

Scale = Literal["none", "centred", "belief", "group", "batch"]
"""What is made of the differences of rewards and baselines; see `tracked_advantages`."""


def tracked_advantages(
    rewards: Tensor, expected: Tensor, scale: Scale = "none", *, there: Tensor | None = None, eps: float = 1e-4
) -> Tensor:
    """`(r - b) / (scale + eps)` of each completion.

    ======== =============================================================================================
    none     1. The advantages are unbiased, like those of RLOO and Dr. GRPO
    centred  1, and the mean of all differences of the step is subtracted: what the tracker expected too much or
             too little of all prompts together is no signal. If all rewards of the step are equal, the
             advantages are 0
    belief   sqrt(b (1 - b)), the standard deviation of a reward of 0 or 1 whose mean is the baseline:
             what GRPO's division by the group's standard deviation aims at, known before the reward
    group    the group's own standard deviation (n - 1 in the denominator) if its rewards differ, as in
             GRPO; otherwise the scale of "belief"
    batch    as centred, and divided by the standard deviation of all differences of the step
             (single-stream policy optimization, SPO, arXiv 2509.13232). The updates are then as large
             late in a run, when hardly anything is left to learn, as early
    ======== =============================================================================================

    Args:
        rewards: float [G, n], finite.
        expected: [G, n], the baselines, in 0..1 for the scales "belief" and "group".
        scale: see above.
        there: bool [G, n], which entries are completions, for groups that differ in size. The default is all of them.
        eps: added to the scale; unused by "none" and "centred".

    Returns:
        float [G, n], in the dtype of the rewards; exactly 0 for entries that are no completions.

    Raises:
        ValueError: shapes disagree, or the reward or baseline of a completion is not finite.
    """
    known = torch.ones_like(rewards, dtype=torch.bool) if there is None else there
    if rewards.ndim != 2 or expected.shape != rewards.shape or known.shape != rewards.shape:
        shapes = [list(x.shape) for x in (rewards, expected, known)]
        raise ValueError(f"expected rewards, baselines and there of one shape [groups, n], got {shapes}")
    baseline = expected.to(rewards.device, rewards.dtype)
    if not (rewards[known].isfinite().all() and baseline[known].isfinite().all()):
        raise ValueError("expected finite rewards and baselines of all completions, got NaN or infinity")
    earned, baseline = rewards.masked_fill(~known, 0.0), baseline.masked_fill(~known, 0.0)
    difference = earned - baseline
    match scale:
        case "none":
            return difference
        case "belief":
            return (difference / (_spread(baseline) + eps)).masked_fill(~known, 0.0)
        case "group":
            n = known.sum(1, keepdim=True)
            mean = earned.sum(1, keepdim=True) / n.clamp_min(1)
            squares = (earned - mean).masked_fill(~known, 0.0).square().sum(1, keepdim=True)
            own = (squares / (n - 1).clamp_min(1)).sqrt()
            differ = informative_groups(rewards, there=known)[:, None]
            return (difference / (torch.where(differ, own, _spread(baseline)) + eps)).masked_fill(~known, 0.0)
        case "centred" | "batch":
            values = difference[known]
            if len(values) < 2:
                return difference
            if bool((rewards[known] == rewards[known][0]).all()):
                return torch.zeros_like(difference)
            size = 1.0 if scale == "centred" else values.std() + eps
            return ((difference - values.mean()) / size).masked_fill(~known, 0.0)
    assert_never(scale)


def _spread(mean: Tensor) -> Tensor:
    return (mean * (1 - mean)).clamp_min(0).sqrt()
