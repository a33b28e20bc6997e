"""The grader on pairs of a gold answer and a completion whose verdict people agree on.

    python -m benchmarks.pairs path/to/pairs.json

The file is a list of `{"gold": ..., "completion": ..., "right": true}`. Two figures count: the share of pairs that is
judged right, and the share of the wrong completions that is paid. Both are printed and written to results/pairs.json,
with every pair that is misjudged and the grader's reason for it. The pairs themselves are not kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from dps_pyro.tasks.grading.grader import NOT_COMPARED, Grader

RESULT = Path(__file__).parent / "results" / "pairs.json"


def measure(pairs: Sequence[Mapping[str, Any]], tolerance: float = 0.0) -> dict[str, Any]:
    """Judge the pairs.

    Args:
        pairs: Each with `gold`, `completion` and `right`.
        tolerance: The relative error that a number may have, >= 0.

    Returns:
        How many pairs there are and how many are judged right, among the right completions and the wrong ones; how
        often each reason was given to each of the two; and the pairs that are misjudged.
    """
    grader = Grader()
    golds, completions = ([str(pair[name]) for pair in pairs] for name in ("gold", "completion"))
    rewards = grader.grade_all(golds, completions, tolerance=tolerance)
    grader.close()
    judged = list(zip(pairs, rewards, strict=True))
    left = [(pair, reward) for pair, reward in judged if bool(reward.value) != pair["right"]]
    reasons = {
        name: dict(Counter(reward.reason for pair, reward in judged if pair["right"] is right).most_common())
        for name, right in (("right", True), ("wrong", False))
    }
    return {
        "pairs": len(pairs),
        "judged_right": len(pairs) - len(left),
        "wrong": sum(not pair["right"] for pair in pairs),
        "wrong_paid": sum(not pair["right"] for pair, _ in left),
        "not_compared": sum(reward.reason.startswith(NOT_COMPARED) for _, reward in judged),
        "reasons": reasons,
        "left": [
            {"gold": pair["gold"], "completion": pair["completion"][:200], "right": pair["right"], "reason": why.reason}
            for pair, why in left
        ],
    }


def table(result: Mapping[str, Any]) -> str:
    """The figures and the reasons as Markdown, and every pair that is misjudged with its reason."""
    right, wrong = result["reasons"]["right"], result["reasons"]["wrong"]
    rows = ["| the grader's reason | right completions | wrong completions |", "|---|---|---|"]
    rows += [f"| {name} | {right.get(name, 0)} | {wrong.get(name, 0)} |" for name in dict.fromkeys([*right, *wrong])]
    share = result["judged_right"] / max(result["pairs"], 1)
    said = (
        f"{result['judged_right']} of {result['pairs']} pairs are judged right ({share:.1%}), and "
        f"{result['wrong_paid']} of {result['wrong']} wrong completions are paid. {result['machine']}; "
        f"{result['date']}."
    )
    if not result["left"]:
        return "\n".join([*rows, "", f"{said} No pair is misjudged."])
    misjudged = ["| gold | completion | is right | reason |", "|---|---|---|---|"]
    for pair in result["left"]:
        cells = [pair["gold"], pair["completion"][:80], "yes" if pair["right"] else "no", pair["reason"]]
        misjudged.append("| " + " | ".join(cell.replace("\n", "⏎").replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*rows, "", f"{said} These pairs are misjudged:", "", *misjudged])


def main(argv: Sequence[str] | None = None) -> None:
    """Judge the pairs, print the tables, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pairs", type=Path, help="The file of pairs, read in place.")
    parser.add_argument("--tolerance", type=float, default=0.0, help="The relative error that a number may have.")
    parser.add_argument("--out", type=Path, default=RESULT, help="The file of the result.")
    arguments = parser.parse_args(argv)
    text = arguments.pairs.read_bytes()
    result = {
        "command": "python -m benchmarks.pairs path/to/pairs.json",
        "machine": results.machine(),
        "date": results.today(),
        "sha256": hashlib.sha256(text).hexdigest(),
        "tolerance": arguments.tolerance,
        **measure(json.loads(text), arguments.tolerance),
    }
    results.write(arguments.out, result)
    print(table(result))


if __name__ == "__main__":
    main()
