"""`dps-pyro serve` as a process that can be killed and started again within a fraction of a second."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["KEY", "Served"]

KEY = "a-key-of-many-letters"
PROMPTS = 200
LOADED = [
    "dps_pyro.cli.serve",
    "dps_pyro.selection.sampler",
    "dps_pyro.serve.app",
    "helpers.served",
    "uvicorn",
    "uvloop",
]
"""What a process that forks the service has imported. A new interpreter takes seconds for it."""
COMMAND = "import sys; from dps_pyro.cli import main; sys.exit(main(sys.argv[1:]))"


class Served:
    """The service, at a port of its own.

    Args:
        folder: the folder of its state and journal.
        forked: whether its process is forked from one that has imported everything already. It runs the command's own
            code all the same. Otherwise it is a new interpreter, as `dps-pyro serve` is.
    """

    def __init__(self, folder: Path, *, forked: bool = False) -> None:
        self.folder, self.forked = folder, forked
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: Any = None
        self.start()

    def start(self) -> None:
        """Start the service. It answers a little later."""
        options = ["serve", str(self.folder), "--prompts", str(PROMPTS), "--port", str(self.port)]
        options += ["--model", "SolvingProgress"]
        if self.forked:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(LOADED)
            self.process = context.Process(target=serve, args=(options,), daemon=True)
            self.process.start()
        else:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, *options], env={**os.environ, "DPS_PYRO_KEY": KEY}
            )

    def kill(self) -> None:
        """End the process by SIGKILL, which leaves it no time for anything."""
        self.process.kill()
        if self.forked:
            self.process.join()
        else:
            self.process.wait()


def serve(options: list[str]) -> None:
    """Run the command in this process."""
    from dps_pyro.cli import main

    os.environ["DPS_PYRO_KEY"] = KEY
    raise SystemExit(main(options))
