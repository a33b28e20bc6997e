"""What reads a policy's prompts: a tokenizer, or for a vision-language model its processor."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase
from transformers import ProcessorMixin as Processor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils.hub import cached_file

__all__ = ["Reader", "load_reader", "sees"]

Reader = PreTrainedTokenizerBase | Processor
"""What turns prompts into tokens; a processor also turns images into what the model takes."""

_SAME_IMAGES = {"SmolVLMProcessor": "Idefics3Processor"}
"""Processors of images and videos -> those that treat images alike and know no videos."""


def sees(source: str) -> bool:
    """Whether a checkpoint, a folder or a hub id, is of a vision-language model."""
    return type(AutoConfig.from_pretrained(source)) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def load_reader(source: str) -> Reader:
    """The tokenizer or processor of a checkpoint.

    Processors of images and videos need torchvision for the videos. Without it, they are put together here from their
    image processor and their tokenizer, which is all that a prompt with images needs.

    Raises:
        OSError, ValueError: it has none.
    """
    if not sees(source):
        tokenizer: Reader = AutoTokenizer.from_pretrained(source)
        return tokenizer
    if importlib.util.find_spec("torchvision") is None and (name := _processor_class(source)) is not None:
        return _for_images(name, source)
    processor: Reader = AutoProcessor.from_pretrained(source)
    return processor


def _processor_class(source: str) -> str | None:
    """The class of a checkpoint's processor, as the files of transformers 4 and 5 name it."""
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        file = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        named = None if file is None else json.loads(Path(file).read_text(encoding="utf-8")).get("processor_class")
        if named is not None:
            return str(named)
    return None


def _for_images(name: str, source: str) -> Processor:
    """A processor of the class without its videos."""
    cls: Any = getattr(transformers, _SAME_IMAGES.get(name, name))
    if "video_processor" not in cls.get_attributes():
        return cls.from_pretrained(source)  # type: ignore[no-any-return]
    # Two parts in place of three. It keeps the class's name, under which it is saved.
    parts = classmethod(lambda _: ["image_processor", "tokenizer"])
    images_only: Any = type(cls.__name__, (cls,), {"get_attributes": parts})
    return images_only.from_pretrained(source)  # type: ignore[no-any-return]
