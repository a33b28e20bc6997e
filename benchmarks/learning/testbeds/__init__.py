"""Tasks that benchmarks train on, beside those of the package."""
