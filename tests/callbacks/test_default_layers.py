"""Which layers are watched if the user names none: those with trainable weights, by any name."""

import keras
import numpy as np
import pytest
from keras import layers

import kbn
from kbn.callbacks import CovariateShift, GradientShift
from kbn.introspection.layer_tree import layer_paths, select
from tests.support.warned import user_warnings

IMAGES = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype("float32")
STEPS = np.random.default_rng(0).normal(size=(8, 5, 4)).astype("float32")
IDS = np.random.default_rng(0).integers(1, 9, (8, 5))
Y = np.zeros((8, 1), "float32")


class Scale(layers.Layer):
    """A layer of a user, with a weight of its own beside those of an inner layer."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")
        self.inner = layers.Dense(shape[-1], name="inner")
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x) * self.factor


def attention():
    inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    return keras.Model(inputs, layers.Dense(1, name="head")(layers.GlobalMaxPooling1D()(x)))


def stack(layer, shape, pooled=True):
    pools = [layers.Flatten()] if pooled else []
    return keras.Sequential([keras.Input(shape), layer, *pools, layers.Dense(1, name="head")])


CASES = {
    "separable": (
        IMAGES,
        lambda: stack(layers.SeparableConv2D(3, 3, name="it"), (6, 6, 2)),
        ["it"],
    ),
    "separable 1D": (STEPS, lambda: stack(layers.SeparableConv1D(3, 2, name="it"), (5, 4)), ["it"]),
    "depthwise": (IMAGES, lambda: stack(layers.DepthwiseConv2D(3, name="it"), (6, 6, 2)), ["it"]),
    "transpose": (
        IMAGES,
        lambda: stack(layers.Conv2DTranspose(3, 2, name="it"), (6, 6, 2)),
        ["it"],
    ),
    "einsum": (
        STEPS,
        lambda: stack(layers.EinsumDense("abc,cd->abd", (5, 3), name="it"), (5, 4)),
        ["it"],
    ),
    "embedding": (IDS, lambda: stack(layers.Embedding(9, 3, name="it"), (5,)), ["it"]),
    "attention": (
        STEPS,
        attention,
        [f"attention/{part}" for part in ("query", "key", "value", "attention_output")],
    ),
    "user": (STEPS, lambda: stack(Scale(name="it"), (5, 4)), ["it", "it/inner"]),
    "prelu": (STEPS, lambda: stack(layers.PReLU(name="it"), (5, 4)), ["it"]),
    "recurrent": (STEPS, lambda: stack(layers.GRU(3, name="it"), (5, 4), pooled=False), ["it"]),
    "both ways": (
        STEPS,
        lambda: stack(layers.Bidirectional(layers.LSTM(3), name="it"), (5, 4), pooled=False),
        ["it/forward_lstm", "it/backward_lstm"],
    ),
    "each step": (
        STEPS,
        lambda: stack(layers.TimeDistributed(layers.Dense(3), name="it"), (5, 4)),
        ["it"],
    ),
}


@pytest.mark.parametrize("make", [CovariateShift, GradientShift])
@pytest.mark.parametrize("kind", CASES)
@pytest.mark.basic("separable-CovariateShift", "attention-CovariateShift", "user-GradientShift")
def test_layers_are_watched_for_what_they_train(kind, make, tmp_path):
    x, build, expected = CASES[kind]
    model = build()
    model.compile("sgd", "mse")
    callback = make(tmp_path, (x, Y), every_steps=1)
    with user_warnings() as texts:
        model.fit(x, Y, verbose=0, callbacks=[callback])
    assert texts == []
    assert callback.lost_records == 0
    assert {row.layer for row in callback.history} == {*expected, "head", "record"}


def test_frozen_layers_are_not_chosen_if_none_is_normalization():
    model = CASES["separable"][1]()
    model.get_layer("it").trainable = False
    assert [*select(None, layer_paths(model))] == ["head"]
    model.trainable = False
    with pytest.raises(ValueError, match="no normalization layers and no layers with trainable"):
        select(None, layer_paths(model))


@pytest.mark.thorough
def test_gradients_are_those_of_normalization_only_if_there_are_no_others(tmp_path):
    watched = {}
    for frozen in (False, True):
        model = keras.Sequential(
            [keras.Input((4,)), layers.Dense(3, name="dense"), kbn.BatchNormalization(name="bn")]
        )
        model.get_layer("dense").trainable = not frozen
        model.compile("sgd", "mse")
        shift = GradientShift(tmp_path / str(frozen), (STEPS[:, 0], STEPS[:, 1, :3]))
        model.fit(STEPS[:, 0], STEPS[:, 1, :3], verbose=0, callbacks=[shift])
        watched[frozen] = {row.layer for row in shift.history} - {"record"}
    assert watched == {False: {"dense"}, True: {"bn"}}


class WithTeacher(keras.Model):
    """Calls its student in training; an averaged copy, the teacher, only in inference."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = (
            keras.Sequential(
                [
                    keras.Input((4,)),
                    layers.Dense(3, name="dense"),
                    kbn.BatchNormalization(name="bn"),
                ],
                name=name,
            )
            for name in ("student", "teacher")
        )

    def call(self, x, training=False):
        return (self.student if training else self.teacher)(x, training=training)


@pytest.mark.basic("None-*")
@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (None, "inside a loop: 1 of those that are watched by default."),
        ("*/bn", "inside a loop: teacher/bn."),
    ],
)
def test_warnings_name_only_layers_that_the_user_chose(chosen, said, tmp_path):
    model = WithTeacher()
    model.compile("sgd", "mse")
    x, y = STEPS[:, 0], STEPS[:, 1, :3]
    callback = CovariateShift(tmp_path, x, layers=chosen)
    with user_warnings() as texts:
        model.fit(x, y, verbose=0, callbacks=[callback])
    found = [text for text in texts if "cannot be watched" in text]
    assert [text[text.index("inside a loop") :] for text in found] == [said]
    assert {row.layer for row in callback.history} == {"student/bn", "record"}


class WithCritic(keras.Model):
    """Has normalization only in a part that `call` does not use."""

    def __init__(self):
        super().__init__()
        self.net = layers.Dense(3, name="net")
        self.critic = keras.Sequential([keras.Input((4,)), kbn.BatchNormalization(name="bn")])

    def call(self, x):
        return self.net(x)


def test_normalization_that_training_does_not_call_is_not_chosen(tmp_path):
    model = WithCritic()
    model.compile("sgd", "mse")
    x, y = STEPS[:, 0], STEPS[:, 1, :3]
    callback = CovariateShift(tmp_path, x)
    with user_warnings() as texts:
        model.fit(x, y, verbose=0, callbacks=[callback])
    assert [text for text in texts if "in layers" in text] == []
    assert {row.layer for row in callback.history} == {"net", "record"}
