"""The count of optimizer steps, read as seldom as the schedule allows.

A read costs some 0.1 ms, 5 % of a step of a small network.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Passed:
    """What earlier fits of a model left behind.

    Attributes:
        step: the last step.
        batches: how many batches of training were seen.
        epochs: how many epochs ended.
    """

    step: int = 0
    batches: int = 0
    epochs: int = 0


class Steps:
    """Steps of the optimizer in one `fit`, on an axis that never runs backwards over all fits.

    If this `fit` starts a new count (a model compiled again), the axis goes on from the last step.

    Attributes:
        now: the step at the last read.
        begun_at: the step at which the `fit` began.
        batches: how many batches of training were seen, over all fits.
        batches_of_fit: how many of them in this `fit`.
        calls: how often the training function was called since the last read; add 1 after each
            call, without a method, since that is done at every step.
        calls_needed: before so many the next step of interest is not reached.
        first_is_due: whether the first step of the `fit` is of interest, and not yet seen.
    """

    def __init__(
        self,
        iterations: Callable[[], int],
        next_step: Callable[[int], float],
        passed: Passed,
        *,
        per_call: int = 1,
        length: int | None = None,
    ) -> None:
        """Start a `fit`.

        Args:
            iterations: reads the optimizer's count.
            next_step: takes the step to the next one of interest.
            passed: what earlier fits left behind.
            per_call: how many batches the training function takes at once.
            length: how many batches an epoch has; None if that is unknown.
        """
        self._iterations, self._next_step = iterations, next_step
        self._length, self._per_call, self._pace = length, per_call, per_call
        self._pace_is_known = False
        self._batches_of_epoch = self.batches_of_fit = 0
        self.batches = passed.batches
        self.now = passed.step
        self.calls, self.calls_needed = 0, 1.0
        self.first_is_due = True
        self.begun_at = self.read_anew()

    def epoch_ended(self) -> None:
        """Start counting the batches of another epoch, and read the step."""
        self.read()
        self._batches_of_epoch = 0

    def restart(self) -> None:
        """Begin the `fit` at the step as it is now: another callback may have restored it."""
        self.begun_at = self.read_anew()

    def first_seen(self) -> None:
        """Note that the first step is of no interest any more."""
        self.first_is_due = False

    def read_anew(self) -> int:
        """Return the step; it goes on from the last one if the optimizer's count was set back."""
        self._offset = max(0, self.now - self._iterations())
        return self.read()

    def read(self) -> int:
        """Return the step; `now` is what it was before."""
        before, self.now = self.now, self._iterations() + self._offset
        if self.calls:
            self._pace_is_known = True
            self._pace = max(self._pace, -((before - self.now) // self.calls))
            self._count(self.calls * self._per_call)
        until = self._calls_until(self._next_step(self.now))
        self.calls, self.calls_needed = 0, 1 if self.first_is_due else until
        return self.now

    def _calls_until(self, step: float) -> float:
        """Return how many calls it takes at least to reach `step`.

        A call makes as many steps as an execution has, or as it was seen to make: a `train_step`
        may step several times. Fewer, with accumulated gradients, do no harm. 1 if no call of
        this `fit` was seen.
        """
        return (step - self.now) / self._pace if self._pace_is_known else 1

    def _count(self, batches: int) -> None:
        left = (self._length or 0) - self._batches_of_epoch
        if left > 0:
            batches = min(batches, left)  # the last call of an epoch may have fewer
        self._batches_of_epoch += batches
        self.batches_of_fit += batches
        self.batches += batches
