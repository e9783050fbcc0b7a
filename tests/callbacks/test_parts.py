"""Parts of models, models without `call`, and losses that are not the ones trained on."""

import copy
import re

import keras
import numpy as np
import pytest
from keras import layers

import kbn
from kbn.callbacks import CovariateShift, MovingStatistics
from kbn.records import catalogue
from tests.support import events
from tests.support.callbacks import CALLBACKS, first_step, steps
from tests.support.on_backend import tf
from tests.support.warned import user_warnings

X = np.random.default_rng(0).normal(3, 2, (64, 8)).astype("float32")
Y = np.zeros((64, 1), "float32")


def encoder():
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(6, name="dense"),
            kbn.BatchNormalization(momentum=0.1, name="bn"),
        ],
        name="net",
    )


class WithoutCall(keras.Model):
    """Contrastive learning: two views of a sample, one network, and no `call`."""

    def __init__(self, optimizer=None):
        super().__init__()
        self.net, self.own_optimizer = encoder(), optimizer

    def train_step(self, data):
        one, two = data
        with tf.GradientTape() as tape:
            apart = self.net(one, training=True) - self.net(two, training=True)
            loss = tf.reduce_mean(tf.square(apart - 1))
        variables = self.net.trainable_variables
        optimizer = self.own_optimizer or self.optimizer
        optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


class WithCall(WithoutCall):
    """Trains on a loss that `compute_loss` does not compute."""

    def call(self, x, training=False):
        return self.net(x, training=training)


def fit(model, *callbacks, epochs=2, y=X):
    model.fit(X, y, batch_size=16, epochs=epochs, verbose=0, callbacks=[*callbacks])


CADENCES = {
    "every_steps": ({"every_steps": 3}, [0, 3, 6]),
    "every_epochs": ({"every_epochs": 1}, [0, 4, 8]),
    "on_steps": ({"on_steps": [2, 5]}, [0, 2, 5]),
}


@pytest.mark.parametrize("own", [False, True], ids=["optimizer of compile", "own optimizer"])
@pytest.mark.parametrize("cadence", CADENCES)
@pytest.mark.parametrize("name", ["CovariateShift", "MovingStatistics"])
@pytest.mark.basic("CovariateShift-*-own*", "MovingStatistics-every_steps-*")
def test_a_model_without_call_is_watched_by_its_part(name, cadence, own, tmp_path):
    options, expected = CADENCES[cadence]
    model = WithoutCall(keras.optimizers.SGD(0.01) if own else None)
    model.compile("sgd")
    callback = CALLBACKS[name](tmp_path, X, model=model.net, **options)
    fit(model, callback)
    assert steps(callback) == expected
    assert {row.layer for row in callback.history} == {"bn", "record"}
    assert callback.lost_records == 0
    settings = events.text(tmp_path / callback.run, catalogue.SETTINGS)
    assert "| watched part | Sequential 'net', 78 parameters |" in settings


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.basic("MovingStatistics")
def test_without_a_part_the_error_names_one(name, tmp_path):
    model = WithoutCall()
    model.compile("sgd")
    message = (
        "WithoutCall has no call, so it cannot be run on data. Pass a part of it as model, "
        "for example model=your_model.net. Received: model="
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(model, CALLBACKS[name](tmp_path / "log", (X, Y)))
    assert not (tmp_path / "log").exists()
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(model, kbn.callbacks.Recalibrate(X))
    with pytest.raises(ValueError, match="WithoutCall has no call"):
        kbn.recalibrate(model, X, verbose=False)


@pytest.mark.thorough
def test_the_part_may_be_a_function_of_the_model(tmp_path):
    shift = CovariateShift(tmp_path / "{trial}", X, model=lambda model: model.net, every_steps=4)
    for _ in range(2):
        model = WithoutCall()
        model.compile("sgd")
        fit(model, shift, epochs=1)
        assert steps(shift) == [0, 4]


@pytest.mark.thorough
def test_a_layer_may_be_the_part(tmp_path):
    class Block(layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.dense, self.bn = layers.Dense(3, name="dense"), kbn.BatchNormalization(name="bn")

        def call(self, x):
            return self.bn(self.dense(x))

    block = Block()
    model = keras.Sequential([block, layers.Dense(1)])
    model.compile("sgd", "mse")
    callbacks = [each(tmp_path, X, model=block) for each in (CovariateShift, MovingStatistics)]
    with user_warnings():
        fit(model, *callbacks, y=Y)
    assert [{row.layer for row in each.history} for each in callbacks] == [{"bn", "record"}] * 2
    loss = CALLBACKS["LossLandscape"](tmp_path, (X, Y), model=block)
    with pytest.raises(ValueError, match="needs the loss, and a layer has none"):
        fit(model, loss, y=Y)


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        ("net", TypeError, "Received: model='net'"),
        (keras.Sequential, TypeError, "or None for the whole model. Received: model=<class"),
    ],
)
@pytest.mark.parametrize("make", [*CALLBACKS.values(), kbn.callbacks.Recalibrate])
def test_wrong_parts_raise_at_construction(make, part, error, message, tmp_path):
    arguments = [X] if make is kbn.callbacks.Recalibrate else [tmp_path, (X, Y)]
    with pytest.raises(error, match=re.escape(message)):
        make(*arguments, model=part)


def test_a_function_that_returns_no_part_raises(tmp_path):
    model = WithoutCall()
    model.compile("sgd")
    with pytest.raises(TypeError, match="must return a model or a layer"):
        fit(model, CovariateShift(tmp_path, X, model=lambda model: None))


@pytest.mark.thorough
def test_a_part_of_a_model_that_runs_eagerly_runs_eagerly(tmp_path):
    class Python(layers.Layer):
        def call(self, x):
            return x * float(np.asarray(x).shape[0] > 0)  # needs a value, so it cannot be traced

    model = WithoutCall()
    model.net = keras.Sequential([layers.Dense(3), Python(), kbn.BatchNormalization(name="bn")])
    model.compile("sgd", run_eagerly=True)
    shift = CovariateShift(tmp_path, X, model=model.net, layers="bn")
    fit(model, shift, epochs=1)
    assert {row.layer for row in shift.history} == {"bn", "record"}


def test_something_else_than_a_part_raises(tmp_path):
    model = WithoutCall()
    model.compile("sgd")
    shift = CovariateShift(tmp_path / "log", X, model=model.net)
    message = (
        "model must be a part of the model that is trained. A copy of a callback has a copy of its "
        "part: pass a function from the trained model to the part, such as "
        "model=lambda model: model.encoder. Received: model='net', which shares no layer with"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(model, copy.deepcopy(shift))
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(model, CovariateShift(tmp_path / "log", X, model=encoder()))


def test_a_part_may_be_made_of_the_layers_of_the_model(tmp_path):
    inputs = keras.Input((8,))
    x = layers.Dense(4, name="dense")(inputs)
    model = keras.Model(inputs, layers.Dense(1, name="head")(kbn.BatchNormalization(name="bn")(x)))
    model.compile("sgd", "mse")
    part = lambda model: keras.Model(model.inputs, model.get_layer("bn").output)  # noqa: E731
    shift = CovariateShift(tmp_path, X, model=part, every_steps=4)
    for _ in range(2):
        fit(model, shift, y=Y, epochs=1)
    assert steps(shift) == [0, 4, 8]


@pytest.mark.thorough
def test_a_single_layer_may_be_the_part(tmp_path):
    model = encoder()
    model.compile("sgd", "mse")
    shift = CovariateShift(tmp_path, X, model=model.get_layer("dense"), every_steps=4)
    fit(model, shift, y=X[:, :6])
    assert {row.layer for row in shift.history} == {"dense", "record"}


@pytest.mark.thorough
def test_the_error_names_parts_in_lists_and_dicts(tmp_path):
    model = WithoutCall()
    model.net, model.nets, model.blocks = None, {"g": encoder()}, [encoder(), encoder()]
    model.compile("sgd")
    message = r"such as model=your_model.nets\['g'\]|with the parts .*nets\['g'\].*blocks\[0\]"
    with pytest.raises(ValueError, match=message):
        fit(model, CovariateShift(tmp_path, X))


@pytest.mark.thorough
def test_recalibration_of_a_part(tmp_path):
    model = WithoutCall()
    model.compile("sgd")
    fit(model, kbn.callbacks.Recalibrate(X, model=lambda model: model.net))
    expected = model.net.get_layer("dense")(X).numpy().mean(0)
    np.testing.assert_allclose(model.net.get_layer("bn").moving_mean, expected, rtol=1e-4)


@pytest.mark.basic("MovingStatistics")
@pytest.mark.parametrize("name", ["LossLandscape", "GradientShift", "MovingStatistics"])
def test_a_loss_that_is_not_trained_on_is_said_to_be_so(name, tmp_path):
    model = WithCall()
    model.compile("sgd", "mse")
    callback = CALLBACKS[name](tmp_path, (X, X[:, :6]), every_steps=4)
    with user_warnings() as texts:
        fit(model, callback)
    said = (
        f"the loss of {model.name!r}.compute_loss, which its train_step does not call as far as "
        "its code shows, so training may use another one"
    )
    assert texts == [f"{name} records {said}."]
    assert steps(callback)[0] == first_step(name)
    assert callback.lost_records == 0
    settings = events.text(tmp_path / callback.run, catalogue.SETTINGS)
    assert f"| loss | {said} |" in settings


@pytest.mark.basic("LossLandscape")
@pytest.mark.parametrize("name", ["LossLandscape", "GradientShift", "MovingStatistics"])
def test_the_loss_of_a_part_is_said_to_be_the_part_s(name, tmp_path):
    model = WithoutCall()
    model.compile("sgd")
    model.net.compile("sgd", "mse")
    callback = CALLBACKS[name](tmp_path, (X, X[:, :6]), model=model.net, every_steps=4)
    with user_warnings() as texts:
        fit(model, callback)
    said = f"the loss of the part 'net', not the one that {model.name!r} trains on"
    assert texts == [f"{name} records {said}."]
    assert callback.lost_records == 0


@pytest.mark.parametrize("name", ["LossLandscape", "GradientShift"])
def test_the_losses_of_a_part_s_regularizers_are_not_the_loss(name, tmp_path):
    model = WithoutCall()
    model.net.get_layer("dense").kernel.regularizer = keras.regularizers.L2()
    model.compile("sgd")
    callback = CALLBACKS[name](tmp_path / "log", (X, X[:, :6]), model=model.net)
    message = f"{name} needs the loss, .* with regularizers and trained by a loop or another model"
    with pytest.raises(ValueError, match=message):
        fit(model, callback)


def fails_in_the_graph(y, y_pred):
    with tf.control_dependencies([tf.debugging.assert_less(y, 0.0, "labels must be negative")]):
        return tf.reduce_mean(y_pred)


def refuses_the_shape(y, y_pred):
    return tf.reduce_mean(tf.ensure_shape(y, (None, 7)) + y_pred)


@pytest.mark.basic("fails*")
@pytest.mark.parametrize(
    ("loss", "reason"), [(fails_in_the_graph, "labels must be negative"), (refuses_the_shape, "7")]
)
def test_layers_are_recorded_although_the_loss_refuses_the_labels(loss, reason, tmp_path):
    model = WithCall()
    model.compile("sgd", loss)
    callback = MovingStatistics(tmp_path, (X, Y), every_steps=4)
    with user_warnings() as texts:
        fit(model, callback)
    (text,) = [text for text in texts if "without losses" in text]
    assert text.startswith("MovingStatistics records the layers without losses: ")
    assert reason in text
    assert "\n" not in text
    assert len(text) < 500
    assert steps(callback) == [0, 4, 8]
    assert {row.layer for row in callback.history} == {"net/bn", "record"}
    assert callback.lost_records == 0
