"""When a record is taken, and which records keep their histograms."""

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from kbn.common import checks

DEFAULT_EVERY_STEPS = 100
HISTOGRAMS_KEPT = 100
"""How many histograms per tag TensorBoard's loader keeps by default."""
_BEFORE_DOUBLING = 90


@dataclass(frozen=True)
class Schedule:
    """The cadence of a callback; exactly one of the three fields is set.

    It has no state: the current step or epoch is an argument.

    Attributes:
        every_steps: a record is due when a multiple of this number is reached or crossed.
        every_epochs: a record is due every this many epochs, at the end of the epoch.
        on_steps: a record is due when one of these steps is reached or crossed; ascending.
    """

    every_steps: int | None = None
    every_epochs: int | None = None
    on_steps: tuple[int, ...] | None = None

    def next_step(self, after: int) -> float:
        """Return the first step after `after` at which a record is due; inf if there is none.

        Several steps may pass at once (`steps_per_execution`), so a record is due when this step
        is reached or crossed.
        """
        if self.every_steps is not None:
            return (after // self.every_steps + 1) * self.every_steps
        steps = self.on_steps or ()
        index = bisect_right(steps, after)
        return steps[index] if index < len(steps) else math.inf

    def due_at_epoch(self, epochs: int) -> bool:
        """Return whether a record is due at the end of epoch number `epochs`, counted from 1."""
        return self.every_epochs is not None and epochs % self.every_epochs == 0

    def expected(self, epochs: int | None, steps: int | None) -> int | None:
        """Return the number of records of a `fit` of `epochs` epochs of `steps` steps, if known."""
        if self.on_steps is not None:
            return len(self.on_steps) + 1
        if epochs is not None and self.every_epochs is not None:
            return epochs // self.every_epochs + 1
        if epochs is not None and steps is not None and self.every_steps is not None:
            return epochs * steps // self.every_steps + 1
        return None


class Thinning:
    """Which records keep their histograms, so that TensorBoard shows all that were written.

    If the length of training is known, every record has one, or every k-th, so that all fits write
    at most 90. If it is unknown, each is at least 8 % later than the one before, counted in
    records: 90 of them reach record 6,000 or so. After these the distance doubles, up to
    `HISTOGRAMS_KEPT`.
    """

    def __init__(self) -> None:
        self._records = self._kept = self._last = self._begun_at = 0
        self._stride: int | None = None

    def begin(self, expected: int | None) -> None:
        """Start a `fit` that takes `expected` records; None if the number is unknown."""
        room = _BEFORE_DOUBLING - self._kept
        fits = expected is not None and room > 0
        self._stride = max(math.ceil((expected or 0) / room), 1) if fits else None
        self._begun_at = self._records

    def keeps(self) -> bool:
        """Count a record, and return whether it keeps its histograms."""
        index, self._records = self._records, self._records + 1
        if self._stride is not None:
            kept = (index - self._begun_at) % self._stride == 0
        else:
            growth = 1.08 if self._kept < _BEFORE_DOUBLING else 2
            kept = self._records >= self._last * growth
        kept = kept and self._kept < HISTOGRAMS_KEPT
        if kept:
            self._kept, self._last = self._kept + 1, self._records
        return kept


def schedule(every_steps: object, every_epochs: object, on_steps: object) -> Schedule:
    """Check the cadence arguments of a callback and return its schedule.

    Raises:
        TypeError, ValueError: for a cadence that is not a positive integer, or more than one.
    """
    given = {"every_steps": every_steps, "every_epochs": every_epochs, "on_steps": on_steps}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        received = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ValueError(
            f"Pass only one of every_steps, every_epochs and on_steps. Received: {received}"
        )
    if not given:
        return Schedule(every_steps=DEFAULT_EVERY_STEPS)
    if on_steps is not None:
        return Schedule(on_steps=_steps(on_steps))
    ((name, value),) = given.items()
    number = checks.integer(name, value, low=1)
    return Schedule(every_steps=number) if name == "every_steps" else Schedule(every_epochs=number)


def _steps(on_steps: object) -> tuple[int, ...]:
    if not isinstance(on_steps, Iterable) or isinstance(on_steps, str | bytes):
        raise TypeError(f"on_steps must be a list of steps. Received: on_steps={on_steps!r}")
    steps = tuple(checks.integer("each of on_steps", step, low=0) for step in on_steps)
    if not steps:
        raise ValueError(f"on_steps must name at least one step. Received: on_steps={on_steps!r}")
    return tuple(sorted(set(steps)))
