"""Tasks that only benchmarks use."""
