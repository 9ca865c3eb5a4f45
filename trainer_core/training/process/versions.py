"""Which versions of packages are installed."""

from functools import cache
from importlib import metadata


@cache
def versions_of(*packages: str) -> dict[str, str]:
    """Return package -> version of those that are installed; a checkout may not be."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
