"""Train the embedded geometry policy from nothing: a stock Idefics3 of half a million parameters.

    python -m scripts.make_geometry_policy                          # regenerates dps_pyro/policies/geometry
    python -m scripts.make_geometry_policy --steps 20 --out /tmp/p  # a quick try

It is warm-started by supervised learning on rendered problems, none of which shows the numbers of a test problem, some
with a wrong answer on purpose, and stopped early, so that reinforcement learning has something left to teach.
"""

# transformers and torch are partly untyped.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
import datetime
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from dps_pyro.tasks.geometry.bitmap import CELL, SIZE, draw
from dps_pyro.tasks.geometry.diagrams import KINDS, LEVELS, random_problem
from dps_pyro.tasks.geometry.task import Geometry, side_of
from scripts.make_policy import save

OUT = Path(__file__).resolve().parent.parent / "dps_pyro" / "policies" / "geometry"
SEED, STEPS, BATCH, PART, LEARNING_RATE, MAX_NEW_TOKENS = 0, 1000, 128, 64, 2e-3, 24
SLIPS = 0.3
"""The share of demonstrations with a wrong result."""
SCALE = 3
"""Patches a side that become one image token."""
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<fake_token_around_image>", "<global-img>", "<image>")
CHARACTERS = "0123456789+-*/=,x. Findthepermar"
IGNORE = -100


def make_processor() -> Idefics3Processor:
    """A character a token, and pictures as they are."""
    vocabulary = dict.fromkeys([*SPECIAL, "<end_of_utterance>", *CHARACTERS])
    ids = {token: place for place, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", ids["<bos>"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=[*SPECIAL[4:], "<end_of_utterance>"],
        padding_side="left",
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )
    side = {"longest_edge": SIZE}
    images = Idefics3ImageProcessorPil(size=side, max_image_size=side, do_image_splitting=False)
    return Idefics3Processor(images, fast, image_seq_len=(SIZE // CELL // SCALE) ** 2)


def make_model(processor: Idefics3Processor) -> Idefics3ForConditionalGeneration:
    """A fresh policy: two layers of width 64 that look, three of width 96 that write."""
    tokenizer = processor.tokenizer
    ends = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    ends["eos_token_id"] = tokenizer.eos_token_id
    config = Idefics3Config(
        vision_config={
            "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": SIZE, "patch_size": CELL,
        },
        text_config={
            "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 96, "intermediate_size": 256,
            "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 3,
            "max_position_embeddings": 128, "initializer_range": 0.06, **ends,
        },
        scale_factor=SCALE, image_token_id=processor.image_token_id, pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = Idefics3ForConditionalGeneration(config)
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": MAX_NEW_TOKENS}
    model.generation_config = GenerationConfig(**sampling, **ends)
    return model


Row = tuple[Any, list[int], list[int]]


def examples(processor: Idefics3Processor, seed: int) -> Iterator[Row]:
    """Pictures, and the ids of the prompt and of the answer, without end; none shows a test problem's numbers."""
    rng = random.Random(seed)
    tokenizer, blank = processor.tokenizer, Image.new("RGB", (SIZE, SIZE))
    vocabulary = tokenizer.get_vocab()
    asks: dict[str, list[int]] = {}
    kinds = list(KINDS)
    while True:
        problem = random_problem(rng, rng.choice(kinds), rng.choice(LEVELS))
        if side_of(problem) != "train":
            continue
        if problem.question not in asks:
            asks[problem.question] = processor(text=[f"<image>{problem.question}"], images=[[blank]])["input_ids"][0]
        shown, _, result = problem.working.rpartition("=")
        if rng.random() < SLIPS:
            result = str(abs(int(result) + rng.choice((-10, -1, 1, 10))))
        answer = [vocabulary[character] for character in f"{shown}={result}"]
        yield np.asarray(draw(problem.figure)), asks[problem.question], [*answer, tokenizer.eos_token_id]


def collate(rows: list[Row], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ids and labels, [rows, length], and pixels as the image processor makes them."""
    length = max(len(ask) + len(answer) for _, ask, answer in rows)
    filled = [(ask, answer, length - len(ask) - len(answer)) for _, ask, answer in rows]
    ids = torch.tensor([ask + answer + [pad] * rest for ask, answer, rest in filled])
    labels = torch.tensor([[IGNORE] * len(ask) + answer + [IGNORE] * rest for ask, answer, rest in filled])
    pixels = torch.from_numpy(np.stack([picture for picture, _, _ in rows])).permute(0, 3, 1, 2)[:, None]
    return ids, labels, pixels.float() / 127.5 - 1


def train(model: Any, rows: Iterator[Row], steps: int) -> Iterator[float]:
    """Train for `steps`, yielding each step's mean loss a token, in nats."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    for step in range(steps):
        cosine = 0.1 + 0.45 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 100) * cosine
        batch = sorted((next(rows) for _ in range(BATCH)), key=lambda row: len(row[1]) + len(row[2]))
        answered = sum(len(answer) for _, _, answer in batch)
        total = 0.0
        optimizer.zero_grad()
        for start in range(0, BATCH, PART):
            ids, labels, pixels = collate(batch[start : start + PART], model.config.pad_token_id)
            logits = model(input_ids=ids, pixel_values=pixels, use_cache=False).logits[:, :-1].flatten(0, 1)
            loss = cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum") / answered
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield total
    model.eval()


def measure(model: Any, processor: Any, samples: int) -> dict[str, Any]:
    """Accuracy at temperature 1 on the test prompts, by kind, and on all of them with their pictures blanked."""
    from dps_pyro.rollouts import Query, Sampling
    from dps_pyro.rollouts.transformers import TransformersEngine

    task = Geometry()
    prompts = task.prompts("test")
    engine = TransformersEngine(model, processor)
    white = (Image.new("RGB", (SIZE, SIZE), "white"),)
    results: dict[str, Any] = {}
    for name, blank in (("seen", False), ("blank", True)):
        asked = [Query(prompt.text, white if blank else prompt.images) for prompt in prompts]
        texts = engine.generate(asked, samples, Sampling(MAX_NEW_TOKENS), seed=0).texts
        owners = [prompt for prompt in prompts for _ in range(samples)]
        values = [reward.value for reward in task.rewards(owners, texts)]
        results[name] = sum(values) / len(values)
        solved = torch.tensor(values).view(len(prompts), samples).mean(1)
        results[f"{name} useful"] = float(((solved > 0) & (solved < 1)).double().mean())
        if not blank:
            rows = [[i for i, prompt in enumerate(prompts) if prompt.features["kind"] == kind] for kind in KINDS]
            results["kinds"] = {kind: float(solved[where].mean()) for kind, where in zip(KINDS, rows, strict=True)}
    return results


def card(model: Any, results: dict[str, Any], arguments: argparse.Namespace) -> str:
    """The README beside the checkpoint."""
    size = sum(parameter.numel() for parameter in model.parameters())
    table = "\n".join(f"| {kind} | {value:.3f} |" for kind, value in results["kinds"].items())
    return f"""\
# The embedded geometry policy

A stock `Idefics3ForConditionalGeneration` of {size:,} parameters (float32): a vision transformer of two layers of width
64 on {SIZE} x {SIZE} pixels, and a Llama of three layers of width 96. Load it with `AutoModelForImageTextToText` and
`AutoProcessor`; no network and no remote code.

- Language: a picture and `Find x.` are answered by `180-50-60=70`, a character a token.
- Data: rendered problems of `dps_pyro.tasks.geometry.diagrams`, all kinds and levels. None shows the numbers of a
  problem of the test side (`side_of`). {SLIPS:.0%} of the demonstrations had a wrong result on purpose.
- Training: supervised, {arguments.steps} steps of {BATCH} examples, AdamW at {LEARNING_RATE}, seed {arguments.seed}.
  Stopped early on purpose: reinforcement learning is to have something left to teach.
- Made on {datetime.datetime.now(datetime.UTC).date().isoformat()} with torch {torch.__version__} by
  `python -m scripts.make_geometry_policy --seed {arguments.seed} --steps {arguments.steps}`.

On the test prompts of the default `Geometry()`, {arguments.samples} samples per prompt at temperature 1: accuracy
{results["seen"]:.3f}, and {results["blank"]:.3f} with every picture blanked, so that it reads the picture. Some
samples, and not all, solved {results["seen useful"]:.1%} of the prompts.

| kind | accuracy |
|---|---|
{table}
"""


def main(argv: list[str] | None = None) -> None:
    """Train, measure and save the policy."""
    parser = argparse.ArgumentParser(description="Train the embedded geometry policy.")
    parser.add_argument("--seed", type=int, default=SEED, help="of the weights and the data")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of {BATCH} examples each")
    parser.add_argument("--out", type=Path, default=OUT, help="the checkpoint's folder")
    parser.add_argument("--samples", type=int, default=8, help="per prompt, when the result is measured")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    processor = make_processor()
    model = make_model(processor)
    for step, loss in enumerate(train(model, examples(processor, arguments.seed), arguments.steps), 1):
        if step % 50 == 0 or step == arguments.steps:
            print(f"step {step}: loss {loss:.3f}", flush=True)
            save(model, processor, arguments.out)  # what is there when the run is cut short
    results = measure(model, processor, arguments.samples)
    print(json.dumps(results, indent=2))
    (arguments.out / "README.md").write_text(card(model, results, arguments), encoding="utf-8")


if __name__ == "__main__":
    main()
