"""Two fits side by side, a few steps of one and a few of the other, in one process.

What slows a machine down lasts for seconds: fits that ran one after the other would differ by it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import keras

Fit = Callable[[keras.callbacks.Callback], object]


class Turn(keras.callbacks.Callback):
    """Lets the other fit run after every `steps` steps.

    Attributes:
        seconds: how long each turn took.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.mine, self.other, self.is_over = threading.Semaphore(0), self, False
        self._steps, self._done, self._begun = steps, 0, 0.0

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Count a step."""
        self._done += 1
        if self._done % self._steps == 0:
            self.end()
            self.begin()

    def begin(self) -> None:
        """Wait for the turn."""
        if not self.other.is_over:
            self.mine.acquire()
        self._begun = time.perf_counter()

    def end(self) -> None:
        """Give it to the other one."""
        self.seconds.append(time.perf_counter() - self._begun)
        self.other.mine.release()


def in_turn(one: Fit, other: Fit, steps: int) -> tuple[list[float], list[float]]:
    """Run two fits, `steps` steps each at a time, and return the seconds of every turn.

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
    return turns[0].seconds, turns[1].seconds


def in_hundreds(seconds: Sequence[float], steps: int, hundred: int = 100) -> list[float]:
    """Return the seconds of every full `hundred` of steps, of turns of `steps` steps each."""
    each = hundred // steps
    return [sum(seconds[i : i + each]) for i in range(0, len(seconds) - each + 1, each)]
