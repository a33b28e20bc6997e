"""The policy of a training run: loading, adapters, and what it reads of a prompt."""

from dps_pyro.support.extras import needed

needed("transformers")
