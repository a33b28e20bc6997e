"""The gallery: dynamics models to use as they are or to fork, one a file."""

from dps_pyro.models.logit_walk import LogitWalk
from dps_pyro.models.paper_dps import PaperDPS
from dps_pyro.models.solving_progress import SolvingProgress

__all__ = ["LogitWalk", "PaperDPS", "SolvingProgress"]
