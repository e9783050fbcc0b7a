"""The count of optimizer steps, read as rarely as the schedule allows.

A read takes about 0.1 ms, 5 % of a step of a small network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Count(Protocol):
    """The optimizer's count of steps."""

    def __call__(self) -> int:
        """Return the count."""

    def begin(self) -> None:
        """Note the state before the first batch."""

    def is_untouched(self) -> bool:
        """Return whether training has not used the optimizer since `begin`."""


@dataclass(frozen=True)
class Passed:
    """The counts at the end of the earlier fits of a model.

    Attributes:
        step: the last step.
        batches: number of training batches.
        epochs: number of epochs that ended.
    """

    step: int = 0
    batches: int = 0
    epochs: int = 0


class Steps:
    """Steps of the optimizer in one `fit`, on an axis that never runs backwards over all fits.

    If this `fit` starts a new count (because the model was compiled again), the axis continues
    from the last step. If the first call of the training function leaves the optimizer untouched,
    `train_step` uses others, or there is none. Then every batch is a step.

    Attributes:
        now: the step at the last read.
        begun_at: the step at which the `fit` began.
        batches: number of training batches, over all fits.
        batches_of_fit: number of training batches in this `fit`.
        calls: number of calls of the training function since the last read. Add 1 directly after
            each call: this runs at every step, so there is no method for it.
        calls_needed: the smallest number of calls that can reach the next step of interest.
        first_is_due: whether the first step of the `fit` is of interest, and not yet reached.
    """

    def __init__(
        self,
        iterations: Count,
        next_step: Callable[[int], float],
        passed: Passed,
        *,
        per_call: int = 1,
        length: int | None = None,
    ) -> None:
        """Start a `fit`.

        Args:
            iterations: reads the optimizer's count.
            next_step: returns the next step of interest after a step.
            passed: the counts at the end of the earlier fits.
            per_call: number of batches per call of the training function.
            length: number of batches per epoch; None if unknown.
        """
        self._iterations, self._next_step = iterations, next_step
        self._length, self._per_call, self._pace = length, per_call, per_call
        self._pace_is_known = self._counts_batches = False
        self._batches_of_epoch = self.batches_of_fit = 0
        self.batches = passed.batches
        self.now = passed.step
        self.calls, self.calls_needed = 0, 1.0
        self.first_is_due = True
        self.begun_at = self.read_anew()

    def epoch_ended(self) -> None:
        """Read the step, and start counting the batches of the next epoch."""
        self.read()
        self._batches_of_epoch = 0

    def restart(self) -> None:
        """Begin the `fit` at the current step, which another callback may have restored."""
        self.begun_at = self.read_anew()

    def first_seen(self) -> None:
        """Mark the first step as reached."""
        self.first_is_due = False

    def read_anew(self) -> int:
        """Read the step; if the optimizer's count was reset, continue from the last step."""
        self._iterations.begin()
        self._offset = max(0, self.now - self._iterations())
        return self.read()

    def read(self) -> int:
        """Read the step, store it in `now` and return it."""
        before, seen = self.now, self._pace_is_known
        if self.calls:
            self._pace_is_known = True
            self._count(self.calls * self._per_call)
            self._counts_batches = self._counts_batches if seen else self._iterations.is_untouched()
        if self._counts_batches:
            self.now = self.begun_at + self.batches_of_fit
        else:
            self.now = self._iterations() + self._offset
        if self.calls:
            self._pace = max(self._pace, -((before - self.now) // self.calls))
        until = self._calls_until(self._next_step(self.now))
        self.calls, self.calls_needed = 0, 1 if self.first_is_due else until
        return self.now

    def _calls_until(self, step: float) -> float:
        """Return the smallest number of calls that can reach `step`.

        A call is assumed to take as many steps as it has batches, or more if an earlier call took
        more: a `train_step` may step several times. With accumulated gradients, calls take fewer
        steps. Then the step is read more often than necessary, but no step is missed. The result
        is 1 before the first call of this `fit`.
        """
        return (step - self.now) / self._pace if self._pace_is_known else 1

    def _count(self, batches: int) -> None:
        left = (self._length or 0) - self._batches_of_epoch
        if left > 0:
            batches = min(batches, left)  # the last call of an epoch may have fewer
        self._batches_of_epoch += batches
        self.batches_of_fit += batches
        self.batches += batches
