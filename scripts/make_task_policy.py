"""Train the embedded policy of mathematics or of the blocks world from nothing: a stock Llama of a million parameters.

    python -m scripts.make_task_policy --task math                            # regenerates dps_pyro/policies/math
    python -m scripts.make_task_policy --task blocks --steps 20 --out /tmp/p  # a quick try

As for Countdown (`make_policy`), the warm start is supervised, on problems of which none is of the default inventory,
some demonstrations are wrong on purpose, and it is stopped early: something is to be left for reinforcement learning.
"""

# transformers and torch are partly untyped.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
import datetime
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dps_pyro.tasks import BlocksWorld, Math, PromptSet, Task
from dps_pyro.tasks.mathematics.arithmetic import random_problem
from dps_pyro.tasks.planning.blocks import TABLE, plan
from scripts.make_policy import BATCH, LEARNING_RATE, SPECIAL, Row, make_model, save, solved, summarise, train, wrapped

POLICIES = Path(__file__).resolve().parent.parent / "dps_pyro" / "policies"


class Example(NamedTuple):
    """A demonstration: what is asked, what is shown, and the id of the problem."""

    ask: str
    show: str
    id: str


def math_example(rng: random.Random, _: Any) -> Example:
    """A problem of a random level with its answer, or with one that is off by one or by ten: a carry forgotten."""
    problem = random_problem(rng, rng.choice((1, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5)))
    answer = problem.answer
    if rng.random() < SPECS["math"].slips:
        over, slash, under = answer.partition("/")
        answer = f"{int(over) + rng.choice((-10, -1, 1, 10))}{slash}{under}"
    return Example(f"{problem.text}:", answer, f"math:{problem.text}")


def blocks_example(rng: random.Random, task: Any) -> Example:
    """A problem with a shortest plan, or with one of its moves drawn anew."""
    prompt = task.draw(rng)
    start, goal = prompt.answer
    steps = plan(start, goal, rng)
    if rng.random() < SPECS["blocks"].slips:
        letters = sorted("".join(start))
        place = rng.randrange(len(steps))
        steps[place] = (rng.choice(letters), rng.choice([*letters, TABLE]))
    return Example(prompt.text, ";".join(block + onto for block, onto in steps), prompt.id)


class Spec(NamedTuple):
    """What differs between the policies."""

    title: str
    make: Callable[[], Task]
    symbols: str
    example: Callable[[random.Random, Any], Example]
    slips: float
    steps: int
    max_new_tokens: int
    language: str
    feature: str


SPECS: Mapping[str, Spec] = {
    "math": Spec(
        "mathematics", Math, "0123456789+-*/=x:", math_example, 0.4, 2000, 8,
        "`3x+5=20:` is answered by `5`, `17+25:` by `42`, `4x+3=7x+1:` by `2/3`", "level",
    ),
    "blocks": Spec(
        "blocks world", BlocksWorld, "abcdef_/>:;", blocks_example, 0.4, 500, 36,
        "`ab/c > cb/a :` (stacks from the bottom up: b on a, c; then b on c, a) is answered by `bc`: b onto c; moves"
        " are separated by `;`, and `_` is the table", "moves",
    ),
}  # fmt: skip


def make_tokenizer(symbols: str) -> PreTrainedTokenizerFast:
    """A token for each character, white space aside; decoding joins them without spaces."""
    vocabulary = [*SPECIAL, *symbols]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\s]"), behavior="removed", invert=True)
    tokenizer.decoder = decoders.Fuse()
    return wrapped(tokenizer)


def examples(tokenizer: PreTrainedTokenizerFast, spec: Spec, task: Task, seed: int) -> Iterator[tuple[list[int], int]]:
    """Demonstrations without end, as token ids and the length of the prompt, none of a problem of `task`'s own."""
    rng = random.Random(seed)
    vocabulary = tokenizer.get_vocab()
    held_out = {*task.prompts("train").ids, *task.prompts("test").ids}
    while True:
        example = spec.example(rng, task)
        if example.id not in held_out:
            ask = [vocabulary["<bos>"], *(vocabulary[token] for token in example.ask if token != " ")]
            yield [*ask, *(vocabulary[token] for token in example.show), vocabulary["<eos>"]], len(ask)


def measure(model: Any, tokenizer: PreTrainedTokenizerFast, task: Any, feature: str, samples: int) -> dict[str, Row]:
    """The policy over the default inventory: both splits, all of it, and each value of a feature."""
    splits = {split: task.prompts(split) for split in ("train", "test")}
    everything = PromptSet([prompt for prompts in splits.values() for prompt in prompts])
    counts = solved(model, tokenizer, task, everything, samples)
    values = torch.tensor([int(prompt.features[feature]) for prompt in everything])
    rows = {"all": summarise(counts, samples)}
    rows["train"] = summarise(counts[: len(splits["train"])], samples)
    rows["test"] = summarise(counts[len(splits["train"]) :], samples)
    for value in values.unique().tolist():
        rows[f"{feature} {value}"] = summarise(counts[values == value], samples)
    return rows


def model_card(model: Any, spec: Spec, rows: Mapping[str, Row], arguments: argparse.Namespace) -> str:
    """The README beside the checkpoint."""
    size = sum(parameter.numel() for parameter in model.parameters())
    table = "\n".join(
        f"| {name} | {row.prompts} | {row.accuracy:.3f} | {row.easy:.3f} | {row.useful:.3f} | {row.hopeless:.3f} |"
        for name, row in rows.items()
    )
    name = spec.make.__name__
    return f"""\
# The embedded policy of {spec.title}

A stock `LlamaForCausalLM` of {size:,} parameters (4 layers, width 128, 4 heads, float32), so that a whole
reinforcement-learning run takes minutes on a laptop's CPU. Load it with `AutoModelForCausalLM` and `AutoTokenizer`; no
network and no remote code.

- Language: {spec.language}. A token a character;
  `<bos>` is put in front of a prompt, `<eos>` ends an answer. {spec.max_new_tokens} new tokens are enough.
- Data: random solved problems of the kinds of `{name}()`, none of them of its default inventory. {spec.slips:.0%} of
  the demonstrations were spoilt on purpose.
- Training: supervised, {arguments.steps} steps of {BATCH} examples, AdamW at {LEARNING_RATE}, seed {arguments.seed}. \
Stopped early on purpose:
  reinforcement learning is to have something left to teach.
- Made on {datetime.datetime.now(datetime.UTC).date().isoformat()} with torch {torch.__version__} by
  `python -m scripts.make_task_policy --task {arguments.task} --seed {arguments.seed} --steps {arguments.steps}`.

Over the default `{name}()` inventory, {arguments.samples} samples per prompt at temperature 1. *Easy* prompts were
solved by all samples, *hopeless* ones by none; only the *useful* rest gives a group-relative advantage.

| prompts | number | accuracy | easy | useful | hopeless |
|---|---|---|---|---|---|
{table}
"""


def main(argv: list[str] | None = None) -> None:
    """Train, measure and save a policy."""
    parser = argparse.ArgumentParser(description="Train an embedded policy.")
    parser.add_argument("--task", choices=tuple(SPECS), required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the data and the measurement")
    parser.add_argument("--steps", type=int, help=f"of {BATCH} examples each; the task's own if left out")
    parser.add_argument("--out", type=Path, help="the checkpoint's folder; the package's own if left out")
    parser.add_argument("--samples", type=int, default=8, help="per prompt, when the result is measured; 0: it is not")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    arguments = parser.parse_args(argv)
    spec = SPECS[arguments.task]
    arguments.steps = spec.steps if arguments.steps is None else arguments.steps
    out = POLICIES / arguments.task if arguments.out is None else arguments.out

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    task = spec.make()
    tokenizer = make_tokenizer(spec.symbols)
    model = make_model(tokenizer)
    model.generation_config.max_new_tokens = spec.max_new_tokens
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task("training", total=arguments.steps)
        for loss in train(model, examples(tokenizer, spec, task, arguments.seed), arguments.steps):
            progress.update(bar, advance=1, description=f"loss {loss:.3f}")

    rows = measure(model, tokenizer, task, spec.feature, arguments.samples) if arguments.samples else {}
    for name, row in rows.items():
        print(f"{name:>10}: accuracy {row.accuracy:.3f}, easy {row.easy:.3f}, useful {row.useful:.3f}")
    save(model, tokenizer, out)
    (out / "README.md").write_text(model_card(model, spec, rows, arguments), encoding="utf-8")
    print(f"saved to {out}")


if __name__ == "__main__":
    main()
