"""Argument checks shared by the layer and the callbacks.

Each check returns the value as a plain Python type, or raises an error that says what is allowed
and what was received.
"""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import TypeVar

from kbn.common.types import FunctionName

T = TypeVar("T")


def number(
    name: str,
    value: object,
    allowed: str,
    *,
    low: float,
    high: float = math.inf,
    open_low: bool = False,
) -> float:
    """Check that `value` is a finite real number in [low, high], or in (low, high]."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be {allowed}. Received: {name}={value!r}")
    plain = float(value)
    below = plain <= low if open_low else plain < low
    if not math.isfinite(plain) or below or plain > high:
        raise ValueError(f"{name} must be {allowed}. Received: {name}={value!r}")
    return plain


def integer(name: str, value: object, *, low: int | None = None) -> int:
    """Check that `value` is an integer and, if `low` is given, at least `low`."""
    allowed = "an integer" if low is None else f"an integer of at least {low}"
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be {allowed}. Received: {name}={value!r}")
    if low is not None and value < low:
        raise ValueError(f"{name} must be {allowed}. Received: {name}={value!r}")
    return int(value)


def boolean(name: str, value: object) -> bool:
    """Check that `value` is True or False."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{name} must be True or False. Received: {name}={value!r}")
    return bool(value)


def one_of(name: str, value: T, allowed: Sequence[T]) -> T:
    """Check that `value` equals one of `allowed` and has its type."""
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"{name} must be one of {choices}. Received: {name}={value!r}")
    return value


def single_axis(axis: object) -> int:
    """Check that `axis` is an integer, or a list of one integer as in old saved models."""
    if isinstance(axis, list | tuple) and len(axis) == 1:
        axis = axis[0]
    if isinstance(axis, list | tuple):
        raise ValueError(f"axis must be a single channel axis. Received: axis={axis!r}")
    if not isinstance(axis, numbers.Integral) or isinstance(axis, bool):
        raise TypeError(f"axis must be an integer. Received: axis={axis!r}")
    return int(axis)


def functions(
    get: Callable[[FunctionName], object], *, optional: bool = False, **arguments: FunctionName
) -> None:
    """Check that Keras's `get` returns a function for each argument; None needs `optional`."""
    for name, value in arguments.items():
        if optional and value is None:
            continue
        try:
            found = get(value) if isinstance(value, str | dict) or callable(value) else None
        except ValueError as error:
            raise ValueError(f"{error} Received: {name}={value!r}") from None
        if not callable(found):
            raise TypeError(
                f"{name} must be a name, a config or a function. Received: {name}={value!r}"
            )
