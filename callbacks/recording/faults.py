"""Errors of a callback during training: counted, reported by one warning, never raised."""

import warnings
from collections.abc import Callable


class Faults:
    """The faults of one callback over all its fits.

    Attributes:
        lost_records: number of records that could not be taken or written.
    """

    def __init__(self, who: str) -> None:
        self.lost_records = 0
        self._who = who
        self._reported = False
        self._summed_up = 0

    def guard(
        self, step: int, action: Callable[..., object], *arguments: object, losing: int = 0
    ) -> None:
        """Run `action` at `step`; if it raises, count `losing` lost records."""
        try:
            action(*arguments)
        except Exception as error:
            self.report(step, f"{type(error).__name__}: {error}", losing)

    def report(self, step: int, reason: str, losing: int) -> None:
        """Count lost records, and warn about the first fault."""
        self.lost_records += losing
        if not self._reported:
            self._reported = True
            warnings.warn(
                f"{self._who} failed at step {step} and training goes on: {reason}. "
                f"Lost records: {self.lost_records} so far.",
                stacklevel=2,
            )

    def sum_up(self) -> None:
        """Warn about the total of lost records, if it grew since the last such warning."""
        if self.lost_records > self._summed_up:
            self._summed_up = self.lost_records
            warnings.warn(f"{self._who} lost {self.lost_records} records in all.", stacklevel=2)
