"""The settings of a training run."""

from dps_pyro.support.extras import needed

needed("pydantic")
