"""A policy's weights under the names that transformers gives them, adapters merged: what engines and folders take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["base_model", "merged_weights"]


def base_model(policy: nn.Module) -> Any:
    """The transformers model under PEFT's wrapper; the policy itself where there is none."""
    inner = getattr(policy, "get_base_model", None)
    return policy if inner is None else inner()


@torch.no_grad()
def merged_weights(policy: nn.Module) -> dict[str, Tensor]:
    """The state that the ordinary model has which computes what `policy` computes.

    Of an ordinary model it is its `state_dict()`. Of one with LoRA adapters (peft), whose layers hold a base weight W
    and low-rank factors, it has W + scale * B A under the base layer's own name, and no adapters. The policy is left
    as it is: merging in place and undoing it would leave rounding errors in the base weights.

    Returns:
        Name -> tensor, detached, on the policy's device, in the base weights' dtype; shared with the policy where
        nothing was merged.
    """
    base = base_model(policy)
    state: dict[str, Tensor] = base.state_dict()
    if base is policy:
        return state
    from peft.tuners.lora import LoraLayer

    merged = {
        name.replace(".base_layer.", "."): value
        for name, value in state.items()
        if not any(part.startswith("lora_") for part in name.split("."))
    }
    for name, layer in base.named_modules():
        if isinstance(layer, LoraLayer) and not layer.disable_adapters:
            weight = merged[f"{name}.weight"]
            for adapter in layer.active_adapters:
                # In float32: the sum is rounded once, to the base weight's dtype.
                weight = weight.float() + layer.get_delta_weight(adapter).float()
            merged[f"{name}.weight"] = weight.to(merged[f"{name}.weight"].dtype)
    return merged
