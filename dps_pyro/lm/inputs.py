"""The inputs of a language model's forward pass beside the tokens: positions, and the tensors of a prompt's images.

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
    """What a processor makes of a prompt."""

    ids: list[int]  # the tokens, with as many image tokens as the images take
    vision: dict[str, Tensor]  # the tensors of the images; empty without images


def encode(processor: Any, query: Query) -> Encoded:
    """Run a vision-language model's processor on a text with its images.

    Raises:
        ValueError: the text does not contain one of the processor's placeholders per image.
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
    """Join the vision of several rows into one batch, in their order. Rows without images add nothing.

    If images differ in size or number, they are padded with zeros, which the models' own masks tell from pixels.
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
    """Return the positions and images for a forward pass over whole sequences, as far as the model takes them.

    Args:
        ids: long [B, T], the tokens.
        mask: bool [B, T], which of them are tokens and not padding. Positions count unmasked tokens, so that padding on
            either side changes nothing.
        vision: the vision of each of the B rows; None if there are no images.

    Returns:
        `position_ids` (long [B, T], or [3, B, T] if the model places image tokens on a grid), and the tensors of the
        images, on the device of `ids`.
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
    """Long [B, T], 1 at image tokens and 0 elsewhere."""
    images = torch.tensor(_configured(model, _IMAGE_TOKENS), dtype=ids.dtype, device=ids.device)
    return torch.isin(ids, images).long()


def _grid_positions(model: nn.Module, ids: Tensor, mask: Tensor, kinds: Tensor, seen: Mapping[str, Tensor]) -> Tensor:
    """Positions by the model's own rule if it has one (M-RoPE in the Qwen family), and in a line otherwise."""
    inner = _unwrapped(model)
    owner = next((part for part in (inner, getattr(inner, "model", None)) if hasattr(part, "get_rope_index")), None)
    if owner is None:
        return position_ids(mask)
    offered = {"input_ids": ids, "mm_token_type_ids": kinds, "attention_mask": mask.long(), **seen}
    taken = inspect.signature(owner.get_rope_index).parameters
    positions: Tensor = owner.get_rope_index(**{name: value for name, value in offered.items() if name in taken})[0]
    # Padding has position 0 here, and 1 in older versions of transformers. It is masked in both.
    return positions


def position_ids(mask: Tensor) -> Tensor:
    """Number the unmasked tokens of each row 0, 1, ...; left padding has 0. Long [B, T] from a mask [B, T]."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def barred_tokens(model: nn.Module) -> list[int]:
    """The ids of the tokens that stand for an image in a prompt; empty for a model of text. No completion may contain
    them, because a model that read them again would look for images that do not exist."""
    return sorted(set(_configured(model, _BARRED)))


def _configured(model: nn.Module, names: Sequence[str]) -> list[int]:
    config = getattr(model, "config", None)
    found = (getattr(config, name, None) for name in names)
    return [int(token) for token in found if isinstance(token, int)]


def forward_parameters(model: nn.Module) -> frozenset[str]:
    """The names of the arguments of a model's forward. Data-parallel and PEFT wrappers are looked through."""
    return frozenset(inspect.signature(_unwrapped(model).forward).parameters)


def _unwrapped(model: nn.Module) -> Any:
    inner = getattr(model, "module", model)
    base = getattr(inner, "get_base_model", None)
    return base() if base is not None else inner


class Query(NamedTuple):
    """What a policy is asked: a text, to which the chat template has been applied if there is one, and its images.

    The text contains one of the model's own placeholders per image (such as ``<image>`` or ``<|image_pad|>``), in the
    order of the images. An engine expands each placeholder into as many tokens as the image takes.
    """

    text: str
    images: tuple[Image, ...] = ()
