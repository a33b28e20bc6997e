"""Small helpers that every other package may use: checks, plug-ins, record files, killable child processes."""
