"""The commands of `dps-pyro`, one a file: the options, and `run(arguments) -> exit status`."""
