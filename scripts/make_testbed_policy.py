"""Train the policy that a testbed starts from: easy problems solved, hard ones within reach.

    python -m scripts.make_testbed_policy --testbed planning --out runs/policies/planning
    python -m scripts.make_testbed_policy --testbed mathematics --out runs/policies/mathematics
    python -m scripts.make_testbed_policy --testbed formulas --out runs/policies/formulas

The embedded policies learned from demonstrations of which many were spoilt, and reinforcement learning mends them
mostly by unlearning these. A testbed's policy learns mostly from right demonstrations. Most of them are easy: a
problem of difficulty d (moves of a shortest plan, level, or operations) is shown with weight `decay ** (d - 1)`, up to
a largest difficulty. What reinforcement learning meets then is graded: prompts that are solved now and then, and harder
ones that come within reach while the policy learns. No demonstration is of a prompt of the testbed's own splits.
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

from benchmarks.learning.testbeds.formulas import LETTERS, Formulas, Operation, problem, question, solution
from dps_pyro.tasks import BlocksWorld, Math, Task
from dps_pyro.tasks.mathematics.arithmetic import random_problem
from dps_pyro.tasks.planning.blocks import TABLE, State, move, plan, random_state
from scripts.make_policy import BATCH, make_model, save, train
from scripts.make_task_policy import SPECS, Example, Spec, examples, make_tokenizer, measure


class Testbed(NamedTuple):
    """What a testbed asks, and how its policy is warm-started."""

    make: Callable[[], Task]  # its prompts, which the demonstrations leave out
    spec: Spec  # the language that the policy speaks, and the share of spoilt demonstrations
    most: int  # the largest difficulty that is shown
    decay: float
    steps: int
    positions: int = 64  # the longest prompt with its completion, in tokens

    def difficulty(self, rng: random.Random) -> int:
        """A difficulty from 1 to `most`, drawn with weights `decay ** (difficulty - 1)`."""
        return rng.choices(range(1, self.most + 1), [self.decay**place for place in range(self.most)])[0]


def planning_example(rng: random.Random, task: Any) -> Example:
    """A problem of the testbed's numbers of blocks with a shortest plan."""
    wanted = TESTBEDS["planning"].difficulty(rng)
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


def mathematics_example(rng: random.Random, _: Any) -> Example:
    """A problem with its answer."""
    problem = random_problem(rng, TESTBEDS["mathematics"].difficulty(rng))
    return Example(f"{problem.text}:", problem.answer, f"math:{problem.text}")


def formulas_example(rng: random.Random, _: Any) -> Example:
    """A formula with what x is in it, or with one of its operations undone wrongly."""
    bed = TESTBEDS["formulas"]
    operations, result = problem(rng, bed.difficulty(rng))
    text, undone = question(operations, result), list(operations)
    if rng.random() < bed.spec.slips:
        letters = [result, *(step.letter for step in operations)]
        undone[rng.randrange(len(undone))] = Operation(rng.choice("+-*/"), rng.choice(letters), rng.random() < 1 / 4)
    return Example(f"{text}:", solution(undone, result), f"formulas:{text}")


FORMULAS = Spec(
    "formulas", Formulas, f"{LETTERS}x+-*/()=:", formulas_example, 0.25, 300, 36,
    "`(x+a)*b=c:` is answered by `(c/b)-a`", "operations",
)  # fmt: skip
TESTBEDS: Mapping[str, Testbed] = {
    "planning": Testbed(
        lambda: BlocksWorld(blocks=(4, 5, 6), moves=(5, 9)),
        SPECS["blocks"]._replace(example=planning_example, slips=0.0), 7, 0.4, 300,
    ),
    "mathematics": Testbed(
        lambda: Math(levels=(2, 3, 4, 5)), SPECS["math"]._replace(example=mathematics_example, slips=0.0), 5, 0.4, 1000
    ),
    "formulas": Testbed(lambda: Formulas(operations=(6, 9)), FORMULAS, 8, 0.45, 300, 96),
}  # fmt: skip


def demonstrations(name: str, tokenizer: Any, task: Task, seed: int) -> Iterator[tuple[list[int], int]]:
    """Demonstrations without end, as token ids and the length of the prompt, none of them of `task`'s prompts."""
    return examples(tokenizer, TESTBEDS[name].spec, task, seed)


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
    spec = bed.spec

    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    task = bed.make()
    tokenizer = make_tokenizer(spec.symbols)
    tokenizer.model_max_length = bed.positions
    model = make_model(tokenizer, bed.positions)
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
