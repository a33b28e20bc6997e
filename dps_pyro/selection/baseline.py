r"""The Bayesian leave-one-out baseline: what a rollout was expected to earn, given everything else that is known.

    advantage_j = r_j - E[p | history, the group's other rollouts]

With rewards of 0 and 1, s of the m others right, and P the chance of a given sequence under the belief (`Rates`):

    b(s, m) = P(s + 1 of m + 1) / P(s of m)

The baseline does not depend on r_j, so that the policy gradient stays unbiased; and it is the best such guess under the
model. Groups may have any size, even one, and a group that is all right or all wrong carries signal as far as that was
a surprise. A flat prior gives (s + 1) / (m + 2), RLOO's mean of the others (arXiv 2402.14740) drawn towards one half;
a group of one gives a tracked value, as SPO's (arXiv 2509.13232).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dps_pyro.tracking.predictor import Filter

__all__ = ["leave_one_out"]


def leave_one_out(tracker: Filter, rows: Tensor, rewards: Tensor) -> Tensor:
    """float64 [G, n], each rollout's baseline under a tracker that has not seen the groups yet.

    Args:
        tracker: what is believed before the step.
        rows: long [G], the groups' prompts.
        rewards: float [G, n], within 0..1; NaN where a group has fewer than n rollouts, and in the result, too.

    Raises:
        ValueError: the shapes disagree.
        NotImplementedError: the tracker does not say what is expected of a rollout.
    """
    if rewards.ndim != 2 or len(rewards) != len(rows):
        raise ValueError(f"rewards: expected shape [{len(rows)}, n], one row a prompt, got {list(rewards.shape)}")
    known = rewards.detach().to("cpu", torch.float64)
    there = ~known.isnan()
    earned = known.nan_to_num(0.0)
    group, place = there.nonzero(as_tuple=True)
    others = (earned.sum(1)[group] - earned[group, place]).clamp_min(0)
    company = there.sum(1)[group] - 1
    # A sum of graded rewards may round to just above the number of its terms.
    expected = tracker.expected(rows[group], torch.minimum(others, company.double()), company)
    return torch.full_like(known, float("nan")).masked_scatter(there, expected.double())
