"""Mathematics: generated arithmetic, and problem sets from files."""

from dps_pyro.tasks.mathematics.task import SUITES, Math, Suite

__all__ = ["SUITES", "Math", "Suite"]
