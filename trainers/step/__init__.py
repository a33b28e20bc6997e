"""The parts of one training step: prompts, groups, batches and the update of the policy."""
