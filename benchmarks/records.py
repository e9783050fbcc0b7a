"""The hook: one record against one forward pass of its probe."""

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

import kbn
from benchmarks.timing import interleaved


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """Measure the milliseconds of a record of the 3×100 net, and of its probe's forward pass."""
    from kbn.demo import network

    x, y = np.random.default_rng(0).random((200, 64), "float32"), np.zeros(200)
    model = network(64, normalized=True, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        shift = kbn.callbacks.CovariateShift(folder, x, layers="sigmoid_*")
        model.fit(x, y, verbose=0)
        shift.prepare(model)
        forward = tf.function(lambda: model(x, training=False))
        actions = {"kbn": lambda: shift.record(0), "pass": lambda: forward().numpy()}
        times = interleaved(actions, seconds=0.5 if quick else 3)
        yield {"group": "record", "name": "3×100 net, 200 samples", **times}
