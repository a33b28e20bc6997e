"""What the service bears: rounds of select and observe a second, and how long the slowest wait.

    python -m benchmarks.cost.serve --seconds 10 --out benchmarks/results/serve.json

Starts `dps-pyro serve` on this machine, at 127.0.0.1 alone, and some workers in threads, for at most a minute.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.inference.rows import machine
from dps_pyro.serve.client import RemoteSampler

SERVE = "import sys; from dps_pyro.cli import main; sys.exit(main(sys.argv[1:]))"


def main() -> None:
    """Serve, ask, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=4, choices=range(1, 33))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="at most 60")
    parser.add_argument("--model", default="SolvingProgress")
    parser.add_argument("--out", type=Path, help="a JSON file to write the result to")
    options = parser.parse_args()

    key = secrets.token_hex(16)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    times: list[list[float]] = [[] for _ in range(options.workers)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", SERVE, "serve", folder, "--prompts", str(options.prompts), "--port", str(port)]
        served = subprocess.Popen(
            [*command, "--model", options.model], env={**os.environ, "DPS_PYRO_KEY": key, "OMP_NUM_THREADS": "1"}
        )
        try:
            url = f"http://127.0.0.1:{port}"
            workers = [RemoteSampler(url, key, f"worker-{k}", patience=120) for k in range(options.workers)]
            end = time.monotonic() + min(options.seconds, 60.0)

            def work(number: int) -> None:
                remote = workers[number]
                while time.monotonic() < end:
                    start = time.perf_counter()
                    rows = remote.select(options.batch_size)
                    remote.observe(rows, rows % 9, 8)
                    times[number].append(time.perf_counter() - start)

            threads = [threading.Thread(target=work, args=(number,)) for number in range(options.workers)]
            began = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took = time.monotonic() - began
            observed = workers[0].metrics()["step"]
            for remote in workers:
                remote.close()
        finally:
            served.terminate()
            served.wait(60)
    rounds = np.array([one for own in times for one in own])
    result = {
        "what": "rounds of select and observe, by the clock, of workers and service on one machine",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "configuration": {name: value for name, value in vars(options).items() if name != "out"},
        "load_average": os.getloadavg()[0],
        "rounds": len(rounds),
        "steps_observed": observed,
        "rounds_per_second": round(len(rounds) / took, 1),
        "median_ms": round(1e3 * float(np.median(rounds)), 2),
        "p99_ms": round(1e3 * float(np.quantile(rounds, 0.99)), 2),
    }
    print(json.dumps(result, indent=1))
    if observed != len(rounds):
        raise SystemExit(f"expected {len(rounds)} steps observed, got {observed:.0f}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
