"""`python -m dps_pyro.cli` is the same as `dps-pyro`."""

import sys

from dps_pyro.cli import main

if __name__ == "__main__":
    sys.exit(main())
