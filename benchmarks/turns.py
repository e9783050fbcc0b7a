"""One fit, with a hook and without it by turns of ten steps.

What slows a machine down lasts for seconds, and two fits that are alike differ by where their
arrays lie: by more than a hook takes. So both are the same fit, some milliseconds apart.
"""

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

TURN = 10  # steps
PERIOD = 2 * TURN  # with the hook, which takes a record in the first of the steps, and without it
WARM = 5  # periods at the beginning that do not count


class ByTurns(keras.callbacks.Callback):
    """Hands a hook every second turn of the steps of a `fit`, and takes the time of each step.

    Attributes:
        laps: how long each step took, in seconds, with what the hook did at its ends.
        calls: seconds that the hook took at the ends of each step that it had.
        in_fit: seconds that the hook took once, around all steps.
        in_epochs: seconds that it took around the epochs, of all of them.
    """

    def __init__(
        self, hook: keras.callbacks.Callback, missed: Callable[[int], object] | None = None
    ) -> None:
        """Hand steps to `hook`, which takes a record every `PERIOD` steps.

        Args:
            hook: the hook.
            missed: tells it how many steps it was not handed, after each turn without it.
        """
        super().__init__()
        self.laps: list[float] = []
        self.calls: list[float] = []
        self.in_fit = self.in_epochs = 0.0
        self._hook, self._missed, self._last = hook, missed, 0.0

    def set_params(self, params: Any) -> None:
        """Hand it on."""
        super().set_params(params)
        self._hook.set_params(params)

    def set_model(self, model: keras.Model) -> None:
        """Hand it on."""
        super().set_model(model)
        self._hook.set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Take the time of it."""
        start = time.perf_counter()
        self._hook.on_train_begin(logs)
        self.in_fit += time.perf_counter() - start

    def on_train_end(self, logs: Any = None) -> None:
        """Take the time of it."""
        start = time.perf_counter()
        self._hook.on_train_end(logs)
        self.in_fit += time.perf_counter() - start

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Take the time of it."""
        start = time.perf_counter()
        self._hook.on_epoch_begin(epoch, logs)
        self._last = time.perf_counter()
        self.in_epochs += self._last - start

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Take the time of it."""
        start = time.perf_counter()
        self._hook.on_epoch_end(epoch, logs)
        self.in_epochs += time.perf_counter() - start

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Hand on a step that has the hook."""
        if self._has_hook():
            start = time.perf_counter()
            self._hook.on_train_batch_begin(batch, logs=logs)
            self.calls.append(time.perf_counter() - start)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Take note of a step."""
        if self._has_hook():
            start = time.perf_counter()
            self._hook.on_train_batch_end(batch, logs=logs)
            self.calls[-1] += time.perf_counter() - start
        self.laps.append(time.perf_counter() - self._last)
        if self._missed and (len(self.laps) + 1) % PERIOD == 0:
            self._missed(TURN)
        self._last = time.perf_counter()

    def _has_hook(self) -> bool:
        """Say whether the step is one of the hook's: the one that reaches a record's is first."""
        return (len(self.laps) + 1) // TURN % 2 == 0

    def usual(self, steps: int) -> tuple[float, float]:
        """Return the seconds that so many steps take, and that a hook adds which records once.

        Each step is taken as it usually is at its place in the period: a stall does not count. The
        steps of a turn behind a record are slower too; to others a hook adds what its calls take,
        which is too little to be seen in the steps.

        Args:
            steps: a multiple of those of a turn.
        """
        whole = (len(self.laps) + 1) // PERIOD - WARM
        periods = np.reshape(self.laps[WARM * PERIOD - 1 :][: whole * PERIOD], (-1, PERIOD))
        recorded, without = np.median(periods, axis=0).reshape(2, TURN).sum(axis=1).tolist()
        calls = float(np.median(self.calls)) if self.calls else 0.0  # of ten, nine have no record
        return steps / TURN * without, recorded - without + (steps - TURN) * calls
