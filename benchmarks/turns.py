"""One fit, with a callback and without it in alternate turns of ten steps.

A slowdown of the machine lasts for seconds. Two equal fits differ by more than a callback takes,
because their arrays have other addresses. So both sides are measured in the same fit, some
milliseconds apart.
"""

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

TURN = 10  # steps
PERIOD = 2 * TURN  # a turn with the callback, which records in its first step; a turn without
WARM = 5  # the first periods, which do not count


class ByTurns(keras.callbacks.Callback):
    """Passes every second turn of the steps of a `fit` to a callback, and times each step.

    Attributes:
        laps: seconds of each step, including the callback's work at its begin and end.
        calls: seconds of the callback's work in each step that was passed to it.
        in_fit: seconds of the callback's work once per fit.
        in_epochs: seconds of the callback's work once per epoch, summed over epochs.
    """

    def __init__(
        self, callback: keras.callbacks.Callback, missed: Callable[[int], object] | None = None
    ) -> None:
        """Pass steps to `callback`, which takes a record every `PERIOD` steps.

        Args:
            callback: the callback.
            missed: called after each turn without the callback, with the number of its steps.
        """
        super().__init__()
        self.laps: list[float] = []
        self.calls: list[float] = []
        self.in_fit = self.in_epochs = 0.0
        self._callback, self._missed, self._last = callback, missed, 0.0

    def set_params(self, params: Any) -> None:
        """Pass it on."""
        super().set_params(params)
        self._callback.set_params(params)

    def set_model(self, model: keras.Model) -> None:
        """Pass it on."""
        super().set_model(model)
        self._callback.set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Pass it on, and time it."""
        start = time.perf_counter()
        self._callback.on_train_begin(logs)
        self.in_fit += time.perf_counter() - start

    def on_train_end(self, logs: Any = None) -> None:
        """Pass it on, and time it."""
        start = time.perf_counter()
        self._callback.on_train_end(logs)
        self.in_fit += time.perf_counter() - start

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Pass it on, and time it."""
        start = time.perf_counter()
        self._callback.on_epoch_begin(epoch, logs)
        self._last = time.perf_counter()
        self.in_epochs += self._last - start

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Pass it on, and time it."""
        start = time.perf_counter()
        self._callback.on_epoch_end(epoch, logs)
        self.in_epochs += time.perf_counter() - start

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Pass on a step of the callback."""
        if self._has_callback():
            start = time.perf_counter()
            self._callback.on_train_batch_begin(batch, logs=logs)
            self.calls.append(time.perf_counter() - start)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Time the step."""
        if self._has_callback():
            start = time.perf_counter()
            self._callback.on_train_batch_end(batch, logs=logs)
            self.calls[-1] += time.perf_counter() - start
        self.laps.append(time.perf_counter() - self._last)
        if self._missed and (len(self.laps) + 1) % PERIOD == 0:
            self._missed(TURN)
        self._last = time.perf_counter()

    def _has_callback(self) -> bool:
        """Return whether the callback gets the step; its turns begin with the step of a record."""
        return (len(self.laps) + 1) // TURN % 2 == 0

    def usual(self, steps: int) -> tuple[float, float]:
        """Return the seconds of `steps` steps, and the seconds that one record in them adds.

        Each step counts as the median at its position in the period, so that a stall does not
        count. The steps of a turn after a record are slower too. To all other steps the callback
        adds only its calls, which are too short to show in the time of a step.

        Args:
            steps: a multiple of `TURN`.
        """
        whole = (len(self.laps) + 1) // PERIOD - WARM
        periods = np.reshape(self.laps[WARM * PERIOD - 1 :][: whole * PERIOD], (-1, PERIOD))
        recorded, without = np.median(periods, axis=0).reshape(2, TURN).sum(axis=1).tolist()
        calls = float(np.median(self.calls)) if self.calls else 0.0  # of ten, nine have no record
        return steps / TURN * without, recorded - without + (steps - TURN) * calls
