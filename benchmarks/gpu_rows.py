"""What `make bench-gpu` measures: bandwidth and error of the layer, `fit`, and the callbacks."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import keras
import numpy as np

import kbn
from benchmarks import callbacks, layers, passes, torch_layers
from benchmarks.passes import BACKEND, BYTES, PASSES
from benchmarks.timing import Action, interleaved
from kbn.common.types import Tensor

BATCH = 128
# Without these, some kernels add in an order that changes from run to run.
DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "TF_DETERMINISTIC_OPS": "1"}
XLA_FLAG = "--xla_gpu_deterministic_ops=true"
# Height, width and channels of activations of ResNet-50 (He et al. 2015, Table 1).
SHAPES = (
    (112, 112, 64),
    (56, 56, 64),
    (56, 56, 256),
    (28, 28, 128),
    (28, 28, 512),
    (14, 14, 256),
    (14, 14, 1024),
    (7, 7, 2048),
)
MODE = {"tensorflow": "xla", "jax": "xla", "torch": "eager"}[BACKEND]
"""How `fit` runs the layer on a GPU."""
DTYPES = ("float32", "bfloat16")
SECONDS = 0.005
"""How long the calls before each wait for the device take together, at least."""


def rows(*, tiny: bool, seconds: float) -> Iterator[dict[str, Any]]:
    """Measure the parts, as long as there is time.

    Args:
        tiny: use small sizes, to try it on a CPU.
        seconds: no row begins later than that. A row "late" then says so.
    """
    shapes = [(2, 3, 3, 4), (2, 2, 2, 8)] if tiny else [(BATCH, *shape) for shape in SHAPES]
    error_shape = (4, 8, 8, 4) if tiny else layers.ERROR_SHAPE
    parts = {
        "error": layers.errors(error_shape),
        "identical": fits(),
        "layer": bandwidths(shapes, 0.01 if tiny else 0.3),
        "record": callbacks.records(quick=True, names=list(callbacks.NETWORKS)[tiny:]),
    }
    end = time.perf_counter() + seconds
    for name, part in parts.items():
        yield from _until(end, name, part)


def _until(end: float, name: str, part: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a part. Stop when the time is over, with a row that says so."""
    waiting = iter(part)
    while time.perf_counter() < end:
        row = next(waiting, None)
        if row is None:
            return
        yield row
    yield {"group": "late", "name": name}


def bandwidths(shapes: Sequence[Sequence[int]], seconds: float) -> Iterator[dict[str, Any]]:
    """Measure milliseconds of each layer, and of a copy (x·2) on the same device."""
    for shape, dtype, what in product(shapes, DTYPES, PASSES):
        x, dy = passes.activations(shape, dtype, 2)
        actions = {"copy": copy_action(x)}
        for name, cls in layers.LAYERS.items():
            layer = passes.built(cls, shape, -1, dtype)
            actions[name] = passes.action(layer, x, dy, MODE, what)
        if BACKEND == "torch":
            actions["torch"] = torch_layers.action(shape, -1, dtype, what, x.device)
        times = several(actions, seconds)
        size = BYTES[dtype] * int(np.prod(shape))
        yield {"group": "bandwidth", "shape": list(shape), "dtype": dtype, "pass": what,
               "bytes": size, **times}  # fmt: skip


def copy_action(x: Tensor) -> Action:
    """Return x·2, which reads and writes a tensor once."""
    if BACKEND == "torch":
        return lambda: x * 2
    if BACKEND == "jax":
        import jax

        return partial(jax.jit(lambda x: x * 2), x)
    import tensorflow as tf

    return partial(tf.function(lambda x: x * 2, jit_compile=True).get_concrete_function(x), x)


def several(actions: dict[str, Action], seconds: float) -> dict[str, float]:
    """Return the median milliseconds of each action, from several calls for each wait."""
    counts = {name: _calls(action) for name, action in actions.items()}
    repeated = {name: partial(_repeat, action, counts[name]) for name, action in actions.items()}
    times = interleaved(repeated, seconds * len(actions))
    return {name: times[name] / counts[name] for name in actions}


def _repeat(action: Action, count: int) -> None:
    for _ in range(count):
        outputs = action()
    passes.wait(outputs)


def _calls(action: Action) -> int:
    """Return how many calls take `SECONDS`."""
    _repeat(action, 2)  # compiles
    start = time.perf_counter()
    _repeat(action, 5)
    return 1 + int(5 * SECONDS / (time.perf_counter() - start))


def fits() -> Iterator[dict[str, Any]]:
    """Compare fits in a process of its own, whose kernels are deterministic."""
    flags = {**DETERMINISTIC, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAG}"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_rows"], env={**os.environ, **flags},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    yield json.loads(done.stdout.strip().splitlines()[-1])


def _compare_fits() -> dict[str, Any]:
    """Compare the weights after two plain fits, and after a fit with all callbacks."""
    if BACKEND == "torch":
        import torch

        torch.use_deterministic_algorithms(True, warn_only=True)
    plain = _weights([])
    probe = callbacks.probe(64, (32, 32, 3))
    with tempfile.TemporaryDirectory() as folder:
        watched = [cls(f"{folder}/{cls.__name__}", probe, every_steps=2)
                   for cls in callbacks.CALLBACKS]  # fmt: skip
        again, seen = _weights([]), _weights(watched)
        counts = [len({row.step for row in each.history}) for each in watched]
    return {"group": "identical", "again": _equal(plain, again), "watched": _equal(plain, seen),
            "records": counts}  # fmt: skip


def _weights(watching: list[keras.callbacks.Callback]) -> list[np.ndarray]:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((32, 32, 3)), keras.layers.Conv2D(16, 3, use_bias=False),
        kbn.BatchNormalization(momentum=0.5), keras.layers.ReLU(), keras.layers.Dropout(0.2),
        keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10),
    ])  # fmt: skip
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = callbacks.probe(256, (32, 32, 3))
    model.fit(x, y, batch_size=32, epochs=1, verbose=0, callbacks=watching)
    return [*model.get_weights()]


def _equal(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


if __name__ == "__main__":
    print(json.dumps(_compare_fits()))
