"""Visual geometry: problems with diagrams."""

from dps_pyro.support.extras import needed

needed("PIL")
from dps_pyro.tasks.geometry.task import Geometry

__all__ = ["Geometry"]
