"""Measure the layer against Keras's and a record against a forward pass, interleaved, in one run.

Run it with nothing else running: `make bench`. Medians and ratios are what to quote.
"""

import os
import tempfile
import time
from collections.abc import Callable
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import kbn

SHAPES = ((32, 56, 56, 64), (64, 7, 7, 512), (256, 1024), (8, 128, 512))
REPEATS = 30


def interleaved(*actions: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Return the median milliseconds of each action, run in turn after a warm-up."""
    times: list[list[float]] = [[] for _ in actions]
    for turn in range(repeats + 3):
        for action, kept in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            if turn >= 3:
                kept.append(1e3 * (time.perf_counter() - start))
    return [median(kept) for kept in times]


def training_step(layer: keras.layers.Layer, x: tf.Tensor) -> Callable[[], object]:
    """Return one compiled forward and backward pass."""
    layer.build(x.shape)

    @tf.function
    def step() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=True) * x)
        return tape.gradient(loss, [x, layer.gamma, layer.beta])

    return lambda: [gradient.numpy().flat[0] for gradient in step()[1:]]


def layer_rows(table: Table) -> None:
    """Add a row per shape: forward and backward, kbn against Keras."""
    for shape in SHAPES:
        x = tf.random.normal(shape)
        ours, theirs = interleaved(
            training_step(kbn.BatchNormalization(), x),
            training_step(keras.layers.BatchNormalization(), x),
        )
        name = "layer " + "×".join(map(str, shape))
        table.add_row(name, f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.2f}")


def record_row(table: Table) -> None:
    """Add a row: one record of the 3×100 net's hook against one forward pass of the probe."""
    from kbn.demo import network

    x, y = np.random.default_rng(0).random((200, 64), "float32"), np.zeros(200)
    model = network(64, normalized=True, seed=0)
    shift = kbn.callbacks.CovariateShift(tempfile.mkdtemp(), x, layers="sigmoid_*")
    model.fit(x, y, verbose=0)
    shift.prepare(model)
    forward = tf.function(lambda: model(x, training=False))
    record, passed = interleaved(lambda: shift.record(0), lambda: forward().numpy())
    table.add_row("record, 3×100 net", f"{record:.2f}", f"{passed:.2f}", f"{record / passed:.2f}")


def main() -> None:
    """Print the table."""
    table = Table(
        "what", "kbn ms", "against ms", "ratio", title="Medians; Keras's layer, forward pass"
    )
    layer_rows(table)
    record_row(table)
    Console().print(table)


if __name__ == "__main__":
    main()
