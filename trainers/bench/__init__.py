"""Training runs side by side, over seeds: which way of choosing prompts learns most per rollout."""
