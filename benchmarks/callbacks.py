"""The cost of the callbacks: of a record, in `fit`, in memory, and with the size of the model."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from statistics import fmean, median
from typing import Any, NamedTuple

import keras
import numpy as np

import kbn
from benchmarks.networks import resnet20, three_by_100
from benchmarks.passes import forward
from benchmarks.timing import interleaved, peak_memory
from benchmarks.turns import PERIOD, ByTurns
from kbn.callbacks import CovariateShift, GradientShift, LossLandscape, MovingStatistics

CALLBACKS = (CovariateShift, GradientShift, LossLandscape, MovingStatistics)
NETWORKS = {
    "ResNet-20, 256 × 32×32×3": (resnet20, (32, 32, 3)),
    "3×100 net, 256 × 784": (three_by_100, (784,)),
}


class Fits(NamedTuple):
    """Settings of fits with and without a callback."""

    network: Callable[..., keras.Model]
    shape: tuple[int, ...]
    batch: int
    steps: int  # per epoch, a multiple of PERIOD
    epochs: int
    rounds: int
    length: int  # steps of the fit whose share is reported


# The second is like the fit of Ioffe & Szegedy (2015), Fig. 1, and has as many steps.
FITS = {
    "ResNet-20 on 32×32, batch 128": Fits(resnet20, (32, 32, 3), 128, 1200, 1, 1, 1200),
    "3×100 net on 784, batch 60": Fits(three_by_100, (784,), 60, 1000, 20, 3, 50_000),
}
CYCLE = 100  # default number of steps between two records
ELEMENTS = (100, 100, 1000)  # 10⁷


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """Measure all parts."""
    yield from _memory(quick)  # first: it starts its own processes
    yield from records(quick)
    for name, settings in FITS.items():
        yield share(name, settings, quick)
    yield from _growth(quick)


def records(quick: bool, names: Iterable[str] = tuple(NETWORKS)) -> Iterator[dict[str, Any]]:
    """Measure a record of each callback, for each of `NETWORKS` in `names`."""
    for name in names:
        network, shape = NETWORKS[name]
        model, batch = compiled(network), probe(256, shape)
        for callback in CALLBACKS:
            yield {"group": "record", "name": name, "callback": callback.__name__,
                   **record(model, batch, callback, quick)}  # fmt: skip


def compiled(network: Callable[..., keras.Model]) -> keras.Model:
    """Return `network` with kbn's layer, compiled."""
    keras.utils.set_random_seed(0)
    model = network(kbn.BatchNormalization)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    return model


def probe(size: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return random inputs of `shape`, and labels."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, *shape)).astype("float32"), rng.integers(0, 10, size)


def _started(
    callback: Any, model: keras.Model, batch: Any, folder: str, records: int = 50, **options: Any
) -> Any:
    """Return a callback after two records of a `fit` that takes `records` records."""
    recorder = callback(folder, batch, every_steps=1, **options)
    recorder.set_model(model)
    recorder.set_params({"epochs": 1, "steps": records})
    recorder.on_train_begin()
    recorder.on_epoch_begin(0)
    for _ in range(2):
        _take(recorder)
    return recorder


def _take(recorder: Any) -> None:
    """Take a record of the next step, as a batch of `fit` would, and write it."""
    recorder.on_train_batch_begin(0)
    if recorder.compares_steps:
        kernel = recorder.model.trainable_variables[0]
        kernel.assign(kernel * 1.0001)  # if no weight changes, there is nothing to record
    recorder.model.optimizer.iterations.assign_add(1)
    recorder.on_train_batch_end(0)


def record(model: keras.Model, batch: Any, callback: Any, quick: bool) -> dict[str, Any]:
    """Measure a record of `callback` and forward passes of the probe batch, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        recorder = _started(callback, model, batch, folder)
        if callback is CovariateShift:
            recorder._thinning.keeps = lambda: True  # the most costly records; rare in a long fit
        actions = {
            "record": lambda: _take(recorder),
            "training": forward(model, batch[0], training=True),
            "inference": forward(model, batch[0], training=False),
        }
        times = interleaved(actions, seconds=1 if quick else 15, least=3 if quick else 5)
        written = [r.value for r in recorder.history if r[1:3] == ("record", "bytes")]
        # The first record of a file describes its tags.
        places = {(r.layer, r.site) for r in recorder.history if r.layer != "record"}
        recorder.on_train_end()
    return {**times, "places": len(places), "bytes": median(written[1:])}


def share(name: str, fits: Fits, quick: bool) -> dict[str, Any]:
    """Fit with and without the callback in alternate turns, with a new model in each round."""
    if quick:
        fits = fits._replace(steps=10 * PERIOD, epochs=1, rounds=1)
    rounds = [_watched(fits) for _ in range(fits.rounds)]
    return {
        "group": "share",
        "name": name,
        **{key: fmean(one[key] for one in rounds) for key in rounds[0]},
        "steps": fits.length,
        "shares": [one["share"] for one in rounds],
    }


def _watched(fits: Fits) -> dict[str, float]:
    """Return the callback's share of the time of a fit, measured and by its own count.

    Between epochs, Keras itself stalls at random, for up to seconds. So the work that is done once
    per fit or epoch is timed separately, and added to the usual time of the steps.
    """
    model, (x, y) = compiled(fits.network), probe(fits.batch * fits.steps, fits.shape)
    model.fit(x[: fits.batch], y[: fits.batch], batch_size=fits.batch, verbose=0)
    found = _by_turns(model, x, y, fits)
    control = _by_turns(model, x, y, fits._replace(steps=fits.steps // 4), bare=True)
    fit, hundred = fits.length / CYCLE * found["hundred"], found["hundred"]
    once = (found["in_fit"] + fits.length / fits.steps * found["in_epoch"]) / fit
    return {
        **{name: found[name] for name in ("hundred", "added", "in_fit", "in_epoch")},
        "alike": control["added"] / control["hundred"],
        "share": found["added"] / hundred + once, "own": found["record"] / hundred + once,
    }  # fmt: skip


def _by_turns(
    model: keras.Model, x: np.ndarray, y: np.ndarray, fits: Fits, *, bare: bool = False
) -> dict[str, Any]:
    """Fit with the callback in every second turn; if `bare`, with one that does nothing."""
    with tempfile.TemporaryDirectory() as folder:
        watching = CovariateShift(folder, x, every_steps=PERIOD)

        def missed(steps: int) -> None:
            # Otherwise the callback would read the step counter more often.
            watching.session.steps.calls += steps

        turns = ByTurns(keras.callbacks.Callback()) if bare else ByTurns(watching, missed)
        x, y = x[: fits.batch * fits.steps], y[: fits.batch * fits.steps]
        model.fit(x, y, batch_size=fits.batch, epochs=fits.epochs, verbose=0, callbacks=[turns])
    taken = [r.value / 1e3 for r in watching.history
             if r[1:4] == ("record", "milliseconds", "monitor")]  # fmt: skip
    hundred, added = turns.usual(CYCLE)
    return {
        "hundred": hundred, "added": added, "in_epoch": turns.in_epochs / fits.epochs,
        "in_fit": turns.in_fit + sum(taken[:1]), "record": median(taken or [0.0]),
    }  # fmt: skip


def _memory(quick: bool) -> Iterator[dict[str, Any]]:
    for kind in ("CovariateShift", "tf.summary.histogram"):
        runs = []
        for _ in range(1 if quick else 3):
            command = [sys.executable, "-m", "benchmarks.callbacks", kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout.strip().splitlines()[-1]))
        yield {"group": "memory", "name": kind, "megabytes": median(runs)}


def _peak_above_forward(kind: str) -> float:
    """Return how many MB two records add to the peak that forward passes had reached."""
    import tensorflow as tf

    inputs = keras.Input(ELEMENTS[1:])
    model = keras.Model(inputs, kbn.BatchNormalization(name="bn")(inputs))
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).random(ELEMENTS, dtype="float32")
    # The same run as that of the probe, with inputs and outputs in memory at the same time.
    batch, forward = tf.constant(x), tf.function(lambda x: model(x, training=True))
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            outputs = forward(batch)
        before = peak_memory()
        if kind == "CovariateShift":
            del outputs, batch
            callback = _started(CovariateShift, model, x, folder)
            assert callback.lost_records == 0
        else:
            with tf.summary.create_file_writer(folder).as_default():
                for step in range(2):
                    tf.summary.histogram("activations", outputs, step=step)
        return peak_memory() - before


def _growth(quick: bool) -> Iterator[dict[str, Any]]:
    """Vary one thing at a time around 8 layers of 64 channels and 256 samples of 8×8."""
    usual = {"layers": 8, "channels": 64, "samples": 256}
    sizes = {
        "layers": (4, 8) if quick else (4, 8, 16, 32, 64),
        "channels": (16, 64) if quick else (16, 64, 256, 1024),
        "samples": (64, 256) if quick else (64, 256, 1024, 4096),
    }
    for name, values in sizes.items():
        for value in values:
            yield {"group": "growth", "name": name, "value": value,
                   **_grown(**{**usual, name: value}, quick=quick)}  # fmt: skip
    yield from _grown_in_steps(quick)


def _plain(layers: int, channels: int) -> keras.Model:
    inputs = x = keras.Input((8, 8, channels))
    for _ in range(layers):
        x = keras.layers.ReLU()(kbn.BatchNormalization()(x))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    model.compile("sgd", "mse")
    return model


def _grown(layers: int, channels: int, samples: int, *, quick: bool) -> dict[str, Any]:
    model, (x, _) = _plain(layers, channels), probe(samples, (8, 8, channels))
    with tempfile.TemporaryDirectory() as folder:
        recorder = _started(CovariateShift, model, x, folder, probe_size=samples)
        recorder._thinning.keeps = lambda: True
        actions = {"record": lambda: _take(recorder), "training": forward(model, x, training=True)}
        times = interleaved(actions, seconds=0.2 if quick else 4)
        written = [r.value for r in recorder.history if r[1:3] == ("record", "bytes")]
        recorder.on_train_end()
    return {**times, "bytes": median(written[1:])}


def _grown_in_steps(quick: bool) -> Iterator[dict[str, Any]]:
    """Take thousands of records in one run."""
    ends = (20, 40) if quick else (100, 500, 1000, 2000, 4000)
    model, (x, _) = _plain(8, 64), probe(256, (8, 8, 64))
    with tempfile.TemporaryDirectory() as folder:
        recorder = _started(CovariateShift, model, x, folder, records=ends[-1])
        begun = size = 0
        for end in ends:
            start = time.perf_counter()
            for _ in range(begun, end):
                _take(recorder)
            spent = 1e3 * (time.perf_counter() - start) / (end - begun)
            written = (recorder.cost.bytes - size) / (end - begun)
            yield {"group": "growth", "name": "records", "value": end, "record": spent,
                   "bytes": written, "resident": _resident()}  # fmt: skip
            begun, size = end, recorder.cost.bytes
        recorder.on_train_end()


def _resident() -> float:
    """Return the resident memory of this process in MB; 0 if it cannot be read."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 1e6
    except OSError:
        return 0.0


if __name__ == "__main__":
    print(json.dumps(_peak_above_forward(sys.argv[1])))
