"""Errors of a callback during training: counted, reported by one warning, never raised."""

import logging
from collections.abc import Callable

from kbn.common.warning import warn
from kbn.records import reasons

LOGGER = logging.getLogger("kbn.callbacks")
"""Gets the whole traceback of every error, at level DEBUG."""


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
            LOGGER.debug("%s failed at step %d", self._who, step, exc_info=True)
            self.report(step, reasons.reason(error), losing)

    def report(self, step: int, reason: str, losing: int) -> None:
        """Count lost records, and warn about the first fault.

        Args:
            step: the step of the fault.
            reason: the reason, on one line.
            losing: the number of records lost.
        """
        self.lost_records += losing
        if not self._reported:
            self._reported = True
            warn(
                f"{self._who} failed at step {step} and training goes on: {reason}. "
                f"Lost records: {self.lost_records} so far."
            )

    def sum_up(self) -> None:
        """Warn about the total of lost records, if it grew since the last such warning."""
        if self.lost_records > self._summed_up:
            self._summed_up = self.lost_records
            warn(f"{self._who} lost {self.lost_records} records in all.")
