"""Which versions of verl this works with, and by which of verl's own doors."""

from __future__ import annotations

from importlib import metadata
from typing import Literal

from packaging.version import Version

__all__ = ["SUPPORTED", "require", "route"]

SUPPORTED = "0.5 to 0.7, and 0.9"
"""In words, for messages and docs."""


def route(version: str | None = None) -> Literal["sampler", "trainer"]:
    """How predicted prompts enter a version of verl: as a dataloader's sampler (0.5 to 0.7, `data.sampler.class_path`),
    or as a registered trainer (0.9, `@register_trainer`).

    Args:
        version: the version. The default is the installed one.

    Raises:
        ImportError: verl is not installed, or is of another version.
    """
    if version is None:
        try:
            version = metadata.version("verl")
        except metadata.PackageNotFoundError as error:
            raise ImportError(f"expected verl, versions {SUPPORTED}: pip install 'dps_pyro[verl]'") from error
    found = Version(version).release[:2]
    if (0, 5) <= found < (0, 8):
        return "sampler"
    if found == (0, 9):
        return "trainer"
    if found == (0, 8):
        why = "0.8 has lost data.sampler.class_path and does not have @register_trainer yet"
    else:
        why = "its trainers may differ from those that this was tested with"
    raise ImportError(f"expected verl {SUPPORTED}, got {version}: {why}")


def require(wanted: Literal["sampler", "trainer"]) -> None:
    """
    Raises:
        ImportError: the installed verl is none that this works with, or one that wants the other door.
    """
    found = route()
    if found != wanted:
        instead = {
            "trainer": "VERL_USE_EXTERNAL_MODULES=dps_pyro.trainers.verl.trainer and trainer.v1.trainer_mode",
            "sampler": "data.sampler.class_path=pkg://dps_pyro.trainers.verl.curriculum",
        }[found]
        raise ImportError(f"expected verl's {wanted} route, but verl {metadata.version('verl')} wants {instead}")
