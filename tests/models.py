"""Small models of every kind that a hook must watch, with dropout and normalization in each."""

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
    """Hands `training` on to nobody: its layers find it out by themselves, as Keras lets them."""

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


BUILDERS = {"functional": functional, "nested": nested, "subclassed": Subclassed, "shared": shared}


def compiled(kind, **options):
    model = BUILDERS[kind]()
    model.compile("adam", "mse", metrics=["mae"], **options)
    return model
