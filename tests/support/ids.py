"""Names of parametrized tests."""

import re


def plain(value) -> str:
    """Return `str(value)` without addresses: the processes of one run must agree on the names."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
