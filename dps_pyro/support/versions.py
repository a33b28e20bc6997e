"""The versions of other people's loops that this package was made for."""

from __future__ import annotations

import importlib.metadata

from packaging.specifiers import SpecifierSet

__all__ = ["require"]


def require(package: str, supported: str, *, extra: str) -> str:
    """The installed version of `package`.

    Args:
        package: its name on the index.
        supported: the range of versions that are supported, such as ">=1.0,<2".
        extra: the extra of this package that installs it.

    Raises:
        ImportError: it is not installed, or its version is out of range; the message says what to install.
    """
    install = f"pip install 'dps_pyro[{extra}]'"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(f"expected {package}{supported}, got none: {install}") from error
    # Pre-releases count as what they lead to: whoever runs one knows.
    if not SpecifierSet(supported).contains(version, prereleases=True):
        raise ImportError(f"expected {package}{supported}, got {package} {version}: {install}")
    return version
