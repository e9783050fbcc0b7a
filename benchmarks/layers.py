"""The layer alone: training and inference, over shapes, dtypes and modes; and how exact it is."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import keras
import numpy as np

import kbn
from benchmarks import passes, torch_layers
from benchmarks.passes import BACKEND, BYTES, MODES, PASSES
from benchmarks.timing import Action, copy_action, interleaved
from kbn import backend

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
# The fewest reads and writes of activations. In training: x; then x, y; then x, dy; then x, dy, dx.
TRANSFERS = {"training": 8, "inference": 2}
LAYERS = {"kbn": kbn.BatchNormalization, "keras": keras.layers.BatchNormalization}
ERROR_SHAPE = (32, 28, 28, 64)
FAR = 1e4  # mean / standard deviation


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """Measure each row: milliseconds of kbn, of Keras, of torch, and of copying the activation."""
    names = list(SHAPES)[:2] if quick else list(SHAPES)
    for name, dtype, mode, what in product(names, DTYPES, MODES[BACKEND], PASSES):
        shape, axis = SHAPES[name]
        x, dy = passes.activations(shape, dtype, 2)
        actions = {
            kind: _waited(passes.action(passes.built(cls, shape, axis, dtype), x, dy, mode, what))
            for kind, cls in LAYERS.items()
        }
        actions["copy"] = copy_action(BYTES[dtype] * int(np.prod(shape)))
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


def _waited(action: Action) -> Action:
    def run() -> None:
        passes.wait(action())

    return run


def errors(shape: Sequence[int] = ERROR_SHAPE) -> Iterator[dict[str, Any]]:
    """Measure the largest error of the outputs in training, at a mean of `FAR` deviations."""
    (x,) = passes.activations(shape, "float32", 1, mean=FAR)
    exact = backend.numpy_of(x).astype("float64")
    axes = (0, 1, 2)
    exact = (exact - exact.mean(axes)) / np.sqrt(exact.var(axes) + 1e-3)
    makers = {
        "kbn, fused='auto'": kbn.BatchNormalization,
        "kbn, fused=False": partial(kbn.BatchNormalization, fused=False),
        "Keras": keras.layers.BatchNormalization,
    }
    for name, mode in product(makers, MODES[BACKEND]):
        layer = passes.built(makers[name], shape, -1, "float32")
        y = passes.action(layer, x, x, mode, "training")()[0]
        path = passes.path(layer, x, mode) if name.startswith("kbn") else "–"
        yield {"group": "error", "name": name, "mode": mode, "path": path,
               "error": float(np.abs(backend.numpy_of(y) - exact).max())}  # fmt: skip
    if BACKEND == "torch":
        y = backend.numpy_of(torch_layers.outputs(x.movedim(-1, 1)).movedim(1, -1))
        yield {"group": "error", "name": "BatchNorm2d", "mode": "eager", "path": "–",
               "error": float(np.abs(y - exact).max())}  # fmt: skip
