"""What a run survives: kills at random moments, two starts in one folder, and damage to each of its files.

    python -m benchmarks.torture --out benchmarks/results/torture.json

1. *kills*: runs of ten configurations are killed (SIGKILL) at random moments: once, twice, and while they resume. Each
   is resumed to its end and compared with the run that nobody killed. Target: all equal.
2. *pairs*: two processes start in one folder at the same moment. Target: one runs, one is refused with the other's
   process id, and the folder is as if there had been one.
3. *damages*: every file of a killed run, and of one that had ended, is damaged in five ways (a bit flipped, cut in
   half, emptied, removed, replaced) before the run is resumed. Target: each is named or healed.

Everything runs on one thread, in a temporary folder. `--parts` measures some parts again and keeps the file's others.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.inference.rows import machine
from benchmarks.torture.damages import damage_files
from benchmarks.torture.kills import kill_runs
from benchmarks.torture.pairs import start_pairs
from benchmarks.torture.runs import CONFIGURATIONS
from dps_pyro.storage import atomic_path

PARTS = ("kills", "pairs", "damages")


def main() -> int:
    """Torture, write the result; returns 1 where something was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--configurations", nargs="+", choices=list(CONFIGURATIONS), default=list(CONFIGURATIONS))
    parser.add_argument("--kills", type=int, default=20, help="kills per configuration")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/torture.json"))
    options = parser.parse_args()
    result: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    result |= {
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seed": options.seed,
    }
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        for part in options.parts:
            start = time.monotonic()
            for found in _parts(part, Path(folder), options):
                result[part] = {**result.get(part, {}), **found} if part == "kills" else found
                with atomic_path(options.out) as aside:  # a long part keeps what it has so far
                    aside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(f"{part}: {time.monotonic() - start:.0f} s", flush=True)
    return int(any(misses(result)))


def _parts(part: str, folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    def say(text: str) -> None:
        print(text, flush=True)

    if part == "kills":
        for name, found in kill_runs(folder / "kills", options.configurations, options.kills, options.seed):
            say(f"{name}: {found}")
            yield {name: found}
    elif part == "pairs":
        yield start_pairs(folder / "pairs", options.pairs, say)
    else:
        yield damage_files(folder / "damages", say)


def misses(result: dict[str, Any]) -> list[Any]:
    """Everything in a result that is not as it should be."""
    kills = [wrong for found in result.get("kills", {}).values() for wrong in found["wrong"]]
    damages = [wrong for found in result.get("damages", {}).values() for wrong in found["wrong"]]
    return [*kills, *result.get("pairs", {}).get("wrong", []), *damages]


if __name__ == "__main__":
    sys.exit(main())
