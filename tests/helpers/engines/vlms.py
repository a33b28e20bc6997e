"""Vision-language checkpoints with random weights, small enough for a test: stock classes, their processors and chat
templates, made without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

CLASSES = ("idefics3", "smolvlm", "qwen2_5_vl")

_IDEFICS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
_IDEFICS += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
_QWEN = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"]

# The models' own templates, without videos and tools.
_IDEFICS_TEMPLATE = (
    "<bos>{% for message in messages %}{{ message['role'] | capitalize }}{{ ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _tokenizer(special: list[str]) -> PreTrainedTokenizerFast:
    """A character a token."""
    named = ["<pad>", "<bos>", "<eos>", "<unk>", *special]
    vocabulary = {token: place for place, token in enumerate([*named, *map(chr, range(32, 127)), "\n"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=special,
        padding_side="left",
    )


def _text(vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 2048, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2, **more,
    }  # fmt: skip


def save_checkpoint(kind: str, folder: Path, seed: int = 0, **text: Any) -> Path:
    """A checkpoint of one of `CLASSES` in `folder`; `text` are settings of its language model."""
    torch.manual_seed(seed)
    if kind == "qwen2_5_vl":
        tokenizer = _tokenizer(_QWEN)
        ids = tokenizer.get_vocab()
        config = Qwen2_5_VLConfig(
            text_config=_text(len(ids), rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3]}, **text),
            vision_config={
                "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32,
                "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1],
            },
            image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
            tie_word_embeddings=False,
        )  # fmt: skip
        Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
        Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=84 * 84).save_pretrained(folder)
        tokenizer.chat_template = _QWEN_TEMPLATE
        tokenizer.save_pretrained(folder)
        _note(folder / "preprocessor_config.json", processor_class="Qwen2_5_VLProcessor")
        return folder
    tokenizer = _tokenizer(_IDEFICS)
    ids = tokenizer.get_vocab()
    classes: Any = {
        "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessorPil),
        "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessorPil),
    }[kind]
    config = classes[0](
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 8,
        },
        text_config=_text(len(ids), model_type="llama", **text),
        scale_factor=2, image_token_id=ids["<image>"], pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    classes[1](config).save_pretrained(folder)
    # A picture of more than 32 pixels becomes up to 2 x 2 tiles and itself.
    images = classes[2](size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=_IDEFICS_TEMPLATE)
    processor.save_pretrained(folder)
    if kind == "smolvlm":
        _note(folder / "processor_config.json", processor_class="SmolVLMProcessor")
    return folder


def _note(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | entries), encoding="utf-8")


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Noise, the same for a seed."""
    noise = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(noise.numpy())
