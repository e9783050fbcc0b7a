"""What watching costs: the time and the bytes of the records of one `fit`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from kbn.records import markdown

Purpose = Literal["look", "record", "else"]


class Cost:
    """Time spent on records since `fit` began, and bytes written.

    Attributes:
        records: how many records were taken and written.
        postponed: how many were due and not taken, since the budget did not allow them.
        seconds: time spent in all, getting ready included.
        bytes: bytes written.
        last: seconds of the last record, a look before its step included.
    """

    def __init__(self) -> None:
        self.records = self.postponed = self.bytes = 0
        self.seconds = self.last = 0.0
        self._begun, self._looking = time.perf_counter(), 0.0
        self._usual = 0.0  # seconds of the last record but the first, which takes longer

    @contextmanager
    def spending(self, on: Purpose = "else") -> Iterator[None]:
        """Count the time inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds += spent
            if on == "look":
                self._looking += spent
            elif on == "record":
                self._usual = self._looking + spent if self.last else 0.0
                self.last, self._looking = self._looking + spent, 0.0

    def recorded(self) -> None:
        """Count a record that was taken and written."""
        self.records += 1

    def postpone(self) -> None:
        """Count a record that the budget does not allow."""
        self.postponed += 1

    def wrote(self, size: int) -> None:
        """Count bytes."""
        self.bytes += size

    def affords(self, budget: float | None) -> bool:
        """Return whether one more record like the last keeps the share of time within `budget`.

        The first record is always afforded, since its time is unknown. It takes longer than those
        after it, so it counts as time spent, and not as the time that the next one will take.
        """
        if budget is None or not self.last:
            return True
        return self.seconds + self._usual - self._looking <= budget * self._elapsed()

    def share(self) -> float:
        """Return the share of the time since `fit` began that watching took, 0 to 1."""
        return self.seconds / self._elapsed()

    def table(self) -> str:
        """Return all of it as a Markdown table."""
        each = 1e3 * self.seconds / self.records if self.records else 0.0
        names = "records", "postponed", "ms", "ms per record", "share of training time", "bytes"
        values = (str(self.records), str(self.postponed), f"{1e3 * self.seconds:.1f}",
                  f"{each:.2f}", f"{self.share():.2%}", str(self.bytes))  # fmt: skip
        return markdown.table(names, [values])

    def _elapsed(self) -> float:
        return time.perf_counter() - self._begun
