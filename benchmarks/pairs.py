"""The grader on pairs of a gold answer and a completion whose verdict people agree on.

    python -m benchmarks.pairs path/to/pairs.json

The file is a list of `{"gold": ..., "completion": ..., "right": true}`. Printed: the share that is judged right, the
share of the wrong ones that is paid, and a table of those that are left, each with the grader's reason.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from dps_pyro.tasks.grading.grader import NOT_COMPARED, Grader


def main(argv: Sequence[str] | None = None) -> None:
    """Judge the pairs and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pairs", type=Path, help="The file of pairs, read in place.")
    parser.add_argument("--tolerance", type=float, default=0.0, help="The relative error that a number may have.")
    arguments = parser.parse_args(argv)
    pairs = json.loads(arguments.pairs.read_text(encoding="utf-8"))
    grader = Grader()
    golds, completions = ([pair[name] for pair in pairs] for name in ("gold", "completion"))
    rewards = grader.grade_all(golds, completions, tolerance=arguments.tolerance)
    grader.close()
    judged = list(zip(pairs, rewards, strict=True))
    left = [(pair, reward) for pair, reward in judged if bool(reward.value) != pair["right"]]
    paid = sum(not pair["right"] for pair, _ in left)
    wrong = sum(not pair["right"] for pair in pairs)
    not_compared = sum(reward.reason.startswith(NOT_COMPARED) for _, reward in judged)
    print(f"{len(pairs) - len(left)} of {len(pairs)} judged right ({1 - len(left) / len(pairs):.1%}), ", end="")
    print(f"{paid} of {wrong} wrong ones paid, {not_compared} not compared")
    if left:
        print("\n| gold | completion | right | reason |\n|---|---|---|---|")
    for pair, reward in left:
        cells = [pair["gold"], pair["completion"][:80], str(pair["right"]), reward.reason]
        print("| " + " | ".join(cell.replace("\n", "⏎").replace("|", "\\|") for cell in cells) + " |")


if __name__ == "__main__":
    main()
