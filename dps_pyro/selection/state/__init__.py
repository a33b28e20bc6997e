"""What a sampler keeps beside its beliefs: the prompts that are handed out, what was predicted, and what is saved."""
