"""kbn's compiled library, which several backends use on CPUs."""

import ctypes
import functools
import importlib.util
import os
from typing import NamedTuple

FUNCTIONS = "kbn_register", "kbn_normalize", "kbn_gradients", "kbn_set_threads", "kbn_use_openmp"


class Library(NamedTuple):
    """The library, or why it cannot be used.

    Attributes:
        functions: the loaded library; None if it cannot be used.
        reason: why it cannot be used, as a readable clause; "" if it can.
    """

    functions: ctypes.CDLL | None
    reason: str = ""


@functools.cache
def load() -> Library:
    """Load the library, once per process, unless `KBN_NATIVE=0` is set in the environment."""
    if os.environ.get("KBN_NATIVE") == "0":
        return Library(None, "KBN_NATIVE=0 is set")
    found = importlib.util.find_spec("kbn._native")
    if found is None or found.origin is None:
        return Library(None, "kbn was installed without a C++ compiler")
    try:
        functions = ctypes.CDLL(found.origin)
        for name in FUNCTIONS:
            getattr(functions, name)
    except (OSError, AttributeError) as error:
        return Library(None, f"kbn's library cannot be loaded: {error}")
    return Library(functions)


def cpus() -> int:
    """Return how many CPUs this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return allowed or 1
