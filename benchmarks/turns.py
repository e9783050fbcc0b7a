"""Two fits side by side, a few steps of one and a few of the other, in one process.

What slows a machine down lasts for seconds: fits that ran one after the other would differ by it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

Fit = Callable[[keras.callbacks.Callback], object]


class Turn(keras.callbacks.Callback):
    """Lets the other fit run after every `steps` steps.

    Attributes:
        laps: how long each step took, in seconds, with all that the callbacks before this one did.
        seconds: of all turns together.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.laps: list[float] = []
        self.seconds = 0.0
        self.mine, self.other, self.is_over = threading.Semaphore(0), self, False
        self._steps, self._begun, self._last = steps, 0.0, 0.0

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Take note of a step."""
        now = time.perf_counter()
        self.laps.append(now - self._last)
        self._last = now
        if len(self.laps) % self._steps == 0:
            self.end()
            self.begin()

    def begin(self) -> None:
        """Wait for the turn."""
        if not self.other.is_over:
            self.mine.acquire()
        self._begun = self._last = time.perf_counter()

    def end(self) -> None:
        """Give it to the other one."""
        self.seconds += time.perf_counter() - self._begun
        self.other.mine.release()


def in_turn(one: Fit, other: Fit, steps: int) -> tuple[Turn, Turn]:
    """Run two fits, `steps` steps each at a time, and return what they took.

    The first turn begins with the call of `fit`, and the last one ends with its return.

    Args:
        one: takes a callback and calls `fit` with it, behind all others.
        other: likewise; of as many steps.
        steps: per turn.
    """
    turns = Turn(steps), Turn(steps)
    turns[0].other, turns[1].other = turns[1], turns[0]

    def run(fit: Fit, turn: Turn) -> None:
        turn.begin()
        try:
            fit(turn)
        finally:
            turn.is_over = True
            turn.end()

    with ThreadPoolExecutor(2) as pool:
        turns[0].mine.release()
        for running in [pool.submit(run, *each) for each in zip((one, other), turns, strict=True)]:
            running.result()
    return turns


def usual_cycle(laps: Sequence[float], steps: int) -> float:
    """Return the seconds of `steps` steps, each as it usually is at its place among so many.

    Where something happens every `steps` steps it is in, and a stall is not.
    """
    whole = len(laps) // steps * steps
    return float(np.median(np.reshape(laps[:whole], (-1, steps)), axis=0).sum())
