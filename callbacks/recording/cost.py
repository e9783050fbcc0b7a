"""The cost of recording: time and bytes of the records of one `fit`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from kbn.records import catalogue, markdown
from kbn.records.tags import Place

Purpose = Literal["look", "record", "else"]


class Cost:
    """Time spent on records since `fit` began, and bytes written.

    Attributes:
        records: number of records that were taken and written.
        postponed: number of records that were due, and skipped because of the budget.
        seconds: total time, including preparation.
        bytes: bytes written.
        last: seconds of the last record, including the look before its step.
    """

    def __init__(self) -> None:
        self.records = self.postponed = self.bytes = 0
        self.seconds = self.last = 0.0
        self._begun, self._looking = time.perf_counter(), 0.0
        self._usual = 0.0  # seconds of the last record; 0 after the first, which takes longer

    @contextmanager
    def spending(self, on: Purpose = "else") -> Iterator[None]:
        """Add the time spent inside the context."""
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
        """Count one record that was taken and written."""
        self.records += 1

    def postpone(self) -> None:
        """Count one record that was skipped because of the budget."""
        self.postponed += 1

    def wrote(self, size: int) -> None:
        """Add `size` bytes."""
        self.bytes += size

    def affords(self, budget: float | None) -> bool:
        """Return whether one more record like the last keeps the share of time within `budget`.

        The first record is always allowed, because its time is unknown. It takes longer than the
        later ones. So its time counts as time spent, but not as an estimate for the next record.
        """
        if budget is None or not self.last:
            return True
        return self.seconds + self._usual - self._looking <= budget * self._elapsed()

    def share(self) -> float:
        """Return the share of the time since `fit` began that recording took, from 0 to 1."""
        return self.seconds / self._elapsed()

    def of_record(self, size: int) -> dict[Place, dict[str, float]]:
        """Return time and bytes of the last record, which took `size` bytes, as measures."""
        spent = {"milliseconds": 1e3 * self.last, "bytes": size}
        return {Place("record", site): {catalogue.MONITOR: one} for site, one in spent.items()}

    def table(self) -> str:
        """Return all numbers as a Markdown table."""
        each = 1e3 * self.seconds / self.records if self.records else 0.0
        names = "records", "postponed", "ms", "ms per record", "share of training time", "bytes"
        values = (str(self.records), str(self.postponed), f"{1e3 * self.seconds:.1f}",
                  f"{each:.2f}", f"{self.share():.2%}", str(self.bytes))  # fmt: skip
        return markdown.table(names, [values])

    def _elapsed(self) -> float:
        return time.perf_counter() - self._begun
