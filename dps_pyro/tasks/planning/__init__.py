"""Planning: Countdown and the blocks world."""

from dps_pyro.support.extras import needed

needed("lark")
from dps_pyro.tasks.planning.blocks import BlocksWorld
from dps_pyro.tasks.planning.countdown import Countdown

__all__ = ["BlocksWorld", "Countdown"]
