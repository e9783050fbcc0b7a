"""Probes of any structure, and what is computed beside the layers."""

import keras
import numpy as np
import pytest

import kbn
from kbn.callbacks import CovariateShift, MovingStatistics
from kbn.callbacks.probing.extraction import Extraction
from kbn.callbacks.probing.loss_probe import LossProbe
from kbn.callbacks.probing.mixed_weights import in_groups, in_order
from kbn.callbacks.probing.probe import Probe
from kbn.callbacks.probing.probe_data import Batch
from kbn.introspection.layer_tree import layer_paths
from kbn.records import tags
from tests.support.callbacks import steps
from tests.support.on_backend import on_tensorflow, tf
from tests.support.warned import user_warnings

X = np.random.default_rng(0).normal(3, 2, (48, 6)).astype("float32")
Y = X[:, :1]
STRUCTURES = {
    "array": (lambda i: i, X),
    "dict": (lambda i: {"a": i}, {"a": X}),
    "list": (lambda i: [i], [X]),
}


def network(inputs=lambda i: i, **options):
    one = keras.Input((6,), name="a")
    x = kbn.BatchNormalization(momentum=0.1, name="bn")(keras.layers.Dense(4, **options)(one))
    return keras.Model(inputs(one), keras.layers.Dense(1)(x))


@pytest.mark.parametrize("cls", [CovariateShift, MovingStatistics])
@pytest.mark.parametrize("with_targets", [False, True])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_inputs_of_any_structure(structure, with_targets, cls, tmp_path):
    inputs, x = STRUCTURES[structure]
    model = network(inputs)
    model.compile("sgd", "mse")
    callback = cls(tmp_path, (x, Y) if with_targets else (x,), every_steps=2)
    with user_warnings() as texts:
        model.fit(x, Y, batch_size=12, verbose=0, callbacks=[callback])
    assert [text for text in texts if "inference will be off" not in text] == []
    assert steps(callback) == [0, 2, 4]
    measures = {row.measure for row in callback.history if row.layer == tags.MODEL}
    assert bool(measures) == (with_targets and cls is MovingStatistics)


def one_per_sample(y, y_pred):
    return keras.ops.mean(keras.ops.square(y - y_pred), -1)


@pytest.mark.parametrize("eagerly", [False, True])
def test_a_loss_that_is_not_a_scalar_costs_only_the_losses(eagerly, tmp_path):
    class PerSample(keras.Model):
        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            return one_per_sample(y, y_pred)

    model = network()
    model = PerSample(model.inputs, model.outputs, name="per_sample")
    model.compile("sgd", run_eagerly=eagerly)
    callback = MovingStatistics(tmp_path, (X, Y), every_steps=1)
    with user_warnings() as texts:
        model.evaluate(X, Y, verbose=0)
        callback.set_model(model)
        callback.on_train_begin()
        callback.on_train_batch_begin(0)
        callback.on_train_end()
    assert texts == [
        "MovingStatistics records the layers without losses: ValueError: MovingStatistics needs a "
        "scalar loss. Choose a reduction such as 'sum_over_batch_size'. Received: a loss of shape "
        "(48,) from 'per_sample'.compute_loss"
    ]
    assert {row.layer for row in callback.history} == {"bn", "record"}
    with pytest.raises(ValueError, match=r"test needs a scalar loss.*a loss of shape \(48,\)"):
        LossProbe(model, Batch(X, Y), "test")


class Beside:
    """Fails in the graph, and later while it is traced."""

    def __init__(self, *, in_the_trace):
        self.arrays, self._in_the_trace = {"x": X}, in_the_trace

    def __call__(self, mapping, arrays, outputs):
        with tf.control_dependencies([tf.debugging.assert_less(arrays["x"], -1e9, "beside")]):
            found = [tf.reduce_mean(outputs)]
        if self._in_the_trace:
            raise ValueError("beside")
        return found


@pytest.mark.parametrize("in_the_trace", [False, True])
@on_tensorflow
def test_what_fails_beside_the_layers_leaves_nothing_in_the_graph(in_the_trace):
    model = network()
    extracted = []

    def extract(mapping, path, call):
        extracted.append(path)
        return [("output", Extraction({"mean": tf.reduce_mean(call.outputs)}, list))]

    beside = Beside(in_the_trace=in_the_trace)
    probe = Probe(model, X, {"bn": model.get_layer("bn")}, extract, beside=beside)
    for _ in range(2):
        (found,) = probe().values()
        assert found["mean"] == pytest.approx(0, abs=1e-5)
        assert "beside" in str(probe.failure)
        assert probe.beside == []
    assert len(extracted) == 2  # traced with it, and without it


@on_tensorflow
def test_what_fails_in_an_eager_run_is_not_tried_again():
    class Once(Beside):
        calls = 0

        def __call__(self, mapping, arrays, outputs):
            self.calls += 1
            if self.calls == 2:
                raise ValueError("beside")
            return [tf.norm(outputs)]

    model, beside = network(), Once(in_the_trace=False)
    probe = Probe(
        model, X, {"bn": model.get_layer("bn")}, lambda *_: [], beside=beside, eagerly=True
    )
    for _ in range(3):
        probe()
        assert (probe.beside, str(probe.failure)) == ([], "beside")
    assert beside.calls == 2


@on_tensorflow
def test_layers_that_fail_are_not_traced_again_at_every_record():
    limits = {"layers": tf.Variable(1e9), "beside": tf.Variable(1e9)}
    model = network()
    traces = []

    def limited(x, by):
        with tf.control_dependencies([tf.debugging.assert_less(x, limits[by], f"{by} fail")]):
            return tf.reduce_mean(x)

    class Limited(Beside):
        def __call__(self, mapping, arrays, outputs):
            return [limited(outputs, "beside")]

    def extract(mapping, path, call):
        traces.append(path)
        return [("output", Extraction({"mean": limited(call.inputs, "layers")}, list))]

    layers = {"bn": model.get_layer("bn")}
    probe = Probe(model, X, layers, extract, beside=Limited(in_the_trace=False))
    limits["layers"].assign(-1e9)
    for _ in range(3):
        with pytest.raises(tf.errors.InvalidArgumentError, match="layers fail"):
            probe()
    assert len(traces) == 2
    limits["layers"].assign(1e9)
    probe()
    assert probe.failure is None
    assert len(probe.beside) == 1
    limits["beside"].assign(-1e9)
    assert len(probe()) == 1
    assert "beside fail" in str(probe.failure)
    assert len(traces) == 2


@pytest.mark.parametrize("number", [1, 2, 3, 9, 30])
def test_the_first_layers_use_the_function_of_the_whole_gradient(number):
    layers = [keras.layers.Dense(3, name=f"d{i}") for i in range(number)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile("sgd", "mse")
    loss = LossProbe(model, Batch(X, X[:, :3]), "test")
    watched, _ = in_order(loss, layer_paths(model))
    functions = []
    only = loss.only
    loss.only = lambda places: functions.append(places) or only(places)
    groups = in_groups(loss, [each for each in watched if each.places])
    assert [each.path for group in groups for each in group.layers] == [
        f"d{i}" for i in range(number)
    ]
    sizes = [len(group.layers) for group in groups]
    assert len(functions) == len(groups) - 1 == min(number, 8) - 1
    assert 1 <= sizes[0] <= max(max(sizes) / 2, 1)


def test_strings_for_a_model_of_numbers(tmp_path):
    words = np.array([["a"] * 6] * 4)
    message = (
        r"The model cannot be run on probe_data: .*string.* Received: probe_data of shape "
        r"\(4, 6\) of strings"
    )
    model = network()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, verbose=0, callbacks=[CovariateShift(tmp_path, words)])
