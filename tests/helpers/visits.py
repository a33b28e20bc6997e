"""Random observations for filters that must agree, whatever comes in whatever order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dps_pyro.tracking.predictor import Filter


def visit(
    trackers: Sequence[Filter],
    rng: np.random.Generator,
    num_prompts: int,
    late_share: float = 0.25,
    tolerance: float = 1e-4,
) -> None:
    """Let every tracker observe the same random groups of up to five prompts, and check that they score them alike.

    The groups belong to the coming step, to a step up to 19 later (a share of 0.15 of the calls), or to a step that has
    passed (a share of `late_share`). The last eight of the `num_prompts` prompts are never rolled out.
    """
    rows = torch.from_numpy(rng.permutation(num_prompts - 8)[: rng.integers(0, 6)])
    trials = torch.from_numpy(rng.integers(0, 9, len(rows)))
    solved = torch.from_numpy(rng.integers(0, trials.numpy() + 1)).double()
    now, dice = trackers[0].step, rng.random()
    oldest = 0 if dice > 0.98 else max(0, now - 100)  # most late groups are of the last steps
    step = (
        None
        if dice < 0.85 - late_share
        else now + int(rng.integers(0, 20))
        if dice < 1 - late_share
        else int(rng.integers(oldest, now + 1))
    )
    late = step is not None and step < now
    progress = None if late or rng.random() < 0.5 else float(rng.random())
    trained = torch.from_numpy(rng.random(len(rows)) < 0.5)
    scores = [one.observe(rows, solved, trials, step, trained=trained, progress=progress) for one in trackers]
    for score in scores[1:]:
        torch.testing.assert_close(score.double(), scores[0].double(), atol=tolerance, rtol=tolerance)
