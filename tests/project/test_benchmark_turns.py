"""`ByTurns` of the benchmarks: which steps a callback gets, and how its share is computed."""

import keras
import numpy as np
import pytest

from benchmarks.turns import PERIOD, TURN, WARM, ByTurns
from kbn.callbacks import CovariateShift


class Noted(keras.callbacks.Callback):
    """Stores the steps that it gets."""

    def __init__(self):
        super().__init__()
        self.begun, self.ended = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.begun.append(batch)

    def on_train_batch_end(self, batch, logs=None):
        self.ended.append(batch)


def fit(callback, steps, epochs=1):
    x = np.ones((steps, 1))
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(x, x, batch_size=1, epochs=epochs, verbose=0, callbacks=[callback])


def test_a_callback_gets_every_second_turn_which_begins_with_a_record():
    callback = Noted()
    turns = ByTurns(callback)
    fit(turns, 3 * PERIOD)
    expected = [step for step in range(3 * PERIOD) if (step + 1) % PERIOD < TURN]
    assert callback.begun == callback.ended == expected
    assert (len(turns.laps), len(turns.calls)) == (3 * PERIOD, len(expected))


def test_a_hundred_steps_are_computed_from_medians():
    turns = ByTurns(Noted())
    first, with_callback, without = 50.0, 1.25, 1.0
    period = [first, *[with_callback] * (TURN - 1), *[without] * TURN]
    turns.laps = [9.0] * (WARM * PERIOD - 1) + period * 5 + period[:3]
    turns.laps[WARM * PERIOD + 30] = 1000.0  # a stall
    turns.calls = [48.0, *[0.125] * (TURN - 1)] * 5
    hundred, added = turns.usual(100)
    assert hundred == 100 * without
    assert added == pytest.approx(first + 9 * with_callback - TURN * without + 90 * 0.125)


def test_laps_include_the_time_of_the_callback():
    turns = ByTurns(Noted())
    fit(turns, 2 * PERIOD, epochs=2)
    assert min(turns.in_fit, turns.in_epochs, *turns.calls) > 0
    on = [lap for step, lap in enumerate(turns.laps) if (step + 1) % PERIOD < TURN]
    assert all(call < lap for call, lap in zip(turns.calls, on, strict=True))


def test_the_callback_takes_its_records_at_the_first_steps_of_its_turns(tmp_path):
    x = np.ones((8, 1))
    callback = CovariateShift(tmp_path, x, every_steps=PERIOD, layers="*")

    def missed(steps):
        callback.session.steps.calls += steps

    turns = ByTurns(callback, missed)
    fit(turns, 4 * PERIOD, epochs=2)
    steps = sorted({row.step for row in callback.history})
    assert steps == list(range(0, 8 * PERIOD + 1, PERIOD))
    # The callback reads the step once per record, although it gets only every second turn.
    assert callback.session.steps.calls_needed == PERIOD
