"""The grader on the gold answers of MATH: each against itself, and against another problem's.

    python -m benchmarks.cost.grader path/to/math               # a folder with train.jsonl and math500.jsonl
    python -m benchmarks.cost.grader path/to/math --only time   # the timing alone, where nothing else runs

Each gold answer, written in a box, must be accepted against itself, and the gold of another problem (a random
permutation) must be rejected, unless the two are equal after all: those are listed. The result, with what grading
costs, is written to results/grader.json.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import results
from dps_pyro.tasks import read_records
from dps_pyro.tasks.grading.grader import Grader

RESULT = Path(__file__).parents[1] / "results" / "grader.json"


def check(grader: Grader, golds: list[str], seed: int) -> dict[str, Any]:
    """One set of gold answers, each against itself and against another problem's."""
    boxed = [f"\\boxed{{{gold}}}" for gold in golds]
    itself = grader.grade_all(golds, boxed)
    order = list(range(len(golds)))
    random.Random(seed).shuffle(order)
    start = time.monotonic()
    others = grader.grade_all(golds, [boxed[place] for place in order])
    seconds = time.monotonic() - start
    equal = sorted(
        {
            (golds[place], golds[other])
            for place, other, reward in zip(range(len(golds)), order, others, strict=True)
            if reward.value and golds[place] != golds[other]
        }
    )
    return {
        "answers": len(golds),
        "distinct": len(set(golds)),
        "accepted_against_itself": sum(reward.value for reward in itself),
        "refused_against_itself": [gold for gold, reward in zip(golds, itself, strict=True) if not reward.value],
        "pairs_with_another": len(golds),
        "reasons_with_another": dict(Counter(reward.reason for reward in others).most_common()),
        "same_text_by_chance": sum(golds[place] == golds[other] for place, other in enumerate(order)),
        "accidental_equals": [list(pair) for pair in equal],
        "milliseconds_a_pair": 1000 * seconds / len(golds),
    }


def step(grader: Grader, golds: list[str], seed: int) -> dict[str, float]:
    """Seconds for a training step's 256 completions: 32 problems, of 8 completions each half right."""
    rng = random.Random(seed)
    problems = rng.sample(golds, 32)
    pairs = [(gold, gold if rng.randrange(2) else rng.choice(golds)) for gold in problems for _ in range(8)]
    completions = [f"Let us see. So the answer is $\\boxed{{{answer}}}$." for _, answer in pairs]
    times = []
    for _ in range(2):
        start = time.monotonic()
        grader.grade_all([gold for gold, _ in pairs], completions)
        times.append(time.monotonic() - start)
    return {"first": times[0], "again": times[1]}


def main(argv: list[str] | None = None) -> None:
    """Check, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="with train.jsonl and math500.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("time", "check"), help="keep the other part of the result as it is")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args(argv)
    grader = Grader(workers=2, seconds=5.0)
    grader.grade("2", r"\boxed{\sqrt{4}}")  # started
    names = {"MATH train": "train", "MATH-500": "math500"}
    golds = {
        name: [str(record["answer"]) for record in read_records(arguments.folder / f"{file}.jsonl")]
        for name, file in names.items()
    }
    result: dict[str, Any] = {}
    if arguments.only is not None:
        result = json.loads(arguments.out.read_text(encoding="utf-8"))
    result |= {
        "command": "python -m benchmarks.cost.grader path/to/math",
        "date": results.today(),
        "machine": "two cores, shared with other work",
        "math-verify": version("math-verify"),
    }
    if arguments.only != "check":
        result["seconds_for_256_completions"] = step(grader, golds["MATH train"], arguments.seed)
    if arguments.only != "time":
        result["sets"] = {name: check(grader, found, arguments.seed) for name, found in golds.items()}
    grader.close()
    results.write(arguments.out, result)
    for name, found in result["sets"].items():
        print(f"{name}: {found['accepted_against_itself']:.0f} of {found['answers']} accepted against themselves,")
        print(f"  {len(found['accidental_equals'])} accidental equals, {found['reasons_with_another']}")
    timed = result["seconds_for_256_completions"]
    print(f"256 completions: {timed['first']:.2f} s, again {timed['again']:.3f} s")


if __name__ == "__main__":
    main()
