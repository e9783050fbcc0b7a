"""The count of optimizer steps, read as seldom as the schedule allows.

A read costs some 0.1 ms, 5 % of a step of a small network.
"""

from collections.abc import Callable
from typing import Any

import keras


class Steps:
    """Steps of the optimizer over all fits of a model, on an axis that never runs backwards.

    Where a later `fit` starts a new count (a model compiled again), it goes on from the last step.

    Attributes:
        now: the step at the last read.
        batches: how many batches of training were seen, over all fits.
        batches_of_fit: how many of them in this `fit`.
        calls: how often the training function was called since the last read; whoever sees a call
            adds 1 here, since that is done at every step.
        calls_needed: before so many the next step of interest is not reached.
        first_is_due: whether the first step of a `fit` is of interest, and not yet seen.
    """

    def __init__(self, next_step: Callable[[int], float]) -> None:
        """Count from 0.

        Args:
            next_step: takes the step to the next one of interest.
        """
        self.now = self.batches = self.batches_of_fit = 0
        self.calls, self.calls_needed, self._next_step = 0, 1.0, next_step
        self._optimizer: Any = None
        self._offset = self._batches_of_epoch = 0
        self._length: int | None = None
        self._pace = self._per_call = 1
        self._pace_is_known = self.first_is_due = False

    def begin(self, model: keras.Model, length: int | None) -> None:
        """Start a `fit` whose epochs have `length` batches, or nobody knows how many."""
        if self._optimizer is not None:
            self.now = max(self.now, self.read())  # an earlier fit may have raised
        self._optimizer = model.optimizer
        self._pace_is_known = self.first_is_due = False
        self._pace = self._per_call = int(getattr(model, "steps_per_execution", 1) or 1)
        self.batches_of_fit = self._batches_of_epoch = 0
        self._length = length
        self.read_anew()

    def epoch_ended(self) -> None:
        """Start counting the batches of another epoch, and read the step."""
        self.read()
        self._batches_of_epoch = 0

    def stand_still(self, since: int) -> bool:
        """Say whether the step is `since` yet, after as many batches of `fit` as a step takes."""
        inner = getattr(self._optimizer, "inner_optimizer", self._optimizer)
        together = getattr(inner, "gradient_accumulation_steps", None) or 1
        return self.now == since and self.batches_of_fit >= together

    def read_anew(self) -> int:
        """Return the step; it goes on from the last one where the optimizer's was set back."""
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
        may step several times. Fewer, with accumulated gradients, do no harm. 1 where no call of
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

    def _iterations(self) -> int:
        iterations = self._optimizer.iterations  # a tensor where gradients are accumulated
        if isinstance(iterations, keras.Variable):
            iterations = iterations.value.value()  # .numpy() takes twice as long
        return int(iterations)
