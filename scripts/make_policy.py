"""Train the embedded Countdown policy from nothing: a stock Llama of about a million parameters.

    python scripts/make_policy.py                          # regenerates dps_pyro/policies/countdown
    python scripts/make_policy.py --steps 20 --out /tmp/p  # a quick try

The policy is warm-started by supervised learning on random solved problems, none of them of the default inventory, some
with a wrong answer on purpose, and stopped early: what is wanted is a policy that solves some problems always, some
never, and a good share now and then, and so has something left for reinforcement learning to teach.
"""

# transformers and torch are partly untyped.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
import datetime
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dps_pyro.tasks import Countdown, PromptSet
from dps_pyro.tasks.planning.countdown import random_problem

OUT = Path(__file__).resolve().parent.parent / "dps_pyro" / "policies" / "countdown"
SEED = 0
STEPS = 700
BATCH = 256
PART = 64
LEARNING_RATE = 3e-3

MIX: Mapping[int, int] = {2: 5, 3: 6, 4: 4, 5: 1, 6: 1}
"""The training mix, count of numbers -> weight."""

SLIPS = 0.4
"""The share of demonstrations with three numbers and more that are wrong. The policy learns both to solve such problems
and to slip: its sampled answers are worse than its best guesses, which is what reinforcement learning then mends."""

MAX_NEW_TOKENS = 24
"""Six numbers, five operators, four pairs of parentheses and EOS are 20."""

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
SYMBOLS = ("+", "-", "*", "/", "(", ")", "=", ":")
LARGEST = 115
"""The largest number with a token; numbers and symbols make a vocabulary of 128."""

IGNORE = -100


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each whole number up to `LARGEST` and each symbol.

    With no decoder set, decoding joins the tokens with single spaces, so that neighbouring numbers stay apart.
    """
    vocabulary = [*SPECIAL, *SYMBOLS, *map(str, range(LARGEST + 1))]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[0-9]+|[^0-9\s]"), behavior="removed", invert=True)
    return wrapped(tokenizer)


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer of `SPECIAL` and words as transformers has it, which begins prompts with `<bos>`."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, positions: int = 64) -> LlamaForCausalLM:
    """A fresh policy: four layers of width 128 with four heads, for prompts and completions of `positions` tokens."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=positions,
        initializer_range=0.06,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype=torch.float32,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=MAX_NEW_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return model


def examples(tokenizer: PreTrainedTokenizerFast, task: Countdown, seed: int) -> Iterator[tuple[list[int], int]]:
    """Solved problems without end, as token ids and the length of the prompt, none of them of `task`'s own.

    Numbers come in random order, and a solution is a random tree with random sides, so that a problem seen twice has
    differing solutions: at temperature 1 the policy learns to vary.
    """
    rng = random.Random(seed)
    vocabulary = tokenizer.get_vocab()
    bos, eos = vocabulary["<bos>"], vocabulary["<eos>"]
    held_out = {*task.prompts("train").ids, *task.prompts("test").ids}
    counts = [count for count, weight in MIX.items() for _ in range(weight)]
    while True:
        problem = random_problem(rng, rng.choice(counts), task.numbers, task.targets)
        prompt = task.prompt(problem.numbers, problem.target)
        if prompt.id not in held_out:
            shown = problem.solution.split()
            if len(problem.numbers) > 2 and rng.random() < SLIPS:
                shown = slip(rng, shown)
            ask = [vocabulary[token] for token in prompt.text.split()]
            answer = [vocabulary[token] for token in shown]
            yield [bos, *ask, *answer, eos], len(ask) + 1


def slip(rng: random.Random, expression: list[str]) -> list[str]:
    """An expression of the same shape with its numbers shuffled and its operators drawn anew: usually wrong."""
    numbers = [token for token in expression if token.isdecimal()]
    rng.shuffle(numbers)
    slipped = []
    for token in expression:
        if token.isdecimal():
            slipped.append(numbers.pop())
        else:
            slipped.append(rng.choice("+-*/") if token in "+-*/" else token)
    return slipped


def collate(batch: list[tuple[list[int], int]], pad: int) -> tuple[Tensor, Tensor]:
    """Right-padded token ids and labels, both [batch, length]; only the answers have labels."""
    length = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([row + [pad] * (length - len(row)) for row, _ in batch])
    labels = torch.tensor(
        [[IGNORE] * asked + row[asked:] + [IGNORE] * (length - len(row)) for row, asked in batch],
    )
    return ids, labels


def train(model: Any, rows: Iterator[tuple[list[int], int]], steps: int) -> Iterator[float]:
    """Train for `steps`, yielding each step's mean loss a token, in nats.

    The rate warms up over 50 steps and then follows a cosine down to a tenth.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.02, total_iters=50)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps - 50, 1), eta_min=LEARNING_RATE / 10)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], milestones=[50])
    model.train()
    for _ in range(steps):
        # Sorted by length and in parts, the batch has half the padding and takes half the time.
        batch = sorted((next(rows) for _ in range(BATCH)), key=lambda row: len(row[0]))
        answered = sum(len(ids) - asked for ids, asked in batch)
        total = 0.0
        optimizer.zero_grad()
        for start in range(0, BATCH, PART):
            # Padding is on the right, where a causal model's answers cannot see it: no mask is needed.
            ids, labels = collate(batch[start : start + PART], model.config.pad_token_id)
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
            loss = cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum") / answered
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield total


@torch.no_grad()
def solved(model: Any, tokenizer: PreTrainedTokenizerFast, task: Countdown, prompts: PromptSet, samples: int) -> Tensor:
    """How many of `samples` completions at temperature 1 solve each prompt: long [len(prompts)]."""
    model.eval()
    counts = []
    for start in range(0, len(prompts), 128):
        chunk = prompts[start : start + 128]
        inputs = tokenizer([prompt.text for prompt in chunk], return_tensors="pt", padding=True)
        ids = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], num_return_sequences=samples
        )
        texts = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        rewards = [task.reward(chunk[row // samples], text).value for row, text in enumerate(texts)]
        counts.append(torch.tensor(rewards).view(len(chunk), samples).sum(1).long())
    return torch.cat(counts)


class Row(NamedTuple):
    """What the policy makes of some prompts; all but the first are shares from 0 to 1."""

    prompts: int
    accuracy: float
    easy: float
    useful: float
    hopeless: float


def summarise(counts: Tensor, samples: int) -> Row:
    """Easy prompts are always solved, hopeless ones never, and useful ones neither."""
    easy, hopeless = (counts == samples).double().mean().item(), (counts == 0).double().mean().item()
    return Row(len(counts), counts.double().mean().item() / samples, easy, 1 - easy - hopeless, hopeless)


def measure(model: Any, tokenizer: PreTrainedTokenizerFast, task: Countdown, samples: int) -> dict[str, Row]:
    """The policy over the default inventory: both splits, all of it, and each count of numbers."""
    splits = {split: task.prompts(split) for split in ("train", "test")}
    everything = PromptSet([prompt for prompts in splits.values() for prompt in prompts])
    counts = solved(model, tokenizer, task, everything, samples)
    operands = torch.tensor([int(prompt.features["operands"]) for prompt in everything])
    rows = {"all": summarise(counts, samples)}
    rows["train"] = summarise(counts[: len(splits["train"])], samples)
    rows["test"] = summarise(counts[len(splits["train"]) :], samples)
    for count in sorted(task.operands):
        rows[f"{count} numbers"] = summarise(counts[operands == count], samples)
    return rows


def model_card(model: LlamaForCausalLM, task: Countdown, rows: Mapping[str, Row], arguments: argparse.Namespace) -> str:
    """The README beside the checkpoint."""
    size = sum(parameter.numel() for parameter in model.parameters())
    mix = ", ".join(f"{count}: {weight}" for count, weight in MIX.items())
    table = "\n".join(
        f"| {name} | {row.prompts} | {row.accuracy:.3f} | {row.easy:.3f} | {row.useful:.3f} | {row.hopeless:.3f} |"
        for name, row in rows.items()
    )
    return f"""\
# The embedded Countdown policy

A stock `LlamaForCausalLM` of {size:,} parameters (4 layers, width 128, 4 heads, float32) that plays Countdown on a
laptop's CPU, so that a whole reinforcement-learning run takes minutes. Load it with `AutoModelForCausalLM` and
`AutoTokenizer`; no network and no remote code.

- Language: `3 7 25 = 46 :` is answered by `25 + 3 * 7`. A token for each whole number from 0 to {LARGEST} and each
  symbol; `<bos>` is put in front of a prompt, `<eos>` ends an answer. {MAX_NEW_TOKENS} new tokens are enough.
- Data: random solved problems, numbers {task.numbers[0]} to {task.numbers[1]}, targets {task.targets[0]} to \
{task.targets[1]}, counts of numbers in the ratio {{{mix}}}.
  No problem of the default `Countdown()` inventory was among them. {SLIPS:.0%} of the demonstrations with three numbers
  and more were wrong on purpose.
- Training: supervised, {arguments.steps} steps of {BATCH} examples, AdamW at {LEARNING_RATE}, seed {arguments.seed}. \
Stopped early on purpose:
  reinforcement learning is to have something left to teach.
- Made on {datetime.datetime.now(datetime.UTC).date().isoformat()} with torch {torch.__version__} by
  `python scripts/make_policy.py --seed {arguments.seed} --steps {arguments.steps}`.

Over the default `Countdown()` inventory, {arguments.samples} samples per prompt at temperature 1. *Easy* prompts were
solved by all samples, *hopeless* ones by none; only the *useful* rest gives a group-relative advantage.

| prompts | number | accuracy | easy | useful | hopeless |
|---|---|---|---|---|---|
{table}
"""


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the checkpoint such that transformers 4 and 5, and what builds on either, can load it."""
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    # Version 5 writes its new name of the class, which version 4 does not know; it reads the old one as well.
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for file in out.iterdir():
        file.chmod(0o644)  # safetensors leaves its file to its owner alone


def main(argv: list[str] | None = None) -> None:
    """Train, measure and save the policy."""
    parser = argparse.ArgumentParser(description="Train the embedded Countdown policy.")
    parser.add_argument("--seed", type=int, default=SEED, help="of the weights, the data and the measurement")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of {BATCH} examples each")
    parser.add_argument("--out", type=Path, default=OUT, help="the checkpoint's folder")
    parser.add_argument("--samples", type=int, default=8, help="per prompt, when the result is measured")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    arguments = parser.parse_args(argv)

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    task = Countdown()
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task("training", total=arguments.steps)
        for loss in train(model, examples(tokenizer, task, arguments.seed), arguments.steps):
            progress.update(bar, advance=1, description=f"loss {loss:.3f}")

    rows = measure(model, tokenizer, task, arguments.samples)
    for name, row in rows.items():
        print(f"{name:>10}: accuracy {row.accuracy:.3f}, easy {row.easy:.3f}, useful {row.useful:.3f}")
    save(model, tokenizer, arguments.out)
    (arguments.out / "README.md").write_text(model_card(model, task, rows, arguments), encoding="utf-8")
    print(f"saved to {arguments.out}")


if __name__ == "__main__":
    main()
