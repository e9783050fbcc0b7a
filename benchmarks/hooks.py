"""The hooks: what a record costs beside a forward pass, in `fit`, in memory, and how it grows."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import kbn
from benchmarks.networks import resnet20, three_by_100
from benchmarks.timing import interleaved
from benchmarks.turns import in_hundreds, in_turn
from kbn.callbacks import CovariateShift, GradientShift, LossLandscape, MovingStatistics
from kbn.tap import seeds

HOOKS = (CovariateShift, GradientShift, LossLandscape, MovingStatistics)
NETWORKS = {
    "ResNet-20, 256 × 32×32×3": (resnet20, (32, 32, 3)),
    "3×100 net, 256 × 784": (three_by_100, (784,)),
}
# A fit: of which network, batch size, steps per epoch, epochs, rounds, steps per turn.
FITS = {
    "ResNet-20 on 32×32, batch 128": (resnet20, (32, 32, 3), 128, 800, 1, 1, 5),
    "3×100 net on 784, batch 60": (three_by_100, (784,), 60, 1000, 20, 2, 25),
}
ELEMENTS = (100, 100, 1000)  # 10⁷


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """Measure all of it."""
    yield from _memory(quick)  # first: it takes processes of its own
    for name, (network, shape) in NETWORKS.items():
        model, probe = _compiled(network), _probe(256, shape)
        for hook in HOOKS:
            yield {"group": "record", "name": name, "hook": hook.__name__,
                   **_record(model, probe, hook, quick)}  # fmt: skip
    for name, settings in FITS.items():
        yield {"group": "share", "name": name, **_share(*settings, quick=quick)}
    yield from _growth(quick)


def _compiled(network: Callable[..., keras.Model]) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = network(kbn.BatchNormalization)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    return model


def _probe(size: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, *shape)).astype("float32"), rng.integers(0, 10, size)


def _started(hook: Any, model: keras.Model, probe: Any, folder: str, **options: Any) -> Any:
    """Return a hook as it is once `fit` has begun, and that has taken two records."""
    recorder = hook(folder, probe, every_steps=1, **options)
    recorder.set_model(model)
    recorder.set_params({"epochs": None, "steps": None})  # of unknown length
    recorder.on_train_begin()
    for _ in range(2):
        _take(recorder)
    return recorder


def _take(recorder: Any) -> None:
    """Take a record of the next step, as a batch of `fit` would, and write it."""
    recorder.on_train_batch_begin(0)
    if recorder.compares_steps:
        kernel = recorder.model.trainable_variables[0]
        kernel.assign(kernel * 1.0001)  # else nothing moved, and nothing is to be taken
    recorder.model.optimizer.iterations.assign_add(1)
    recorder.on_train_batch_end(0)


def _passes(model: keras.Model, x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Return the forward pass of the probe batch, in training mode as a record makes it."""

    def run(training: bool) -> Callable[[], Any]:
        def forward(batch: Any) -> Any:
            with keras.StatelessScope(state_mapping=seeds(model)):
                return model(batch, training=training)

        traced, batch = tf.function(forward, autograph=False), tf.constant(x)
        return lambda: traced(batch).numpy()

    return {"training": run(True), "inference": run(False)}


def _record(model: keras.Model, probe: Any, hook: Any, quick: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        recorder = _started(hook, model, probe, folder)
        actions = {"record": lambda: _take(recorder), **_passes(model, probe[0])}
        times = interleaved(actions, seconds=1 if quick else 15, least=3 if quick else 5)
        written = [r.value for r in recorder.history if r[1:3] == ("record", "bytes")]
        # The first record of a file describes its tags.
        places = {(r.layer, r.site) for r in recorder.history if r.layer != "record"}
        recorder.on_train_end()
    return {**times, "places": len(places), "bytes": median(written[1:])}


def _share(
    network: Any, shape: tuple[int, ...], batch: int, steps: int, epochs: int, rounds: int,
    turn: int, *, quick: bool,
) -> dict[str, Any]:  # fmt: skip
    """Fit with the hook at its defaults and without it, turn by turn."""
    if quick:
        steps, epochs, rounds = 200, 1, 1
    models, (x, y) = [_compiled(network) for _ in range(2)], _probe(batch * steps, shape)
    for model in models:
        model.fit(x[:batch], y[:batch], batch_size=batch, verbose=0)
    found = []
    for round_ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            hook = CovariateShift(folder, x)

            def fit(model: keras.Model, *callbacks: keras.callbacks.Callback) -> None:
                model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0, callbacks=callbacks)

            fits = [partial(fit, models[0], hook), partial(fit, models[1])]
            order = slice(None, None, -1 if round_ % 2 else 1)  # who begins
            watched, plain = in_turn(*fits[order], turn)[order]
            found.append(_compared(hook, watched, plain, turn))
    hundreds = [ratio for one in found for ratio in one.pop("hundreds")]
    shares = sorted(one.pop("share") for one in found)
    totals = {key: median(one[key] for one in found) for key in found[0]}
    steady = median(hundreds) - 1
    return {
        **totals,
        "steps": steps * epochs,
        "steady": steady,
        "share": steady + totals["once"] / totals["without"],
        "shares": shares,
    }


def _compared(
    hook: CovariateShift, watched: list[float], plain: list[float], turn: int
) -> dict[str, Any]:
    """Return what a fit with the hook took beside one without it.

    Keras itself stalls between epochs, at random and for up to seconds. So a hundred steps, which
    hold one record, are compared with the hundred steps beside them; the median of the ratios does
    not see what is done once in a fit or an epoch, which the hook's own clock adds.
    """
    pairs = zip(in_hundreds(watched, turn), in_hundreds(plain, turn), strict=True)
    hundreds = [a / b for a, b in pairs]
    records = [r.value for r in hook.history if r[1:4] == ("record", "milliseconds", "monitor")]
    once = hook.cost.seconds - sum(records[1:]) / 1e3
    return {
        "records": hook.cost.records, "without": sum(plain), "with": sum(watched), "once": once,
        "hundreds": hundreds, "share": median(hundreds) - 1 + once / sum(plain),
        "own": hook.cost.seconds / sum(watched),
    }  # fmt: skip


def _memory(quick: bool) -> Iterator[dict[str, Any]]:
    for kind in ("CovariateShift", "tf.summary.histogram"):
        runs = []
        for _ in range(1 if quick else 3):
            command = [sys.executable, "-m", "benchmarks.hooks", kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout.strip().splitlines()[-1]))
        yield {"group": "memory", "name": kind, "megabytes": median(runs)}


def _peak_above_forward(kind: str) -> float:
    """Return by how many MB two records raise the peak that forward passes had reached."""
    import resource

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6

    inputs = keras.Input(ELEMENTS[1:])
    model = keras.Model(inputs, kbn.BatchNormalization(name="bn")(inputs))
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).random(ELEMENTS, dtype="float32")
    # As the probe runs it, and what goes in and comes out alive at once.
    batch, forward = tf.constant(x), tf.function(lambda x: model(x, training=True))
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            outputs = forward(batch)
        before = peak()
        if kind == "CovariateShift":
            del outputs, batch
            hook = _started(CovariateShift, model, x, folder)
            assert hook.lost_records == 0
        else:
            with tf.summary.create_file_writer(folder).as_default():
                for step in range(2):
                    tf.summary.histogram("activations", outputs, step=step)
        return peak() - before


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
    model, (x, _) = _plain(layers, channels), _probe(samples, (8, 8, channels))
    with tempfile.TemporaryDirectory() as folder:
        recorder = _started(CovariateShift, model, x, folder, probe_size=samples)
        actions = {"record": lambda: _take(recorder), "training": _passes(model, x)["training"]}
        times = interleaved(actions, seconds=0.2 if quick else 4)
        written = [r.value for r in recorder.history if r[1:3] == ("record", "bytes")]
        recorder.on_train_end()
    return {**times, "bytes": median(written[1:])}


def _grown_in_steps(quick: bool) -> Iterator[dict[str, Any]]:
    """Take thousands of records in one run."""
    ends = (20, 40) if quick else (100, 500, 1000, 2000, 4000)
    model, (x, _) = _plain(8, 64), _probe(256, (8, 8, 64))
    with tempfile.TemporaryDirectory() as folder:
        recorder, begun, size = _started(CovariateShift, model, x, folder), 0, 0
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
    """Return the resident memory of this process in MB; 0 where that cannot be read."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 1e6
    except OSError:
        return 0.0


if __name__ == "__main__":
    print(json.dumps(_peak_above_forward(sys.argv[1])))
