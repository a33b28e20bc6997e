"""A seed for every request to vLLM."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["request_seeds", "seed_for"]


def request_seeds(seed: int, requests: int) -> list[int]:
    """A seed a request, far apart: vLLM gives completion j of a request the request's seed + j."""
    generator = torch.Generator().manual_seed(seed)
    return [int(value) for value in torch.randint(2**62, (requests,), generator=generator)]


def seed_for(seed: int, *purpose: str | int) -> int:
    """A seed of its own for every purpose, such as ("rollout", step, part): what is drawn then depends on the step and
    not on what was drawn before it, so that a resumed run draws the same."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
