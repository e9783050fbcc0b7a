"""Former public names: they work, and say what to write instead."""

import warnings


def deprecated(old: str, new: str) -> None:
    """Warn the caller of a former name."""
    warnings.warn(f"{old} is deprecated; use {new} instead.", DeprecationWarning, stacklevel=3)
