"""A cache of values read from event files, because a page requests the same ones repeatedly."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Cache:
    """Values by name, each valid as long as its source has the same stamp.

    Threads may share the cache. If two of them miss a value at the same time, both read it.

    Args:
        most: the largest number of values to keep. If there are more, the least recently used one
            is dropped.
    """

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, tuple[Hashable, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: Hashable, stamp: Hashable, read: Callable[[], T]) -> T:
        """Return the value of `name` if its stamp is `stamp`; otherwise read and keep it."""
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
