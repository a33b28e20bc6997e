"""The policies that ship with the package."""

from dps_pyro.policies.embedded import EMBEDDED, Defaults, defaults_of

__all__ = ["EMBEDDED", "Defaults", "defaults_of"]
