"""The benchmarks' fits side by side: one runs at a time, and none waits for one that is over."""

import time

import keras
import numpy as np
import pytest

from benchmarks.turns import in_turn, usual_cycle

SECONDS = 0.01


def fit_of(steps, log, name, fail_at=None):
    """Return a fit of so many steps that takes note of each, behind which comes the turn."""
    x = np.ones((steps, 1))

    def step(batch, logs):
        if batch == fail_at:
            raise ValueError("on purpose")
        time.sleep(SECONDS)
        log.append((name, batch))

    def fit(turn):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        note = keras.callbacks.LambdaCallback(on_train_batch_end=step)
        model.fit(x, x, batch_size=1, verbose=0, callbacks=[note, turn])

    return fit


def test_fits_run_in_turn(tmp_path):
    log = []
    one, other = in_turn(fit_of(6, log, "a"), fit_of(6, log, "b"), 2)
    expected = [(name, turn + i) for turn in (0, 2, 4) for name in "ab" for i in (0, 1)]
    assert log == expected
    assert len(one.laps) == len(other.laps) == 6
    assert min(one.laps + other.laps) > SECONDS
    assert min(one.seconds - sum(one.laps), other.seconds - sum(other.laps)) > 0  # what is around


def test_the_longer_one_goes_on_alone():
    log = []
    one, other = in_turn(fit_of(2, log, "a"), fit_of(6, log, "b"), 2)
    assert [len(one.laps), len(other.laps)] == [2, 6]
    assert log[-4:] == [("b", i) for i in (2, 3, 4, 5)]


def test_one_that_fails_ends_and_says_so():
    log = []
    with pytest.raises(ValueError, match="on purpose"):
        in_turn(fit_of(6, log, "a", fail_at=1), fit_of(6, log, "b"), 2)
    assert log[-1] == ("b", 5)


def test_what_happens_in_every_cycle_counts_and_a_stall_does_not():
    laps = [1.0, 1.0, 5.0] * 5 + [1.0]
    laps[4] = 100.0
    assert usual_cycle(laps, 3) == 7.0
