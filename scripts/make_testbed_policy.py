"""Train the policy that a testbed starts from: easy problems solved, hard ones within reach.

    python -m scripts.make_testbed_policy --testbed planning --out runs/policies/planning
    python -m scripts.make_testbed_policy --testbed mathematics --out runs/policies/mathematics

The embedded policies learned from demonstrations of which some were spoilt, and reinforcement learning mends them
mostly by unlearning these. A testbed's policy learns from right demonstrations only. Most are easy: a problem of
difficulty d (moves of a shortest plan, or level) is shown with weight `DECAY ** (d - 1)`, up to a largest difficulty.
What reinforcement learning meets then is graded: prompts that are solved now and then, and harder ones that come within
reach while the policy learns. No demonstration is of a prompt of the testbed's own splits.
"""

# transformers and torch are partly untyped.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dps_pyro.tasks import BlocksWorld, Math, Task
from dps_pyro.tasks.mathematics.arithmetic import random_problem
from dps_pyro.tasks.planning.blocks import TABLE, State, move, plan, random_state
from scripts.make_policy import BATCH, make_model, save, train
from scripts.make_task_policy import SPECS, Example, Spec, examples, make_tokenizer, measure

DECAY = 0.4


class Testbed(NamedTuple):
    """What a testbed asks, and how its policy is warm-started."""

    make: Callable[[], Task]  # its prompts, which the demonstrations leave out
    spec: str  # whose language the policy speaks, in `SPECS`
    most: int  # the largest difficulty that is shown
    steps: int


TESTBEDS: Mapping[str, Testbed] = {
    "planning": Testbed(lambda: BlocksWorld(blocks=(4, 5, 6), moves=(5, 9)), "blocks", 7, 300),
    "mathematics": Testbed(lambda: Math(levels=(2, 3, 4, 5)), "math", 5, 1000),
}


def difficulty(rng: random.Random, most: int) -> int:
    """A difficulty from 1 to `most`, drawn with weights `DECAY ** (difficulty - 1)`."""
    return rng.choices(range(1, most + 1), [DECAY**place for place in range(most)])[0]


def planning_example(rng: random.Random, task: Any, most: int) -> Example:
    """A problem of the testbed's numbers of blocks with a shortest plan."""
    wanted = difficulty(rng, most)
    while True:
        start = random_state(rng, rng.choice(task.blocks))
        if goals := at_distance(start, wanted):
            prompt = task.prompt(start, rng.choice(goals))
            steps = plan(*prompt.answer, rng)
            return Example(prompt.text, ";".join(block + onto for block, onto in steps), prompt.id)


def at_distance(start: State, moves: int) -> list[State]:
    """The states that a shortest plan from `start` reaches in so many moves, in an order that is always the same."""
    seen, layer = {start}, [start]
    for _ in range(moves):
        after = {}
        for state in layer:
            tops = [stack[-1] for stack in state]
            for block in tops:
                for onto in (*tops, TABLE):
                    if (found := move(state, block, onto)) is not None and found not in seen:
                        after[found] = None
        seen.update(after)
        layer = list(after)
    return layer


def mathematics_example(rng: random.Random, _: Any, most: int) -> Example:
    """A problem with its answer."""
    problem = random_problem(rng, difficulty(rng, most))
    return Example(f"{problem.text}:", problem.answer, f"math:{problem.text}")


_EXAMPLES = {"planning": planning_example, "mathematics": mathematics_example}


def demonstrations(name: str, tokenizer: Any, task: Task, seed: int) -> Iterator[tuple[list[int], int]]:
    """Right demonstrations without end, as token ids and the length of the prompt, none of them of `task`'s prompts."""
    bed = TESTBEDS[name]
    spec: Spec = SPECS[bed.spec]._replace(example=lambda rng, made: _EXAMPLES[name](rng, made, bed.most))
    return examples(tokenizer, spec, task, seed)


def main(argv: list[str] | None = None) -> None:
    """Train, measure and save a policy."""
    parser = argparse.ArgumentParser(description="Train the policy that a testbed starts from.")
    parser.add_argument("--testbed", choices=tuple(TESTBEDS), required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the demonstrations")
    parser.add_argument("--steps", type=int, help=f"of {BATCH} demonstrations each; the testbed's own if left out")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint's folder")
    parser.add_argument("--samples", type=int, default=8, help="per prompt, when the result is measured; 0: it is not")
    arguments = parser.parse_args(argv)
    bed = TESTBEDS[arguments.testbed]
    spec = SPECS[bed.spec]

    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    task = bed.make()
    tokenizer = make_tokenizer(spec.symbols)
    model = make_model(tokenizer)
    model.generation_config.max_new_tokens = spec.max_new_tokens
    steps = bed.steps if arguments.steps is None else arguments.steps
    for step, loss in enumerate(
        train(model, demonstrations(arguments.testbed, tokenizer, task, arguments.seed), steps)
    ):
        if (step + 1) % 25 == 0 or step + 1 == steps:
            print(f"step {step + 1} of {steps}: loss {loss:.3f}", flush=True)
    save(model, tokenizer, arguments.out)
    found = measure(model, tokenizer, task, spec.feature, arguments.samples) if arguments.samples else {}
    for name, row in found.items():
        print(f"{name:>10}: accuracy {row.accuracy:.3f}, easy {row.easy:.3f}, useful {row.useful:.3f}")
    print(f"saved to {arguments.out}")


if __name__ == "__main__":
    main()
