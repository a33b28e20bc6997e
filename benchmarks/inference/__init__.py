"""Whether fits are right, and what they cost."""
