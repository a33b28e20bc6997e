"""A seed for every request to vLLM."""

from __future__ import annotations

import torch

__all__ = ["request_seeds"]


def request_seeds(seed: int, requests: int) -> list[int]:
    """A seed a request, far apart: vLLM gives completion j of a request the request's seed + j."""
    generator = torch.Generator().manual_seed(seed)
    return [int(value) for value in torch.randint(2**62, (requests,), generator=generator)]
