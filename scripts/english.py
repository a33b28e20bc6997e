"""Count patterns of terse English in the documentation, the help texts and the docstrings.

    python -m scripts.english                          # everything, counts per pattern
    python -m scripts.english README.md docs --show    # some places, with the lines

The patterns are those that make a reader stumble: a unit after "a" in place of "per", sentences that begin with "Of" or
"Where" to save words, and fragments that name nothing. A match is a place to look at, and not always a fault.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PLACES = ("README.md", "CONTRIBUTING.md", "docs", "dps_pyro", "models", "trainers")
UNITS = "prompt|step|group|model|seed|row|rollout|pass|batch|state|completion|problem|line|token"
COUNTED = (
    "nats|seconds|milliseconds|minutes|prompts|rollouts|steps|passes|groups|values|tokens|requests|rows|lines|times"
)
PATTERNS = {
    '"a prompt" for "per prompt"': rf"\b(?:\d(?:[\d,.]*\d)?|one|{COUNTED}|[BKNT]) an? (?:{UNITS})\b(?! draws)",
    'a sentence that begins with "Of"': r'(?:^|[.:;] |""")Of (?!course\b)[a-z]',
    'a sentence that begins with "Where"': r'(?:^|[.:] |""")Where (?!to\b|you\b)[a-z]+ [^?]*?(?:[.;]|$)',
    '"None of" for "None if"': r"; None (?:of|where)\b|, None of\b",
    '"what came"': r"\bwhat came\b|\bsomething else came\b",
    '"as it was", "as ever"': r"\bas it was[.,]|\bas ever\b|, as ever",
    '"of one\'s own"': r"\bof one's own\b",
    '"no other\'s"': r"\bno other's\b|\bwhich is no\b",
    '"mixed group"': r"\bmixed groups?\b",
}


class Match(NamedTuple):
    """One place where a pattern was found."""

    pattern: str
    path: Path
    line: int
    text: str


def main() -> None:
    """Print how often each pattern occurs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "places", nargs="*", default=PLACES, help="Files and folders to read. The default is all of them."
    )
    parser.add_argument("--show", action="store_true", help="Print the lines that were found.")
    parser.add_argument("--at-most", type=int, help="Exit with status 1 if there are more matches than this.")
    given = parser.parse_args()
    found = [match for place in given.places for path in _files(ROOT / place) for match in matches(path)]
    if given.show:
        for match in found:
            print(f"{match.path.relative_to(ROOT)}:{match.line}: {match.pattern}: {match.text}")
    for name in PATTERNS:
        print(f"{sum(match.pattern == name for match in found):5}  {name}")
    print(f"{len(found):5}  in all")
    if given.at_most is not None and len(found) > given.at_most:
        sys.exit(1)


def matches(path: Path) -> Iterator[Match]:
    """The places in a file where a pattern occurs. In a Python file docstrings and string constants are read."""
    for line, text in _prose(path):
        for name, pattern in PATTERNS.items():
            if re.search(pattern, text):
                yield Match(name, path, line, text.strip())


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return sorted(
        path for path in place.rglob("*") if path.suffix in (".md", ".py") and "__pycache__" not in path.parts
    )


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of prose in a file, with their numbers: no code blocks, no tables of results."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        fenced = written = False
        for number, line in enumerate(text.splitlines(), 1):
            fenced ^= line.startswith("```")
            written = line.startswith("<!-- table") or (written and not line.startswith("<!-- end"))
            if not (fenced or written):
                yield number, line
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            for offset, line in enumerate(node.value.splitlines()):
                yield node.lineno + offset, line.strip()


if __name__ == "__main__":
    main()
