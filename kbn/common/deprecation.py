"""Warnings for former public names, which still work."""

import warnings


def deprecated(old: str, new: str) -> None:
    """Warn the caller that `old` is deprecated, and name the replacement `new`."""
    warnings.warn(f"{old} is deprecated; use {new} instead.", DeprecationWarning, stacklevel=3)
