"""A filter whose cost follows what was seen: prompts that are alike and were never rolled out share one belief."""
