"""How well models predict which groups are useful."""
