"""The policy: the embedded one or any transformers causal LM, its device, precision and prompt format."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import dps_pyro
from dps_pyro.trainers.config import TrainConfig

__all__ = ["EMBEDDED", "autocast", "load_policy", "render"]

EMBEDDED = {"countdown": Path(dps_pyro.__file__).parent / "policies" / "countdown"}
"""The policies that ship with the package."""


def load_policy(config: TrainConfig, saved: Path | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The policy in float32 on its device, and its tokenizer; from `saved`, a checkpoint's folder, where given.

    Raises:
        ValueError: `config.model` is neither an embedded policy nor something transformers can load.
    """
    source = str(saved or EMBEDDED.get(config.model, config.model))
    try:
        policy = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        known = ", ".join(EMBEDDED)
        raise ValueError(
            f"model: expected {known}, or a causal LM's folder or hub id, got {source!r}: {error}"
        ) from error
    return policy.to(device_of(config)), tokenizer


def device_of(config: TrainConfig) -> torch.device:
    """The configured device; "auto" is the GPU where there is one."""
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(automatic if config.device == "auto" else config.device)


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    """The forward pass's precision: bfloat16 where it is wanted, or "auto" and a GPU's own."""
    own = device.type == "cuda" and torch.cuda.is_bf16_supported()
    wanted = config.precision == "bfloat16" or (config.precision == "auto" and own)
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else nullcontext()


def render(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """What the policy reads: the prompt in the tokenizer's chat template, or as it is where there is none."""
    if tokenizer.chat_template is None:
        return text
    message = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
