"""Models that Python alone can run (`run_eagerly=True`) are watched as any other."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

import kbn
from kbn import backend
from kbn.callbacks import CovariateShift
from kbn.callbacks.probing.extraction import Extraction
from kbn.callbacks.probing.loss_probe import LossProbe
from kbn.callbacks.probing.probe import Probe
from kbn.callbacks.probing.probe_data import Batch
from kbn.introspection.layer_tree import layer_paths
from kbn.records import tags
from kbn.records.tags import Place
from tests.support import models
from tests.support.any_model import (
    EVERY_STEP,
    INSIDE,
    SEQUENCES,
    Own,
    assert_recorded,
    assert_right,
    assert_shifted,
    recurrent,
    trained,
    values,
)
from tests.support.callbacks import CALLBACKS, first_step, losses_of_both_modes, steps
from tests.support.on_backend import BACKEND, array, on_tensorflow
from tests.support.replicas import mirrored
from tests.support.warned import user_warnings

pytestmark = pytest.mark.skipif(BACKEND == "jax", reason="JAX runs no Python that reads tensors")

X, Y = models.X, models.Y
PROBING = ("CovariateShift", "GradientShift", "LossLandscape", "MovingStatistics")  # run the model


class PythonAlone(Own):
    """Looks into its tensors, calls `again` as often as they say, and draws dropout masks."""

    def __init__(self):
        super().__init__()
        self.again = layers.Dense(4, activation="tanh", name="again")
        self.dropout = layers.Dropout(0.5, name="dropout")

    def call(self, x, training=False):
        y = self.bn(self.dense(x), training=training)
        for _ in range(1 + int(np.isfinite(array(y)).all())):
            y = self.again(y)
        if training and float(keras.ops.max(x)) > 0:
            self.dropout(y)  # which moves its seed
        return self.head(y)


def python_alone(learning_rate=0.05):
    model = PythonAlone()
    model(X[:2])
    model.compile(keras.optimizers.Adam(learning_rate), "mse", metrics=["mae"], run_eagerly=True)
    return model


def outcome(callbacks):
    """Train, and return the model and everything that training left behind."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(7)
    model = python_alone()
    with user_warnings():
        fitted = model.fit(X, Y, batch_size=20, epochs=2, verbose=0, callbacks=callbacks)
    variables = [array(v) for v in (*model.variables, *model.optimizer.variables)]
    return model, variables, fitted.history


@functools.cache
def plain():
    return outcome([])


@pytest.mark.basic("GradientShift")
@pytest.mark.parametrize("name", CALLBACKS)
def test_training_ends_bit_for_bit_the_same(name, tmp_path):
    call = keras.layers.Layer.__call__
    callback = CALLBACKS[name](tmp_path, (X[:16], Y[:16]), every_steps=1)
    model, variables, history = outcome([callback])
    _, expected, expected_history = plain()
    assert history == expected_history
    for one, other in zip(variables, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert keras.layers.Layer.__call__ is call
    assert model.losses == []
    assert callback.lost_records == 0
    assert steps(callback) == list(range(first_step(name), 7))


@pytest.mark.thorough
def test_records_have_the_numbers_of_the_weights(tmp_path):
    run = trained(python_alone(), tmp_path)
    assert_recorded(run, EVERY_STEP, tmp_path)
    assert_right(run, earlier=("dense", "bn", "again"))
    shift = run.callbacks["CovariateShift"]
    watched = {row.layer for row in shift.history if row.layer != "record"}
    assert watched == {"dense", "bn", "again:0", "again:1", "dropout", "head"}
    y = run.model.bn(run.model.dense(run.probe.x), training=True)
    for number in range(2):
        y = run.model.again(y)
        found = values(shift, f"again:{number}", "output")
        assert found["mean"] == pytest.approx(array(y).mean(), rel=1e-4)


@on_tensorflow
def test_inside_the_scope_of_a_strategy():
    """Keras's own `fit` cannot build such a model there."""
    with mirrored().scope():
        model = python_alone()
        probe = LossProbe(model, Batch(X, Y), "test")
        before = probe.values()
        inside = probe(before), losses_of_both_modes(model, Batch(X, Y))()
    alone = python_alone()
    alone.set_weights(model.get_weights())
    outside = (
        LossProbe(alone, Batch(X, Y), "test")(before),
        losses_of_both_modes(alone, Batch(X, Y))(),
    )
    for one, other in zip(*map(keras.tree.flatten, (inside, outside)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_dropout_masks_are_the_same_in_every_record(tmp_path):
    callback = CovariateShift(tmp_path, X, layers="dropout", every_steps=1)
    python_alone(0.0).fit(X, Y, batch_size=20, verbose=0, callbacks=[callback])
    moved = {row.value for row in callback.history if row.measure == "wasserstein"}
    assert moved == {0.0}


class Deepening(keras.Model):
    """Calls its layer as often as a weight says."""

    def __init__(self):
        super().__init__()
        self.layer = kbn.BatchNormalization(name="layer")
        self.head = layers.Dense(1, name="head")
        self.depth = self.add_weight(shape=(), trainable=False, initializer="ones")

    def call(self, x):
        for _ in range(int(array(self.depth))):
            x = self.layer(x)
        return self.head(x)


@pytest.mark.parametrize("name", CALLBACKS)
def test_records_contain_the_places_that_were_called(name, tmp_path):
    """By the name that they had first."""
    model = Deepening()
    model(X[:2])
    model.compile("sgd", "mse", run_eagerly=True)
    depths = {1: 3, 2: 1, 3: 0}
    deepen = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: model.depth.assign(depths[batch + 1])
    )
    callback = CALLBACKS[name](tmp_path, (X, Y), every_steps=1)
    with user_warnings() as texts:
        model.fit(X, Y, batch_size=20, epochs=1, verbose=0, callbacks=[deepen, callback])
    assert [text for text in texts if "inference will be off" not in text] == []
    assert callback.lost_records == 0
    assert steps(callback) == list(range(first_step(name), 4))
    if name in ("CovariateShift", "MovingStatistics"):
        places = [
            sorted({r.layer for r in callback.history if r.step == step} - {"record", tags.MODEL})
            for step in range(4)
        ]
        assert places == [["layer"], ["layer", "layer:1", "layer:2"], ["layer"], []]


def test_a_missing_place_is_later_compared_with_its_last_record(tmp_path):
    model = Deepening()
    model(X[:2])
    model.compile("sgd", "mse", run_eagerly=True)
    depths = {0: 0, 1: 1, 2: 1}
    deepen = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: model.depth.assign(depths[batch])
    )
    callback = CovariateShift(tmp_path, X, sites="output", every_steps=1)
    with user_warnings():  # Keras's, of weights without a gradient
        model.fit(X, Y, batch_size=20, epochs=1, verbose=0, callbacks=[deepen, callback])
    moved = {row.step: row.value for row in callback.history if row.measure == "wasserstein"}
    assert list(moved) == [0, 2, 3]
    assert moved[0] == 0
    assert moved[2] > 0  # by the first step


@pytest.mark.basic("LSTM")
@pytest.mark.parametrize("kind", INSIDE)
def test_layers_in_the_loop_of_an_rnn_are_left_out(kind, tmp_path):
    """Though Python runs the loop, and the cell once more than there are steps."""
    model = recurrent(kind)
    model.run_eagerly = True
    run = trained(model, tmp_path, SEQUENCES, names=["CovariateShift", "GradientShift"])
    assert_recorded(run, EVERY_STEP, tmp_path, texts=[", ".join(INSIDE[kind])])
    watched = {row.layer for row in run.callbacks["CovariateShift"].history} - {"record"}
    assert watched == {*layer_paths(model)} - {*INSIDE[kind]}
    assert_shifted(run, "head", ("rnn",))


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has a GRU of its own")
def test_layers_of_an_unrolled_rnn_are_recorded_call_by_call(tmp_path):
    inputs = keras.Input((4, 6))
    x = layers.GRU(3, name="rnn", unroll=True)(inputs)
    model = keras.Model(inputs, layers.Dense(1, name="head")(x))
    model.compile("sgd", "mse", run_eagerly=True)
    run = trained(model, tmp_path, SEQUENCES, names=["CovariateShift"])
    watched = {row.layer for row in run.callbacks["CovariateShift"].history} - {"record"}
    assert watched == {"rnn", "head", *(f"rnn/gru_cell:{turn}" for turn in range(4))}


def test_a_failed_look_does_not_affect_later_records():
    model, fails = python_alone(), iter([False, True, False])

    def extract(_, path, call):
        if next(fails):
            raise ArithmeticError("not this time")
        return [
            (
                "output",
                Extraction({"x": call.outputs}, lambda found: [one["x"].shape for one in found]),
            )
        ]

    probe = Probe(model, X, {"bn": model.bn}, extract)
    assert probe.places == [Place("bn", "output")]
    with pytest.raises(ArithmeticError, match="not this time"):
        probe()
    assert probe() == {Place("bn", "output"): (60, 4)}


@pytest.mark.parametrize("name", PROBING)
def test_a_probe_that_eager_models_refuse_raises_before_the_first_step(name, tmp_path):
    callback = CALLBACKS[name](tmp_path / "log", (X[:, :5], Y))
    with pytest.raises(ValueError, match=r"cannot be run on probe_data: .*shape \(60, 5\)"):
        python_alone().fit(X, Y, verbose=0, callbacks=[callback])
    assert not (tmp_path / "log").exists()


def test_outside_a_trace_a_shared_function_runs_unchanged():
    """Else every other number of rows would be traced, and the traces kept."""
    seen = []
    shared = backend.shared(lambda x: seen.append(x) or x)
    for rows in (2, 3, 3):
        assert shared(keras.ops.ones((rows,))).shape == (rows,)
    assert len(seen) == 3
