"""On which steps records fall, where the optimizer's count does not go on by one."""

import keras
import numpy as np
import pytest

import kbn
from kbn.callbacks import CovariateShift, GradientShift
from tests.support.on_backend import BACKEND

X, Y = np.random.default_rng(0).normal(size=(96, 3)), np.zeros((96, 1))


def steps_of(callback):
    return list(dict.fromkeys(row.step for row in callback.history))


class Stop(keras.callbacks.Callback):
    """Ends the first fit by an error, after so many batches."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise RuntimeError("on purpose")


@pytest.mark.parametrize("kind", [CovariateShift, GradientShift])
@pytest.mark.parametrize("first", ["the callback", "the backup"])
def test_steps_continue_if_the_same_callback_resumes_from_a_backup(first, kind, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), kbn.BatchNormalization()])
    model.compile("sgd", "mse")
    callback = kind(tmp_path / "log", (X, Y), every_steps=4)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    callbacks = (
        [callback, backup, Stop(21)] if first == "the callback" else [backup, callback, Stop(21)]
    )
    options = {"batch_size": 8, "epochs": 4, "verbose": 0, "callbacks": callbacks}
    with pytest.raises(RuntimeError, match="on purpose"):
        model.fit(X, Y, **options)
    before = steps_of(callback)
    assert before[-1] == 20
    model.fit(X, Y, **options)
    found = steps_of(callback)
    assert found == sorted(set(found))
    # The backup is of step 12, of 48 in all.
    assert len(found) - len(before) == pytest.approx(36 / 4, abs=1)


class Hurrying(keras.Sequential):
    """Makes as many steps of each batch as it is told."""

    paces = ()

    def train_step(self, data):
        pace, *self.paces = self.paces
        for _ in range(pace):
            logs = super().train_step(data)
        return logs


@pytest.mark.thorough
@pytest.mark.skipif(BACKEND == "jax", reason="JAX has another signature of train_step")
@pytest.mark.parametrize(("paces", "on_steps", "recorded"), [
    ([*[1] * 90, *[50] * 6], [50, 200], [1, 50]),  # step 50 was looked at, with a record
    ([10, *[1] * 6, 50, 50], [60], [10]),  # step 16 was, without one
])  # fmt: skip
def test_no_gradient_is_compared_with_that_of_an_older_step_than_the_last(
    paces, on_steps, recorded, tmp_path
):
    model = Hurrying([keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    model.paces = paces
    callback = GradientShift(tmp_path, (X, Y), on_steps=on_steps)
    x, y = X[: len(paces)], Y[: len(paces)]
    model.fit(x, y, batch_size=1, verbose=0, callbacks=[callback])
    assert int(model.optimizer.iterations.numpy()) == sum(paces)
    assert steps_of(callback) == recorded
    assert callback.cost.postponed == 1
