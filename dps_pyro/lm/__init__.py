"""What a policy-gradient step needs of a language model: inputs, log-probabilities, advantages and losses."""
