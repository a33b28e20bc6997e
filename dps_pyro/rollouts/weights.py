"""A policy's weights under the names that transformers gives them, adapters merged: what engines and folders take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["base_model", "checkpoint_weights", "load_weights", "merged_weights", "save_weights"]

_SHARD = 4 * 2**30  # bytes of one file


def base_model(policy: nn.Module) -> Any:
    """The transformers model under PEFT's wrapper; the policy itself if there is none."""
    inner = getattr(policy, "get_base_model", None)
    return policy if inner is None else inner()


def merged_weights(policy: nn.Module) -> dict[str, Tensor]:
    """The state that the ordinary model has which computes what `policy` computes.

    For an ordinary model it is its `state_dict()`. The layers of a model with LoRA adapters (peft) hold a base weight W
    and low-rank factors; for it, the result has W + scale * B A under the base layer's own name, and no adapters. The
    policy is not changed: merging in place and undoing it would leave rounding errors in the base weights.

    Returns:
        Name -> tensor, detached, on the policy's device, in the base weights' dtype; shared with the policy where
        nothing was merged.
    """
    return dict(_merged(policy))


def checkpoint_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """`merged_weights` one at a time, under the names and in the layout of a checkpoint, tied weights once.

    In memory transformers renames, and for some architectures fuses, what a checkpoint has; an engine reads
    checkpoints. No more than one merged weight exists at a time, except for those architectures.
    """
    model = base_model(policy)
    weights = _untied(_merged(policy), model)
    # Empty for most architectures: nothing was renamed or fused when the model was loaded.
    if getattr(model, "_weight_conversions", None):
        from transformers.core_model_loading import revert_weight_conversion

        with torch.no_grad():
            weights = iter(revert_weight_conversion(model, dict(weights)).items())
    yield from weights


def save_weights(policy: nn.Module, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write `checkpoint_weights` into `folder` as safetensors files, floating-point numbers as `dtype` if given."""
    from safetensors.torch import save_file

    shard: dict[str, Tensor] = {}
    count = size = 0

    def write() -> None:
        nonlocal shard, count, size
        save_file(shard, folder / f"model-{count:05d}.safetensors")
        shard, count, size = {}, count + 1, 0

    for name, tensor in checkpoint_weights(policy):
        wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        shard[name] = tensor.to("cpu", wanted).contiguous()
        size += shard[name].nbytes
        if size >= _SHARD:
            write()
    if shard:
        write()


def load_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Read what `save_weights` wrote, one tensor at a time.

    Raises:
        FileNotFoundError: at once, there are no safetensors files.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"expected weights as safetensors files, got none in {folder}")
    return _tensors(files)


def _tensors(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                yield name, file.get_tensor(name)


def _merged(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    base = base_model(policy)
    state: dict[str, Tensor] = base.state_dict()
    if base is policy:
        yield from state.items()
        return
    from peft.tuners.lora import LoraLayer

    layers = {
        f"{name}.weight": layer
        for name, layer in base.named_modules()
        if isinstance(layer, LoraLayer) and not layer.disable_adapters
    }
    for name, value in state.items():
        if any(part.startswith("lora_") for part in name.split(".")):
            continue
        plain = name.replace(".base_layer.", ".")
        yield plain, _with_adapters(value, layers[plain]) if plain in layers else value


@torch.no_grad()
def _with_adapters(weight: Tensor, layer: Any) -> Tensor:
    """In float32: the sum is rounded once, to the base weight's dtype."""
    total = weight
    for adapter in layer.active_adapters:
        total = total.float() + layer.get_delta_weight(adapter).float()
    return total.to(weight.dtype)


def _untied(weights: Iterator[tuple[str, Tensor]], model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Without the further names of a tensor that the model itself holds under several."""
    own = {parameter.data_ptr() for parameter in model.parameters()}
    seen: set[int] = set()
    for name, tensor in weights:
        place = tensor.data_ptr()
        if place in own:
            if place in seen:
                continue
            seen.add(place)
        yield name, tensor
