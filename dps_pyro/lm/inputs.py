"""What a language model's forward pass takes beside the tokens: positions, and what the images of a prompt became.

Rollouts and updates share it, so that both see the same model. A *row's vision* is what a processor made of the images
of one prompt, e.g. ``{"pixel_values": ..., "image_grid_thw": ...}``: each tensor's first dimension runs over the images
(Idefics3, SmolVLM, LLaVA) or over their patches (Qwen2.5-VL).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "Encoded",
    "Query",
    "barred_tokens",
    "encode",
    "forward_parameters",
    "model_inputs",
    "position_ids",
    "stack_vision",
]

_IMAGE_TOKENS = ("image_token_id", "image_token_index")
_BARRED = (
    *_IMAGE_TOKENS,
    *("video_token_id", "video_token_index", "vision_start_token_id", "vision_end_token_id"),
    *("boi_token_index", "eoi_token_index", "boi_token_id", "eoi_token_id"),
)


class Encoded(NamedTuple):
    """A prompt as a processor sees it."""

    ids: list[int]  # with as many image tokens as the images take
    vision: dict[str, Tensor]  # what the images became; empty without images


def encode(processor: Any, query: Query) -> Encoded:
    """Run a vision-language model's processor on a text with its images.

    Raises:
        ValueError: the text does not hold one of the processor's placeholders an image.
    """
    marks = query.text.count(processor.image_token)
    if marks != len(query.images):
        raise ValueError(
            f"expected one {processor.image_token!r} an image, got {marks} with {len(query.images)} images"
            f": {query.text[:80]!r}"
        )
    if not query.images:
        return Encoded(list(processor.tokenizer(query.text)["input_ids"]), {})
    images = [image.convert("RGB") for image in query.images]
    out = dict(processor(text=[query.text], images=[images], return_tensors="pt"))
    ids = out.pop("input_ids")
    # What belongs to a token rather than to an image is made again for the whole sequence (`model_inputs`).
    vision = {name: value for name, value in out.items() if isinstance(value, Tensor) and value.shape[:2] != ids.shape}
    return Encoded(ids[0].tolist(), vision)


def stack_vision(rows: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The vision of several rows as one batch, in their order; rows without images add nothing.

    Images of other sizes, and other numbers of images, are padded with zeros, which the models' own masks tell apart.
    """
    parts: dict[str, list[Tensor]] = {}
    for row in rows:
        for name, value in row.items():
            parts.setdefault(name, []).append(value)
    return {name: _pad_and_join(values) for name, values in parts.items()}


def _pad_and_join(values: Sequence[Tensor]) -> Tensor:
    widest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    padded = []
    for value in values:
        pad = [
            amount for size, most in zip(value.shape[:0:-1], widest[::-1], strict=True) for amount in (0, most - size)
        ]
        padded.append(nn.functional.pad(value, pad) if any(pad) else value)
    return torch.cat(padded)


def model_inputs(
    model: nn.Module, ids: Tensor, mask: Tensor, vision: Sequence[Mapping[str, Tensor]] | None = None
) -> dict[str, Tensor]:
    """Positions and images for a forward pass over whole sequences, as far as the model's forward takes them.

    Args:
        ids: long [B, T], the tokens.
        mask: bool [B, T], which of them are tokens and not padding. Positions count unmasked tokens, so that padding on
            either side changes nothing.
        vision: what the images of each of the B rows became; None if there are no images.

    Returns:
        `position_ids` (long [B, T], or [3, B, T] where the model places image tokens on a grid), and what the images
        became, on the device of `ids`.
    """
    known = forward_parameters(model)
    rows = [] if vision is None else list(vision)
    seen = {name: value.to(ids.device) for name, value in stack_vision(rows).items() if name in known}
    kinds = _token_kinds(model, ids) if seen else None
    inputs: dict[str, Tensor] = {}
    if "position_ids" in known:
        inputs["position_ids"] = position_ids(mask) if kinds is None else _grid_positions(model, ids, mask, kinds, seen)
    if kinds is not None:
        inputs |= {name: kinds for name in ("mm_token_type_ids", "token_type_ids") if name in known}
    return inputs | seen


def _token_kinds(model: nn.Module, ids: Tensor) -> Tensor:
    """1 at image tokens, 0 elsewhere: long [B, T]."""
    images = torch.tensor(_configured(model, _IMAGE_TOKENS), dtype=ids.dtype, device=ids.device)
    return torch.isin(ids, images).long()


def _grid_positions(model: nn.Module, ids: Tensor, mask: Tensor, kinds: Tensor, seen: Mapping[str, Tensor]) -> Tensor:
    """Positions by the model's own rule where it has one (M-RoPE in the Qwen family), else in a line."""
    inner = _unwrapped(model)
    owner = next((part for part in (inner, getattr(inner, "model", None)) if hasattr(part, "get_rope_index")), None)
    if owner is None:
        return position_ids(mask)
    offered = {"input_ids": ids, "mm_token_type_ids": kinds, "attention_mask": mask.long(), **seen}
    taken = inspect.signature(owner.get_rope_index).parameters
    positions: Tensor = owner.get_rope_index(**{name: value for name, value in offered.items() if name in taken})[0]
    # Padding is at 0 here, at 1 in older versions of transformers; it is masked either way.
    return positions


def position_ids(mask: Tensor) -> Tensor:
    """Positions 0, 1, ... of the unmasked tokens of each row, 0 on left padding; long [B, T] from a mask [B, T]."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def barred_tokens(model: nn.Module) -> list[int]:
    """The ids that stand for an image in a prompt, and that no completion may hold: a model that read them again would
    look for images that are not there. Empty for a model of text."""
    return sorted(set(_configured(model, _BARRED)))


def _configured(model: nn.Module, names: Sequence[str]) -> list[int]:
    config = getattr(model, "config", None)
    found = (getattr(config, name, None) for name in names)
    return [int(token) for token in found if isinstance(token, int)]


def forward_parameters(model: nn.Module) -> frozenset[str]:
    """Names of the arguments that a model's forward takes, seen through data-parallel and PEFT wrappers."""
    return frozenset(inspect.signature(_unwrapped(model).forward).parameters)


def _unwrapped(model: nn.Module) -> Any:
    inner = getattr(model, "module", model)
    base = getattr(inner, "get_base_model", None)
    return base() if base is not None else inner


class Query(NamedTuple):
    """What a policy is asked: a text, its chat template already applied where there is one, and the images it shows.

    The text holds one of the model's own placeholders an image (``<image>``, say, or ``<|image_pad|>``), in the images'
    order; an engine expands each into as many tokens as the image takes.
    """

    text: str
    images: tuple[Image, ...] = ()
