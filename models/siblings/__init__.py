"""`Siblings`: prompts that were never rolled out are believed to be where the prompts like them are."""

from dps_pyro.models.siblings.model import Siblings

__all__ = ["Siblings"]
