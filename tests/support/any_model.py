"""Train any model with the callbacks, and check their last records.

The expected numbers are computed from the weights before and after the last call of the training
function, with Keras: by a tape around `compute_loss`, and by `evaluate`.
"""

import math
import re
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import layers

import kbn
from kbn.callbacks.probing.probe_data import Batch
from kbn.records import tags
from tests.support import models
from tests.support.callbacks import CALLBACKS, first_step, open_files, steps
from tests.support.on_backend import array, gradient_of_variables, tensors
from tests.support.warned import user_warnings

X, Y = models.X, models.Y


BATCH, PROBE = 20, 16  # 3 steps an epoch


REGULARIZED = {"kernel_regularizer": "l2", "activity_regularizer": "l1"}


class Own(keras.Model):
    """Built by its first call."""

    of_dense = None

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4, name="dense", **(self.of_dense or {}))
        self.bn = kbn.BatchNormalization(name="bn")
        self.head = layers.Dense(1, name="head")

    def call(self, x, training=False):
        return self.head(self.bn(self.dense(x), training=training))


def functional():
    inputs = keras.Input((6,))
    x = kbn.BatchNormalization(name="bn")(layers.Dense(4, name="dense")(inputs))
    return keras.Model(inputs, layers.Dense(1, name="head")(x))


def compiled(model, optimizer="sgd", loss="mse", **options):
    model.compile(optimizer, loss, **options)
    return model


class Run(NamedTuple):
    """A `fit` with callbacks.

    Attributes:
        model: the model.
        callbacks: its callbacks, by name.
        probe: the probe batch: their data, cut to the probe's size.
        before: all weights before the last call of the training function.
        after: all weights after the last call of the training function.
        texts: the warnings, except for the advice of MovingStatistics.
    """

    model: keras.Model
    callbacks: dict[str, Any]
    probe: Batch
    before: list[np.ndarray]
    after: list[np.ndarray]
    texts: list[str]


def trained(model, folder, x=X, y=Y, weight=None, *, names=CALLBACKS, every_steps=1, **options):
    """Train for two epochs; CovariateShift records all layers."""
    probe = x if y is None else (x, y) if weight is None else (x, y, weight)
    cadence = {"every_steps": every_steps, "probe_size": PROBE}
    callbacks = {name: CALLBACKS[name](folder, probe, **cadence) for name in names}
    if "CovariateShift" in callbacks:
        callbacks["CovariateShift"].layers = "*"
    kept = {}

    class Keep(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            kept.update(before=self.model.get_weights())

        def on_train_batch_end(self, batch, logs=None):
            kept.update(after=self.model.get_weights())

    options = {"batch_size": BATCH, "epochs": 2, "verbose": 0, **options}
    with user_warnings() as texts:
        model.fit(x, y, sample_weight=weight, callbacks=[Keep(), *callbacks.values()], **options)
    texts = [text for text in texts if "inference will be off" not in text]
    cut = keras.tree.map_structure(lambda each: None if each is None else each[:PROBE],
                                   Batch(x, y, weight))  # fmt: skip
    return Run(model, callbacks, cut, kept["before"], kept["after"], texts)


def values(callback, layer, site=tags.PROBE, step=None):
    """Return the measures of a place at a step, or at the last step if `step` is None."""
    step = steps(callback)[-1] if step is None else step
    return {r.measure: r.value for r in callback.history if r[:3] == (step, layer, site)}


def assert_recorded(run, expected, folder, texts=()):
    """Check that training reached its last step, and that each callback recorded every step."""
    assert int(array(run.model.optimizer.iterations)) == expected[-1]
    assert [re.findall("[^:]*$", text.rstrip("."))[0].strip() for text in run.texts] == [*texts]
    assert open_files(folder) == []
    assert {path.name for path in folder.iterdir()} == {
        callback.run for callback in run.callbacks.values()
    }
    for name, callback in run.callbacks.items():
        assert callback.lost_records == 0
        assert steps(callback) == [step for step in expected if step >= first_step(name)]
        assert len(list((folder / callback.run).iterdir())) == 1
        assert [row for row in callback.history if not math.isfinite(row.value)] == []


def assert_right(run, close=1e-3, earlier=("dense", "bn")):
    """Check that the last records have the numbers of the final weights."""
    model, callbacks, probe = run.model, run.callbacks, run.probe
    dense, bn = model.get_layer("dense"), model.get_layer("bn")
    y = array(dense(probe.x)).astype("float32")
    found = values(callbacks["CovariateShift"], "dense", "output")
    assert found["mean"] == pytest.approx(y.mean(), rel=close, abs=close)
    assert found["std"] == pytest.approx(y.std(), rel=close)
    mean, variance = array(bn.moving_mean), array(bn.moving_variance)
    gap = np.abs(y.mean(0) - mean) / np.sqrt(variance + bn.epsilon)
    found = values(callbacks["MovingStatistics"], "bn")
    assert found["mean_gap"] == pytest.approx(gap.mean(), rel=close)
    losses = values(callbacks["MovingStatistics"], tags.MODEL)
    if set(callbacks) != set(CALLBACKS):
        assert losses == {}
        return
    assert losses["loss_inference"] == pytest.approx(evaluated(model, probe), rel=close)
    loss = float(loss_at(model, run.after, probe))
    assert losses["loss_training"] == pytest.approx(loss, rel=close)
    found = values(callbacks["LossLandscape"], tags.MODEL)
    assert found["loss"] == pytest.approx(loss, rel=close)
    assert_shifted(run, "head", earlier, close)


def assert_shifted(run, own, earlier, close=1e-3):
    """Check the last record of GradientShift with mixed weights; `earlier` layers have moved."""
    new = {id(v) for name in earlier for v in run.model.get_layer(name).trainable_variables}
    together = zip(run.model.weights, run.before, run.after, strict=True)
    mixed = [b if id(v) in new else a for v, a, b in together]
    gradients = []
    for weights in (run.before, mixed):
        variables = run.model.get_layer(own).trainable_variables
        run.model.set_weights(weights)
        parts = gradient_of_variables(
            lambda: loss_of(run.model, run.probe), variables, run.model.trainable_variables
        )
        gradients.append(np.concatenate([np.ravel(part).astype("float64") for part in parts]))
    run.model.set_weights(run.after)
    expected = np.linalg.norm(gradients[0] - gradients[1])
    found = values(run.callbacks["GradientShift"], own)
    assert found["gradient_shift"] == pytest.approx(expected, rel=close)
    relative = expected / np.linalg.norm(gradients[0])
    assert found["gradient_shift_relative"] == pytest.approx(relative, rel=close)
    assert relative > 1e-3


def loss_at(model, weights, probe):
    """Set the weights of the model, and return its loss in training mode."""
    model.set_weights(weights)
    loss = loss_of(model, probe)
    model.set_weights(weights)  # because the call changed the moving statistics
    return array(loss)


def loss_of(model, probe):
    """Return the loss of the model in training mode, as a tensor."""
    x, y, weight = (None if part is None else tensors(part) for part in probe)
    return model.compute_loss(x, y, model(x, training=True), weight, training=True)


def evaluated(model, probe):
    """Return the loss that Keras computes for the probe."""
    losses = model.evaluate(
        probe.x, probe.y, batch_size=PROBE, sample_weight=probe.sample_weight, verbose=0
    )
    return float(np.ravel(losses)[0])


# The steps of two epochs of three batches.
EVERY_STEP = [0, 1, 2, 3, 4, 5, 6]

SEQUENCES = np.random.default_rng(0).normal(size=(60, 4, 6)).astype("float32")


def recurrent(kind):
    makers = {
        "LSTM": lambda: layers.Bidirectional(layers.LSTM(3, name="lstm"), name="rnn"),
        "GRU": lambda: layers.GRU(3, name="rnn", unroll=False),
        "TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(3, name="each"), name="rnn"),
    }
    inputs = keras.Input((4, 6))
    x = layers.Flatten(name="flat")(makers[kind]()(inputs))
    return compiled(keras.Model(inputs, layers.Dense(1, name="head")(x)))


INSIDE = {
    "LSTM": ["rnn/forward_lstm/lstm_cell", "rnn/backward_lstm/lstm_cell"],
    "GRU": ["rnn/gru_cell"],
    "TimeDistributed": ["rnn/each"],
}
