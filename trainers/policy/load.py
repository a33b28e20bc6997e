"""The policy: an embedded one, or any causal or vision-language model of transformers; device, precision, prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from dps_pyro.policies.embedded import EMBEDDED
from dps_pyro.trainers.config.settings import TrainConfig
from dps_pyro.trainers.policy.processors import Reader, load_reader, sees

__all__ = ["EMBEDDED", "autocast", "device_of", "load_policy", "load_reference", "quiet", "recomputing"]


def load_policy(config: TrainConfig, saved: Path | None = None) -> tuple[PreTrainedModel, Reader]:
    """The policy on its device, and its tokenizer or processor; from `saved`, a checkpoint's folder, where given.

    Raises:
        ValueError: there is no such device, the model is neither an embedded policy nor something that
            transformers can load, or it has no such attention, adapters or gradient checkpointing.
    """
    device = device_of(config)
    initial = str(EMBEDDED.get(config.task.policy) or config.task.policy)
    source = str(saved) if saved is not None and config.update.lora_rank == 0 else initial
    attention = {} if config.machine.attention == "auto" else {"attn_implementation": config.machine.attention}
    try:
        with quiet():
            dtype = getattr(torch, config.machine.weights)
            kind = AutoModelForImageTextToText if sees(source) else AutoModelForCausalLM
            policy: PreTrainedModel = kind.from_pretrained(source, dtype=dtype, **attention)
            reader = load_reader(source)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        if attention and (isinstance(error, ImportError) or "attention" in reason.lower()):
            raise ValueError(
                f"attention: expected one that works for {source!r} here, got {config.machine.attention}: {reason}"
            ) from error
        known = ", ".join(EMBEDDED)
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"model: expected {known}, or the folder or hub id of a causal or vision-language model, got {source!r}:"
            f" {reason}"
        ) from error
    policy.to(device)  # type: ignore[arg-type]  # transformers' wrapper hides `self`
    if config.update.lora_rank > 0:
        from dps_pyro.trainers.policy.lora import adapted

        policy = adapted(policy, config, saved)
    if config.machine.gradient_checkpointing:
        if not any(isinstance(layer, GradientCheckpointingLayer) for layer in policy.modules()):
            raise ValueError(f"gradient_checkpointing: expected a model that has it, got {type(policy).__name__}")
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    return policy, reader


def load_reference(
    config: TrainConfig, policy: PreTrainedModel
) -> Callable[[], AbstractContextManager[nn.Module]] | None:
    """The initial policy, for the KL to it, as a context to compute in: a frozen copy, or with LoRA the policy itself
    without its adapters. None where the KL has no weight."""
    if config.update.kl == 0:
        return None
    if config.update.lora_rank > 0:
        return lambda: _without_adapters(policy)
    frozen = load_policy(config)[0].requires_grad_(False)
    return lambda: nullcontext(frozen)


@contextmanager
def _without_adapters(policy: Any) -> Iterator[nn.Module]:
    with policy.disable_adapter():
        yield policy


@contextmanager
def recomputing(policy: nn.Module) -> Iterator[None]:
    """Turn gradient checkpointing on inside, if it is enabled.

    transformers' layers do it in training mode alone. The policy stays in evaluation mode, without dropout, so only
    the layers' own flags are set, not those of the modules in them.
    """
    layers = [layer for layer in policy.modules() if isinstance(layer, GradientCheckpointingLayer)]
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.training = layer.gradient_checkpointing or layer.training
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode


def device_of(config: TrainConfig) -> torch.device:
    """The configured device; "auto" is the GPU if there is one.

    Raises:
        ValueError: it does not exist here.
    """
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(automatic if config.machine.device == "auto" else config.machine.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device: expected auto, cpu or a GPU such as cuda, got {config.machine.device!r}: {reason}"
        ) from error
    return device


def autocast(config: TrainConfig) -> AbstractContextManager[Any]:
    """The precision of rollouts and updates alike, so that the two agree on a token's probability: bfloat16 where it is
    wanted, or "auto" and a GPU's own."""
    device = device_of(config)
    own = device.type == "cuda" and torch.cuda.is_bf16_supported()
    wanted = config.machine.precision == "bfloat16" or (config.machine.precision == "auto" and own)
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else nullcontext()


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers', which would tear the live view; those of downloads stay."""
    shown, downloads = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.disable_progress_bar()
    if downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
        if not downloads:
            disable_progress_bars()
