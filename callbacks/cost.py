"""What watching costs: the time and the bytes of the records of one `fit`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Cost:
    """Time spent on records since `fit` began, and bytes written.

    Attributes:
        records: how many records were taken.
        postponed: how many were due and not taken for want of budget.
        seconds: time spent in all, getting ready included.
        starting: seconds before the first record, for getting ready.
        bytes: bytes written.
        last: seconds of the last record.
    """

    def __init__(self) -> None:
        self.records = self.postponed = self.bytes = 0
        self.seconds = self.last = self.starting = 0.0
        self._begun = time.perf_counter()

    @contextmanager
    def spending(self, *, record: bool = False) -> Iterator[None]:
        """Count the time inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds += spent
            if not self.records and not record:
                self.starting += spent
            if record:
                self.records += 1
                self.last = spent

    def affords(self, budget: float | None) -> bool:
        """Say whether one more record like the last keeps the share of time within `budget`."""
        return budget is None or self.seconds + self.last <= budget * self._elapsed()

    def share(self) -> float:
        """Return the share of the time since `fit` began that watching took, 0 to 1."""
        return self.seconds / self._elapsed()

    def table(self) -> str:
        """Return all of it as a Markdown table."""
        each = 1e3 * self.seconds / self.records if self.records else 0.0
        return "\n".join([
            "| records | postponed | ms | ms per record | share of training time | bytes |",
            "| --- | --- | --- | --- | --- | --- |",
            f"| {self.records} | {self.postponed} | {1e3 * self.seconds:.1f} | {each:.2f} "
            f"| {self.share():.2%} | {self.bytes} |",
        ])  # fmt: skip

    def _elapsed(self) -> float:
        return time.perf_counter() - self._begun
