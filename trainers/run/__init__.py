"""The run folder, and everything that is written into it."""

from dps_pyro.support.extras import needed

# Of the same extra as transformers, which takes more than a second to import; to hold a folder takes neither.
needed("filelock")
