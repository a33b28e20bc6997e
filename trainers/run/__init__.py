"""The run folder, and everything that is written into it."""

from dps_pyro.support.extras import needed

needed("transformers")
