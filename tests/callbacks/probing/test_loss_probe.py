"""The loss and its gradient at given weights, against what a training step computes."""

import keras
import numpy as np
import pytest

import kbn
from kbn.callbacks.probing.loss_probe import LossProbe
from kbn.callbacks.probing.probe_data import Batch
from tests.support import models
from tests.support.callbacks import losses_of_both_modes
from tests.support.on_backend import assert_close, assert_equal, on_tensorflow, tf
from tests.support.replicas import mirrored

X, Y = models.X[:24], models.Y[:24]
WEIGHT = np.linspace(0.1, 2, 24).astype("float32")


def regular():
    inputs = keras.Input((6,))
    x = keras.layers.Dense(5, kernel_regularizer="l2", activity_regularizer="l1")(inputs)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Dense(1)(x)), X, Y, "mse"


def several():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    x = kbn.BatchNormalization()(keras.layers.Concatenate()([a, b]))
    outputs = {"one": keras.layers.Dense(1, name="one")(x), "two": keras.layers.Dense(3)(x)}
    model = keras.Model({"a": a, "b": b}, outputs)
    y = {"one": Y, "two": np.arange(24) % 3}
    loss = {"one": "mae", "two": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    return model, {"a": X, "b": -X}, y, loss


def embedding():
    model = keras.Sequential([keras.layers.Embedding(9, 4), keras.layers.GlobalAveragePooling1D(),
                              keras.layers.Dense(1)])  # fmt: skip
    return model, np.arange(24 * 3).reshape(24, 3) % 9, Y, "mse"


class WithAddLoss(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        y = self.dense(x)
        self.add_loss(keras.ops.mean(keras.ops.square(y)))
        return y


class OwnLoss(keras.Model):
    """Overrides `compute_loss` as before Keras 3.3, without `training`."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return keras.ops.mean(keras.ops.abs(keras.ops.subtract(y_pred, y)))


KINDS = {
    "regular": regular,
    "several": several,
    "embedding": embedding,
    "add_loss": lambda: (WithAddLoss(), X, None, None),
    "own_loss": lambda: (OwnLoss(), X, Y, None),
}


@pytest.mark.parametrize(
    ("kind", "weighted"),
    [*((kind, False) for kind in KINDS), *((kind, True) for kind in ("regular", "several"))],
)
def test_loss_and_gradient_are_those_of_a_training_step(kind, weighted):
    model, x, y, loss = KINDS[kind]()
    weight = None
    if weighted:
        weight = {"one": WEIGHT, "two": WEIGHT[::-1]} if isinstance(y, dict) else WEIGHT
    options = {"loss_weights": {"one": 0.5, "two": 2.0}} if kind == "several" else {}
    model.compile(keras.optimizers.SGD(1.0), loss, **options)
    probe = LossProbe(model, Batch(x, y, weight), "test")
    before = probe.values()
    found, gradients = probe(before)
    told = model.train_on_batch(x, y, weight)
    assert found == pytest.approx(float(np.ravel(told)[0]), rel=1e-5)
    for gradient, old, new in zip(gradients, before, probe.values(), strict=True):
        assert_close(gradient, old - new, rtol=1e-4, atol=1e-6)


def test_other_weights_are_taken_and_the_models_own_stay():
    model = models.compiled("functional")
    probe = LossProbe(model, Batch(X, Y), "test")
    before = [v.numpy() for v in model.variables]
    other = [value + 0.1 for value in probe.values()]
    moved = probe(other)
    for variable, value in zip(model.variables, before, strict=True):
        assert_equal(variable.numpy(), value)
    for variable, value in zip(probe.variables, other, strict=True):
        variable.assign(value)
    again = probe(probe.values())
    assert moved[0] == again[0]
    assert_equal(np.concatenate([g.ravel() for g in moved[1]]),
                                  np.concatenate([g.ravel() for g in again[1]]))  # fmt: skip


def test_small_gradients_of_half_precision_do_not_vanish():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), lambda y, p: 1e-9 * keras.ops.mean(p, axis=-1))
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    probe = LossProbe(model, Batch(X, Y), "test")
    loss, gradients = probe(probe.values())
    assert np.abs(gradients[0]).max() > 0
    prediction = keras.ops.convert_to_numpy(model(X)).astype("float64")
    assert loss == pytest.approx(1e-9 * prediction.mean(), rel=1e-2)
    # d loss/d bias of the last layer
    assert gradients[-1][0] == pytest.approx(1e-9, rel=1e-2)


class OwnReplica(keras.layers.Layer):
    """Divides by the number of replicas, as a replica counts them."""

    def compute_output_shape(self, shape):  # Keras builds outside of any replica
        return shape

    def call(self, x):
        return x / tf.distribute.get_replica_context().num_replicas_in_sync


def reduced(reduction):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3), OwnReplica(),
                              kbn.BatchNormalization(), keras.layers.Dense(1)])  # fmt: skip
    return model, X, Y, keras.losses.MeanSquaredError(reduction=reduction)


REDUCTIONS = ("sum_over_batch_size", "sum", "mean", "mean_with_sample_weight")
SCALED_AND_NOT = {**KINDS, **{each: lambda each=each: reduced(each) for each in REDUCTIONS}}


@pytest.mark.basic("regular", "sum")
@pytest.mark.parametrize("kind", SCALED_AND_NOT)
@on_tensorflow
def test_inside_the_scope_of_a_strategy_the_loss_is_that_of_one_device(kind):
    """Keras divides some losses by the number of replicas there, and leaves others."""

    def probes(weights=None):
        model, x, y, loss = SCALED_AND_NOT[kind]()
        model.compile("sgd", loss)
        batch = Batch(x, y, WEIGHT if kind in REDUCTIONS else None)
        probe = LossProbe(model, batch, "test")
        if weights is not None:
            model.set_weights(weights)
        both = losses_of_both_modes(model, batch)()
        return model.get_weights(), both, *probe(probe.values())

    with mirrored().scope():
        weights, *inside = probes()
    _, *outside = probes(weights)
    for found, expected in zip(*map(keras.tree.flatten, (inside, outside)), strict=True):
        assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("build", [models.functional, lambda: regular()[0]])
def test_losses_of_both_modes_are_those_of_keras(build):
    model = build()
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)
    losses = losses_of_both_modes(model, Batch(X, Y))
    model.fit(X, Y, verbose=0)  # the weights are those of now
    training, inference = losses()
    told = model.evaluate(X, Y, batch_size=24, verbose=0)
    assert inference == pytest.approx(told, rel=1e-5)
    assert training != pytest.approx(inference, rel=1e-3)


@pytest.mark.parametrize(
    ("build", "batch", "message"),
    [
        (
            lambda m: m.compile("sgd", "mse"),
            Batch(X),
            r"probe_data must have targets: \(x, y\)",
        ),
        (
            lambda m: m.compile("sgd"),
            Batch(X, Y),
            r"the model .* has none. Pass loss= to its compile",
        ),
        (lambda m: m.compile("sgd", "mse"), Batch(X[:, :5], Y), r"cannot be run on probe_data"),
    ],
)
def test_a_model_without_a_loss_raises(build, batch, message):
    model = models.functional()
    build(model)
    with pytest.raises(ValueError, match=message):
        LossProbe(model, batch, "test")


def test_a_model_without_trainable_weights_raises():
    model = models.functional()
    model.trainable = False
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"has no trainable weights. Received: model='functional"):
        LossProbe(model, Batch(X, Y), "test")
