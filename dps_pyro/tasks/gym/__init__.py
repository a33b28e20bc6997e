"""Procedural reasoning tasks of reasoning-gym."""
