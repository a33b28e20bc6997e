"""Runs that are killed, started twice and damaged, and whether they still come out as the run that nobody touched."""
