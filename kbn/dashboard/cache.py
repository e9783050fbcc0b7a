"""What was read of late is kept, because one page asks for the same numbers several times."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Cache:
    """Readings by name, each for as long as its source bears the same stamp.

    Threads may share it; two that miss at once both read.

    Args:
        most: readings that are kept; of more, those that were not asked for the longest go.
    """

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, tuple[Hashable, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: Hashable, stamp: Hashable, read: Callable[[], T]) -> T:
        """Return what is kept under `name` if `stamp` is the one it was kept with, else read it."""
        with self._lock:
            known, value = self._kept.get(name, (None, None))
        if known is None or known != stamp:
            value = read()
        with self._lock:
            self._kept[name] = stamp, value
            self._kept.move_to_end(name)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return value
