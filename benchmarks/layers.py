"""The layer alone: training and inference, over shapes, dtypes and modes."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import keras
import tensorflow as tf

import kbn
from benchmarks import torch_layers
from benchmarks.timing import Action, copy_action, interleaved

# Shape and channel axis.
SHAPES = {
    "2-D": ((256, 1024), -1),
    "3-D": ((8, 128, 512), -1),
    "4-D NHWC, 26 MB": ((32, 56, 56, 64), -1),
    "4-D NHWC, 13 MB": ((32, 28, 28, 128), -1),
    "4-D NHWC, 6 MB": ((64, 7, 7, 512), -1),
    "4-D NHWC, 8 MB": ((128, 32, 32, 16), -1),
    "4-D NCHW, 26 MB": ((32, 64, 56, 56), 1),
    "4-D NCHW, 13 MB": ((32, 128, 28, 28), 1),
    "5-D": ((4, 16, 28, 28, 64), -1),
}
DTYPES = ("float32", "bfloat16")
MODES = ("eager", "graph", "xla")
PASSES = ("training", "inference")
# The fewest reads and writes of activations. In training: x; then x, y; then x, dy; then x, dy, dx.
TRANSFERS = {"training": 8, "inference": 2}


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """Measure each row: milliseconds of kbn, of Keras, of torch, and of copying the activation."""
    names = list(SHAPES)[:2] if quick else list(SHAPES)
    for name, dtype, mode, what in product(names, DTYPES, MODES, PASSES):
        shape, axis = SHAPES[name]
        x = tf.cast(tf.random.stateless_normal(shape, (0, 1)), dtype)
        dy = tf.cast(tf.random.stateless_normal(shape, (2, 3)), dtype)
        actions = {
            "kbn": _action(kbn.BatchNormalization, axis, x, dy, mode, what),
            "keras": _action(keras.layers.BatchNormalization, axis, x, dy, mode, what),
            "copy": copy_action(x.dtype.size * int(tf.size(x))),
        }
        if torch_layers.available():
            actions["torch"] = torch_layers.action(shape, axis, dtype, what)
        times = interleaved(actions, seconds=0.2 if quick else 0.8)
        yield {
            "group": "layer",
            "name": name,
            "shape": list(shape),
            "dtype": dtype,
            "mode": mode,
            "pass": what,
            **times,
            "floor": times["copy"] * TRANSFERS[what] / 2,
        }


def _action(cls: Any, axis: int, x: Any, dy: Any, mode: str, what: str) -> Action:
    policy = "float32" if x.dtype == tf.float32 else f"mixed_{x.dtype.name}"
    layer = cls(axis=axis, dtype=policy)
    layer.build(tuple(x.shape))
    run = _training(layer) if what == "training" else _inference(layer)
    if mode != "eager":
        # Concrete: TensorFlow warns if one line of code is traced for many layers.
        run = tf.function(run, jit_compile=mode == "xla").get_concrete_function(x, dy)
    return lambda: run(x, dy)


def _training(layer: Any) -> Callable[..., Any]:
    def step(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        sources = [x, layer.gamma.value, layer.beta.value]
        return y, tape.gradient(y, sources, output_gradients=dy)

    return step


def _inference(layer: Any) -> Callable[..., Any]:
    return lambda x, dy: layer(x, training=False)  # noqa: ARG005
