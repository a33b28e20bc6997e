"""What the service bears: rounds of select and observe a second, and how long the slowest wait.

    python -m benchmarks.cost.serve --seconds 10 --out benchmarks/results/serve.json

Starts `dps-pyro serve` on this machine, at 127.0.0.1 alone, and some workers in threads, for at most a minute. Beside
the rounds by the clock it tells the processor time of a round, in the service and in all workers together: on a machine
that does other work, too, the clock says little.
"""

from __future__ import annotations

import argparse
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

from benchmarks import results
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
    parser.add_argument("--sync", action="store_true", help="each change is flushed to the disk before its answer")
    parser.add_argument("--out", type=Path, help="a JSON file to write the result to")
    options = parser.parse_args()

    key = secrets.token_hex(16)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    times: list[list[float]] = [[] for _ in range(options.workers)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", SERVE, "serve", folder, "--prompts", str(options.prompts), "--port", str(port)]
        command += ["--sync"] if options.sync else []
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
            spent = [-_processor_seconds(served.pid), -time.process_time()]
            began = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took = time.monotonic() - began
            spent = [spent[0] + _processor_seconds(served.pid), spent[1] + time.process_time()]
            observed = workers[0].metrics()["step"]
            for remote in workers:
                remote.close()
        finally:
            served.terminate()
            served.wait(60)
    rounds = np.array([one for own in times for one in own])
    result = {
        "what": "rounds of select and observe, by the clock, of workers and service on one machine",
        "date": results.today(),
        "machine": results.machine(),
        "configuration": {name: value for name, value in vars(options).items() if name != "out"},
        "load_average": os.getloadavg()[0],
        "rounds": len(rounds),
        "steps_observed": observed,
        "rounds_per_second": round(len(rounds) / took, 1),
        "median_ms": round(1e3 * float(np.median(rounds)), 2),
        "p99_ms": round(1e3 * float(np.quantile(rounds, 0.99)), 2),
        "service_processor_ms_a_round": round(1e3 * spent[0] / len(rounds), 3),
        "workers_processor_ms_a_round": round(1e3 * spent[1] / len(rounds), 3),
    }
    print(json.dumps(result, indent=1))
    if observed != len(rounds):
        raise SystemExit(f"expected {len(rounds)} steps observed, got {observed:.0f}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        results.write(options.out, result)


def _processor_seconds(process: int) -> float:
    """What a process has used of the processors so far."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
