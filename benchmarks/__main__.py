"""Every benchmark, and the documentation's tables and pictures from their results.

    python -m benchmarks                       # all that need nothing but this package (many hours)
    python -m benchmarks --list                # what there is, and what each needs
    python -m benchmarks sampler replay        # some of them, by name

Each benchmark writes into benchmarks/results/. Those that need another package, a model or data run only when they are
named, with `-- ARGUMENTS` for what they need.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Benchmark(NamedTuple):
    """One benchmark, and how it is run."""

    module: str
    """The module below `benchmarks`."""
    arguments: tuple[str, ...] = ()
    """The arguments that make the result file that the documentation shows."""
    needs: str = ""
    """What it needs beside this package. Empty: nothing."""


def _to(name: str) -> tuple[str, ...]:
    return "--out", f"benchmarks/results/{name}.json"


def _plan(name: str) -> tuple[str, ...]:
    return "--plan", f"benchmarks/learning/plans/{name}.yaml", "--runs", f"runs/{name}", *_to(name)


SHARPNESS = ("--arms", "sharpness", "--seeds", "100", "101", "102", "--steps", "120", *_to("sharpness"))
PEERS = "hmmlearn, dynamax and pomegranate, in an environment of their own: -- --peers-python peers/bin/python"
BENCHMARKS = {
    "sampler": Benchmark("cost.sampler", _to("sampler")),
    "late": Benchmark("cost.late", _to("late")),
    "serve": Benchmark("cost.serve", _to("serve")),
    "selectors": Benchmark("learning.selectors", _to("selectors")),
    "planning": Benchmark("learning.planning", _to("planning")),
    "visits": Benchmark("learning.planning", _plan("visits")),
    "easy": Benchmark("learning.planning", _plan("easy")),
    "formulas": Benchmark("learning.planning", _plan("formulas")),
    "rates": Benchmark("learning.planning", _plan("rates")),
    "shapes": Benchmark("learning.planning", _plan("shapes")),
    "best": Benchmark("learning.planning", _plan("best")),
    "ideas": Benchmark("learning.planning", _plan("ideas")),
    "ideas_one": Benchmark("learning.planning", _plan("ideas_one")),
    "smollm2_arithmetic": Benchmark(
        "learning.planning", _plan("smollm2_arithmetic"), "vLLM, and SmolLM2 in models-here/smollm2"
    ),
    "candidates": Benchmark(
        "learning.planning", _plan("candidates"), "policies of scripts.make_testbed_policy in runs/policies"
    ),
    "sharpness": Benchmark("learning.selectors", SHARPNESS),
    "tasks": Benchmark("learning.tasks"),
    "geometry": Benchmark("learning.geometry", _to("geometry")),
    "trl": Benchmark("learning.trl", _to("trl")),
    "logs": Benchmark("prediction.logs"),
    "replay": Benchmark("prediction.replay", _to("replay")),
    "refits": Benchmark("prediction.refits", _to("refits")),
    "reading": Benchmark("prediction.reading", _to("reading")),
    "told": Benchmark("prediction.told", _to("told")),
    "signal": Benchmark("prediction.signal", _to("signal")),
    "sbc": Benchmark("inference.sbc", _to("sbc")),
    "recovery": Benchmark("inference.recovery", _to("recovery")),
    "labels": Benchmark("inference.labels", _to("labels")),
    "em": Benchmark("inference.em", _to("em")),
    "predictive": Benchmark("inference.predictive", _to("predictive")),
    "hostile": Benchmark("hostile"),
    "torture": Benchmark("torture"),
    "filter": Benchmark("inference.filter", _to("filter"), PEERS),
    "fit": Benchmark("inference.fit", _to("fit"), PEERS),
    "demo": Benchmark("learning.demo", (), "a run of `dps-pyro demo --out runs/demo`: -- runs/demo"),
    "smollm2": Benchmark("learning.smollm2", _to("smollm2"), "vLLM and a model: -- --model models-here/smollm2"),
    "gpu": Benchmark("gpu", _to("gpu"), "a CUDA device, and SmolLM2, which it fetches if it is missing"),
    "trainer": Benchmark("cost.trainer", _to("trainer"), "vLLM, TRL and a model: -- --model models-here/smollm2"),
    "grader": Benchmark("cost.grader", (), "the data set MATH: -- path/to/math"),
    "pairs": Benchmark("pairs", (), "a file of judged answers: -- path/to/pairs.json"),
}
"""Name -> benchmark. Those that make the same result file share a name with it."""
DOCUMENTATION = (Benchmark("docs.concepts"), Benchmark("docs.settings"), Benchmark("docs.evidence"))
"""What draws the pictures and writes the tables, after the benchmarks."""


def main(given: Sequence[str] | None = None) -> None:
    """Run the benchmarks named, or list all of them."""
    own = list(sys.argv[1:] if given is None else given)
    more: list[str] = []
    if "--" in own:
        place = own.index("--")
        own, more = own[:place], own[place + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="Benchmarks to run. The default is all that need nothing."
    )
    parser.add_argument("--list", action="store_true", help="Print every benchmark and what it needs, and stop.")
    asked = parser.parse_args(own)
    unknown = [name for name in asked.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark named {unknown[0]!r}; known are {', '.join(BENCHMARKS)}")
    if asked.list:
        for name, benchmark in BENCHMARKS.items():
            print(
                f"{name:12} benchmarks.{benchmark.module:24} {benchmark.needs and f'needs {benchmark.needs}'}".rstrip()
            )
        return
    names = asked.names or [name for name, benchmark in BENCHMARKS.items() if not benchmark.needs]
    for benchmark in (*(BENCHMARKS[name] for name in names), *DOCUMENTATION):
        arguments = [*benchmark.arguments, *(more if benchmark.needs else ())]
        command = [f"benchmarks.{benchmark.module}", *arguments]
        print(f"python -m {' '.join(command)}", flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)
    left_out = [name for name, benchmark in BENCHMARKS.items() if benchmark.needs and name not in names]
    if left_out and not asked.names:
        print(f"Not run, because they need more than this package: {', '.join(left_out)} (--list says what).")


if __name__ == "__main__":
    main()
