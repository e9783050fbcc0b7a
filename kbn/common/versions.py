"""The versions of kbn and of the libraries it works with."""

import importlib.metadata
from collections.abc import Iterable

# On the package index, the name kbn belongs to another project.
DISTRIBUTION = "kbn-keras"


def installed(libraries: Iterable[str]) -> dict[str, str]:
    """Return the versions of the installed `libraries` by name; others are left out.

    Args:
        libraries: names of distributions, or "kbn" for kbn itself.
    """
    found = {}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(DISTRIBUTION if name == "kbn" else name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
