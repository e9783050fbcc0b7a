"""Small models of every kind that callbacks support, each with dropout and normalization."""

import keras
import numpy as np
from keras import layers

import kbn

X = np.random.default_rng(0).normal(1, 2, (60, 6)).astype("float32")
Y = (X.sum(axis=1, keepdims=True) > 6).astype("float32")


def _stack():
    return [
        layers.Dense(5, use_bias=False, name="dense"),
        kbn.BatchNormalization(name="bn"),
        layers.ReLU(name="relu"),
        layers.Dropout(0.5, name="dropout"),
    ]


class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = _stack()

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


class Subclassed(keras.Model):
    """Does not pass `training` to its layers. They get it from Keras's call context."""

    def __init__(self):
        super().__init__()
        self.blocks = [Block(name="one"), Block(name="two")]
        self.head = layers.Dense(1, name="head")

    def call(self, x, training=False):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def functional():
    inputs = x = keras.Input((6,))
    for part in _stack():
        x = part(x)
    return keras.Model(inputs, layers.Dense(1, name="head")(x))


def nested():
    inputs = keras.Input((6,))
    inner = keras.Sequential([layers.Input((6,)), *_stack()], name="inner")
    return keras.Model(inputs, layers.Dense(1, name="head")(inner(inputs)))


def shared():
    inputs = x = keras.Input((6,))
    twice = layers.Dense(6, activation="tanh", name="twice")
    for _ in range(2):
        x = layers.Dropout(0.2)(kbn.BatchNormalization()(twice(x)))
    return keras.Model(inputs, layers.Dense(1, name="head")(x))


def multi_input():
    """Takes a dict of two inputs, and has two outputs with a loss each."""
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    x = layers.Concatenate()([layers.Dense(3, name="left")(a), layers.Dense(3, name="right")(b)])
    for part in _stack():
        x = part(x)
    heads = {"one": layers.Dense(1, name="one")(x), "two": layers.Dense(1, name="two")(x)}
    return keras.Model({"a": a, "b": b}, heads)


BUILDERS = {"functional": functional, "nested": nested, "subclassed": Subclassed, "shared": shared}


EVERY_KIND = {**BUILDERS, "multi_input": multi_input}


def data(kind, size=None):
    """Return x and y for a model of this kind."""
    x, y = X[:size], Y[:size]
    return ({"a": x, "b": -x}, {"one": y, "two": 1 - y}) if kind == "multi_input" else (x, y)


def compiled(kind, **options):
    model = EVERY_KIND[kind]()
    metrics = {"one": ["mae"]} if kind == "multi_input" else ["mae"]
    model.compile("adam", "mse", metrics=metrics, **options)
    return model
