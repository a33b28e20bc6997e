"""Tasks and rewards of the user's own, judged in a process that can be killed."""
