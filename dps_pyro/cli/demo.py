"""`dps-pyro demo`: the whole of it in a few minutes."""

from __future__ import annotations

import tyro

__all__ = ["run"]


def run(arguments: list[str]) -> int:
    """Run the demo; 1 if it did not learn."""
    from dps_pyro.trainers.demo import DemoOptions, run_demo

    return run_demo(tyro.cli(DemoOptions, prog="dps-pyro demo", args=arguments))
