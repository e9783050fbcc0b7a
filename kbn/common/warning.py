"""Warnings that show a line of the user's code."""

import sys
import warnings

LIBRARIES = {"contextlib", "jax", "kbn", "keras", "tensorflow", "torch"}
"""Top-level names of modules that may stand between the user's code and a warning."""


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning at the innermost line that is not in kbn, Keras or a backend.

    That line, such as the call of `fit`, is what Python prints with the warning.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _module(frame.f_globals) in LIBRARIES:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


def deprecated(old: str, new: str) -> None:
    """Warn that `old`, a former public name that still works, is deprecated, and name `new`."""
    warn(f"{old} is deprecated; use {new} instead.", DeprecationWarning)


def _module(names: dict[str, object]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]
