"""The parts of one training step: prompts, groups, batches and the update of the policy."""

from dps_pyro.support.extras import needed

needed("transformers")
