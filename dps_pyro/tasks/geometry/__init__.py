"""Visual geometry: problems with diagrams."""

from dps_pyro.tasks.geometry.task import Geometry

__all__ = ["Geometry"]
