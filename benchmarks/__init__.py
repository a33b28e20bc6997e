"""Measurements side by side, with their results. `python -m benchmarks` says how to make them again."""
