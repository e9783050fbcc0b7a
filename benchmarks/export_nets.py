"""Small nets with normalization layers in every place where converters may fold them."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

Normalization = Callable[..., keras.layers.Layer]
"""Keras's layer or kbn's, or a function that returns one; it takes Keras's arguments."""
Net = Callable[[Normalization], list[keras.layers.Layer]]

SEED = 0
FLAT, SEQUENCE, IMAGE, VOLUME = (16,), (12, 8), (8, 8, 8), (4, 4, 4, 8)


class _Residual(layers.Layer):
    """A block with a shortcut, and normalization after the sum."""

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.convolution, self.normalization = _conv2d(), normalization()

    def call(self, x: Any) -> Any:
        return keras.ops.relu(self.normalization(x + self.convolution(x)))


class _Subclassed(layers.Layer):
    """Layers of a user's own, one of them shared."""

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.first, self.second = layers.Dense(32), layers.Dense(32)
        self.normalization = normalization()

    def call(self, x: Any) -> Any:
        x = keras.ops.relu(self.normalization(self.first(x)))
        return keras.ops.relu(self.normalization(self.second(x)))


def _dense() -> keras.layers.Layer:
    return layers.Dense(32)


def _conv2d(**options: Any) -> keras.layers.Layer:
    return layers.Conv2D(options.pop("filters", 8), 3, padding="same", **options)


def _twice(*makers: Callable[[], keras.layers.Layer]) -> list[keras.layers.Layer]:
    return [make() for _ in range(2) for make in makers]


def _after(layer: type[keras.layers.Layer], *arguments: Any, **options: Any) -> Net:
    """Return a net of two blocks: `layer`, normalization, ReLU."""
    return lambda norm: _twice(lambda: layer(*arguments, **options), norm, layers.ReLU)


SAME: dict[str, Any] = {"padding": "same"}
# Each net has a name, the shape of a sample, and a function that makes its layers.
NETS: dict[str, tuple[tuple[int, ...], Net]] = {
    "Dense, sigmoid": (
        FLAT,
        lambda norm: _twice(_dense, norm, lambda: layers.Activation("sigmoid")),
    ),
    "Dense, ReLU": (FLAT, _after(layers.Dense, 32)),
    "Dense without bias": (FLAT, _after(layers.Dense, 32, use_bias=False)),
    "Conv1D": (SEQUENCE, _after(layers.Conv1D, 16, 3)),
    "Conv2D": (IMAGE, _after(layers.Conv2D, 16, 3, **SAME)),
    "Conv2D without bias": (IMAGE, _after(layers.Conv2D, 16, 3, use_bias=False, **SAME)),
    "Conv3D": (VOLUME, _after(layers.Conv3D, 8, 3, **SAME)),
    "DepthwiseConv1D": (SEQUENCE, _after(layers.DepthwiseConv1D, 3)),
    "DepthwiseConv2D": (IMAGE, _after(layers.DepthwiseConv2D, 3, **SAME)),
    "SeparableConv1D": (SEQUENCE, _after(layers.SeparableConv1D, 16, 3)),
    "SeparableConv2D": (IMAGE, _after(layers.SeparableConv2D, 16, 3, **SAME)),
    "SeparableConv2D without bias": (
        IMAGE,
        _after(layers.SeparableConv2D, 16, 3, use_bias=False, **SAME),
    ),
    "Conv1DTranspose": (SEQUENCE, _after(layers.Conv1DTranspose, 8, 3, **SAME)),
    "Conv2DTranspose": (IMAGE, _after(layers.Conv2DTranspose, 8, 3, **SAME)),
    "Conv3DTranspose": (VOLUME, _after(layers.Conv3DTranspose, 4, 3, **SAME)),
    "inputs, flat": (FLAT, lambda norm: [norm(), *_twice(_dense, layers.ReLU, norm)]),
    "inputs, images": (IMAGE, lambda norm: [norm(), _conv2d(), norm(), layers.ReLU(), _conv2d()]),
    "Flatten": (IMAGE, lambda norm: [layers.Flatten(), norm(), _dense(), norm(), layers.ReLU()]),
    "GlobalAveragePooling2D": (
        IMAGE,
        lambda norm: [_conv2d(), layers.GlobalAveragePooling2D(), norm(), _dense()],
    ),
    "sum of two branches": (IMAGE, lambda norm: [_Residual(norm), _Residual(norm)]),
    "no beta": (FLAT, lambda norm: _twice(_dense, lambda: norm(center=False), layers.ReLU)),
    "no gamma": (FLAT, lambda norm: _twice(_dense, lambda: norm(scale=False), layers.ReLU)),
    "two in a row": (SEQUENCE, lambda norm: [layers.Conv1D(16, 3), norm(), norm(), layers.ReLU()]),
    "shared, subclassed": (FLAT, lambda norm: [_Subclassed(norm)]),
    "renorm": (FLAT, lambda norm: _twice(_dense, lambda: norm(renorm=True), layers.ReLU)),
    "nested": (FLAT, lambda norm: [keras.Sequential([_dense(), norm()]), layers.ReLU()]),
    "TimeDistributed": (
        SEQUENCE,
        lambda norm: [layers.Dense(32), layers.TimeDistributed(norm()), layers.ReLU()],
    ),
    "recurrent": (
        (4, 8),
        lambda norm: [
            layers.SimpleRNN(16, return_sequences=True, unroll=True), norm(), layers.Dense(32),
        ],
    ),
    "sequences, axis=1": (SEQUENCE, lambda norm: [norm(axis=1), layers.Conv1D(16, 3)]),
    "images, axis=1": (IMAGE, lambda norm: [norm(axis=1), layers.Flatten(), _dense()]),
}  # fmt: skip


def build(net: str, normalization: Normalization, batch: int | None) -> keras.Model:
    """Return a net with random weights and statistics, the same for every normalization.

    Args:
        net: a name in `NETS`.
        normalization: what makes the normalization layers.
        batch: the batch size, or None for any.
    """
    shape, layers_of = NETS[net]
    keras.backend.clear_session()  # Equal names of layers, because names are part of a file.
    keras.utils.set_random_seed(SEED)
    inputs = keras.Input(shape, batch_size=batch)
    model = keras.Model(inputs, keras.Sequential(layers_of(normalization))(inputs))
    rng = np.random.default_rng(SEED)
    for weight in model.weights:
        if weight.name == "moving_variance":
            weight.assign(rng.uniform(0.5, 2, weight.shape))
        elif len(weight.shape) == 1:  # biases, beta, gamma and means
            weight.assign(rng.normal(1.0 if weight.name == "gamma" else 0.0, 0.2, weight.shape))
    return model


def samples(net: str, count: int) -> np.ndarray:
    """Return `count` inputs for a net, of float32."""
    shape, _ = NETS[net]
    return np.random.default_rng(SEED).normal(size=(count, *shape)).astype("float32")
