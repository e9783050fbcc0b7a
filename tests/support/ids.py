"""Names of parametrized tests."""

import re


def plain(value) -> str:
    """Return `str(value)` without addresses, so that names are the same in all processes."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
