"""What things cost: the sampler, the trainer, the grader."""
