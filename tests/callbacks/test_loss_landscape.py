"""LossLandscape against the closed form of a quadratic loss."""

import re

import keras
import numpy as np
import pytest

from kbn.callbacks import LossLandscape
from kbn.records import tags
from tests.support import models

X, Y = models.X, models.Y
H = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]])
THETA = np.array([1.0, -2.0, 0.5])


class Quadratic(keras.Model):
    """L = ½ θᵀHθ, whatever the input is."""

    def __init__(self, theta, hessian):
        super().__init__()
        self.theta = self.add_weight(shape=(len(theta),), name="theta")
        self.theta.assign(theta)
        self.hessian = hessian.astype("float32")
        self.built = True

    def call(self, x):
        return keras.ops.sum(x) * 0 + self.theta

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 0.5 * keras.ops.sum(y_pred * keras.ops.matmul(self.hessian, y_pred))


def measured(callback, step=0):
    return {
        row.measure: row.value
        for row in callback.history
        if row.step == step and row.layer == tags.MODEL
    }


@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_a_quadratic_has_its_known_answers(rate, tmp_path):
    model = Quadratic(THETA, H)
    model.compile(keras.optimizers.SGD(rate))
    callback = LossLandscape(tmp_path, X, every_steps=1, step_range=(0.5, 4), points=6)
    model.fit(X, verbose=0, batch_size=60, callbacks=[callback])
    found = measured(callback)
    g = H @ THETA
    along, size = np.linalg.norm(H @ g), np.linalg.norm(g)
    losses = [0.5 * t @ H @ t for t in (THETA - a * g for a in rate * np.geomspace(0.5, 4, 6))]
    assert found["loss"] == pytest.approx(0.5 * THETA @ H @ THETA, rel=1e-6)
    assert found["gradient_norm"] == pytest.approx(size, rel=1e-6)
    assert found["beta_smoothness"] == pytest.approx(along / size, rel=1e-5)
    assert found["predictiveness_lowest"] == pytest.approx(0.5 * rate * along, rel=1e-5)
    assert found["predictiveness_highest"] == pytest.approx(4 * rate * along, rel=1e-5)
    assert found["loss_lowest"] == pytest.approx(min(losses), rel=1e-5)
    assert found["loss_highest"] == pytest.approx(max(losses), rel=1e-5)


def test_in_one_dimension_the_loss_shrinks_as_it_should(tmp_path):
    h, rate = 3.0, 0.1
    model = Quadratic(np.array([2.0]), np.array([[h]]))
    model.compile(keras.optimizers.SGD(rate))
    callback = LossLandscape(tmp_path, X, every_steps=1, step_range=(1, 2), points=2)
    model.fit(X, verbose=0, batch_size=60, callbacks=[callback])
    found = measured(callback)
    expected = [0.5 * h * 4 * (1 - alpha * h) ** 2 for alpha in (rate, 2 * rate)]
    assert found["loss_highest"] == pytest.approx(expected[0], rel=1e-5)
    assert found["loss_lowest"] == pytest.approx(expected[1], rel=1e-5)


def test_a_learning_rate_of_0_does_not_change_the_loss(tmp_path):
    model = models.functional()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    callback = LossLandscape(tmp_path, (X, Y))
    model.fit(X, Y, verbose=0, callbacks=[callback])
    found = measured(callback)
    assert found["loss"] == found["loss_lowest"] == found["loss_highest"]
    assert found["predictiveness_highest"] == 0
    assert np.isnan(found["beta_smoothness"])


def test_the_range_follows_a_schedule_of_learning_rates(tmp_path):
    model = Quadratic(THETA, H)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.01])
    model.compile(keras.optimizers.SGD(schedule))
    callback = LossLandscape(tmp_path, X, every_steps=1, step_range=np.array([1.0, 4.0]))
    model.fit(X, verbose=0, batch_size=20, callbacks=[callback])
    first, last = measured(callback, 0), measured(callback, 3)
    ratio = [each["predictiveness_highest"] / each["gradient_norm"] for each in (first, last)]
    assert 5 < ratio[0] / ratio[1] < 20


def test_weights_stay(tmp_path):
    model = models.functional()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    before = model.get_weights()[:2]
    model.fit(X, Y, verbose=0, callbacks=[LossLandscape(tmp_path, (X, Y), every_steps=1)])
    for old, new in zip(before, model.get_weights()[:2], strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"step_range": (0, 1)}, ValueError, "Received: each of step_range=0"),
        ({"step_range": (2, 1)}, ValueError, "0 < smallest < largest. Received: step_range=(2, 1)"),
        ({"step_range": 3}, TypeError, "Received: step_range=3"),
        ({"step_range": np.ones(3)}, TypeError, "Received: step_range=array([1., 1., 1.])"),
        ({"points": 1}, ValueError, "points must be an integer of at least 2. Received: points=1"),
        ({"budget": 0}, ValueError, "Received: budget=0"),
        ({"json_lines": 1}, TypeError, "Received: json_lines=1"),
    ],
)
def test_wrong_arguments_raise_at_construction(options, error, message, tmp_path):
    with pytest.raises(error, match=re.escape(message)):
        LossLandscape(tmp_path, (X, Y), **options)
