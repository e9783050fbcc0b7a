"""Whole networks in `fit`: the time that normalization adds to a step, and the peak memory."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import keras
import numpy as np

import kbn
from benchmarks.timing import Action, interleaved, peak_memory

LAYERS = {"kbn": kbn.BatchNormalization, "keras": keras.layers.BatchNormalization, "none": None}


def resnet20(cls: Any) -> keras.Model:
    """Return ResNet-20 for 32×32 images (He et al. 2015, §4.2), normalized by `cls` or not."""

    def normalized(x: Any) -> Any:
        return x if cls is None else cls()(x)

    def convolution(x: Any, filters: int, strides: int = 1, size: int = 3) -> Any:
        return keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)

    inputs = keras.Input((32, 32, 3))
    x = keras.activations.relu(normalized(convolution(inputs, 16)))
    for filters in (16, 32, 64):
        for block in range(3):
            strides = 2 if filters > 16 and block == 0 else 1
            y = keras.activations.relu(normalized(convolution(x, filters, strides)))
            y = normalized(convolution(y, filters))
            shortcut = x if strides == 1 else normalized(convolution(x, filters, strides, 1))
            x = keras.activations.relu(y + shortcut)
    outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs)


def three_by_100(cls: Any) -> keras.Model:
    """Return the 3×100 net of Ioffe & Szegedy (2015, §4.1), normalized by `cls` or not."""
    model = keras.Sequential([keras.Input((784,))])
    for _ in range(3):
        model.add(keras.layers.Dense(100, use_bias=cls is None))
        if cls is not None:
            model.add(cls())
        model.add(keras.layers.Activation("sigmoid"))
    model.add(keras.layers.Dense(10))
    return model


NETWORKS = {
    "ResNet-20 on 32×32, batch 128": (resnet20, (32, 32, 3), 128, 6),
    "3×100 net on 784, batch 60": (three_by_100, (784,), 60, 200),
}


INSTANCES = 3
"""How many networks of each kind are timed: their buffers differ, and so do their times."""


class Clock(keras.callbacks.Callback):
    """Keeps the milliseconds of each step of a `fit` after the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Keep the time since the last step."""
        now = time.perf_counter()
        if batch > 0:
            self.steps.append(1e3 * (now - self._last))
        self._last = now


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """Measure the milliseconds of a step of `fit`: with kbn's layer, with Keras's, without."""
    for name, (network, shape, batch, steps) in NETWORKS.items():
        instances = [(kind, number) for kind in LAYERS for number in range(INSTANCES)]
        clocks = {kind: Clock() for kind in LAYERS}
        fits = {
            f"{kind} {number}": _fit(
                network(LAYERS[kind]), shape, batch, 3 if quick else steps, clocks[kind]
            )
            for kind, number in instances
        }
        rounds = 2 if quick else 4
        interleaved(fits, seconds=0, least=rounds)
        # The first two fits of each network warm up. They come first on the clock of their kind.
        warm = 2 / (rounds + 2)
        kept = {kind: clock.steps[int(warm * len(clock.steps)) :] for kind, clock in clocks.items()}
        yield {"group": "fit", "name": name, **{kind: median(kept[kind]) for kind in LAYERS}}


def _fit(
    model: keras.Model, shape: tuple[int, ...], batch: int, steps: int, *callbacks: Any
) -> Action:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch * steps, *shape)).astype("float32")
    y = rng.integers(0, 10, batch * steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    return lambda: model.fit(x, y, batch_size=batch, verbose=0, callbacks=list(callbacks))


def memory_row(quick: bool) -> dict[str, Any]:
    """Measure the peak of resident memory, in MB, that ResNet-20's steps add to the process."""
    runs = {kind: [_peak(kind) for _ in range(1 if quick else 3)] for kind in LAYERS}
    return {
        "group": "memory",
        "name": "ResNet-20 on 32×32, batch 128",
        **{kind: median(values) for kind, values in runs.items()},
    }


def _peak(kind: str) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.networks", kind],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.strip().splitlines()[-1])


def _measure_peak(kind: str) -> float:
    network, shape, batch, _ = next(iter(NETWORKS.values()))
    fit = _fit(network(LAYERS[kind]), shape, batch, 6)
    before = peak_memory()
    fit()
    return peak_memory() - before


if __name__ == "__main__":
    print(json.dumps(_measure_peak(sys.argv[1])))
