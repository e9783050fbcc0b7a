"""The hooks: what a record costs beside a forward pass, in `fit`, in memory, and how it grows."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import kbn
from benchmarks.networks import resnet20, three_by_100
from benchmarks.timing import interleaved
from benchmarks.turns import in_turn, usual_cycle
from kbn.callbacks import CovariateShift, GradientShift, LossLandscape, MovingStatistics
from kbn.tap import seeds

HOOKS = (CovariateShift, GradientShift, LossLandscape, MovingStatistics)
NETWORKS = {
    "ResNet-20, 256 × 32×32×3": (resnet20, (32, 32, 3)),
    "3×100 net, 256 × 784": (three_by_100, (784,)),
}


class Fits(NamedTuple):
    """Fits that are compared: of which network, how long, how often, and in turns of how long."""

    network: Callable[..., keras.Model]
    shape: tuple[int, ...]
    batch: int
    steps: int  # per epoch
    epochs: int
    epochs_alike: int  # of two fits without a hook; 0: none, where that would take too long
    rounds: int
    turn: int  # steps


# The second is as long as the fit of Ioffe & Szegedy (2015), Fig. 1, after which it is modelled.
FITS = {
    "ResNet-20 on 32×32, batch 128": Fits(resnet20, (32, 32, 3), 128, 800, 1, 0, 1, 5),
    "3×100 net on 784, batch 60": Fits(three_by_100, (784,), 60, 1000, 50, 12, 2, 25),
}
CYCLE = 100  # steps from record to record, by default
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
        if quick:
            settings = settings._replace(steps=2 * CYCLE, epochs=1, epochs_alike=1, rounds=1)
        yield {"group": "share", "name": name, **_share(settings)}
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


def _started(
    hook: Any, model: keras.Model, probe: Any, folder: str, records: int = 50, **options: Any
) -> Any:
    """Return a hook as it is once a `fit` of so many records has begun, two of them taken."""
    recorder = hook(folder, probe, every_steps=1, **options)
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
        if hook is CovariateShift:
            recorder._thinning.keeps = lambda: True  # the dearest records; in a long fit, few are
        actions = {"record": lambda: _take(recorder), **_passes(model, probe[0])}
        times = interleaved(actions, seconds=1 if quick else 15, least=3 if quick else 5)
        written = [r.value for r in recorder.history if r[1:3] == ("record", "bytes")]
        # The first record of a file describes its tags.
        places = {(r.layer, r.site) for r in recorder.history if r.layer != "record"}
        recorder.on_train_end()
    return {**times, "places": len(places), "bytes": median(written[1:])}


class _Timed(CovariateShift):
    """Takes the time of what it does once in a fit or an epoch."""

    once = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        start = time.perf_counter()
        super().on_train_begin(logs)
        self.once += time.perf_counter() - start

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        start = time.perf_counter()
        super().on_epoch_end(epoch, logs)
        self.once += time.perf_counter() - start

    def on_train_end(self, logs: Any = None) -> None:
        start = time.perf_counter()
        super().on_train_end(logs)
        spent = [r.value for r in self.history if r[1:4] == ("record", "milliseconds", "monitor")]
        self.once += time.perf_counter() - start + spent[0] / 1e3


def _share(fits: Fits) -> dict[str, Any]:
    """Fit with the hook at its defaults and without it, side by side.

    Keras itself stalls between epochs, at random and for up to seconds. So what is compared is a
    hundred steps, which hold one record, as they usually are; what is done once in a fit or an
    epoch is added by the clock. Two fits that are alike differ too, by where their arrays lie. So
    the models change places, and each round is less what the same two differ by without a hook.
    """
    models, data = [_compiled(fits.network) for _ in range(2)], _data(fits)
    for model in models:
        model.fit(*(each[: fits.batch] for each in data), batch_size=fits.batch, verbose=0)
    rounds, alone = [], fits._replace(epochs=fits.epochs_alike)
    for number in range(fits.rounds):
        found = _compared(fits, models, data, number, watch=True)
        alike = _compared(alone, models, data, number)["added"] if alone.epochs else 0.0
        share = found["added"] - alike + found["once"] / found["without"]
        rounds.append({**found, "alike": alike, "share": share})
    return {
        **{key: fmean(one[key] for one in rounds) for key in rounds[0]},
        "steps": fits.steps * fits.epochs,
        "shares": [one["share"] for one in rounds],
        "controlled": bool(alone.epochs),
    }


def _data(fits: Fits) -> tuple[np.ndarray, np.ndarray]:
    return _probe(fits.batch * fits.steps, fits.shape)


def _compared(
    fits: Fits,
    models: Sequence[keras.Model],
    data: tuple[np.ndarray, np.ndarray],
    round_: int,
    *,
    watch: bool = False,
) -> dict[str, Any]:
    """Return what a fit took beside another; which model it is and who begins changes by round."""
    x, y = data
    settings = {"batch_size": fits.batch, "epochs": fits.epochs, "verbose": 0}
    with tempfile.TemporaryDirectory() as folder:
        hook = _Timed(folder, x)

        def one(turn: keras.callbacks.Callback) -> None:
            callbacks = [hook, turn] if watch else [turn]
            models[round_ % 2].fit(x, y, callbacks=callbacks, **settings)

        def other(turn: keras.callbacks.Callback) -> None:
            models[1 - round_ % 2].fit(x, y, callbacks=[turn], **settings)

        order = slice(None, None, -1 if round_ % 2 else 1)  # who begins
        mine, beside = in_turn(*[one, other][order], fits.turn)[order]
    added = usual_cycle(mine.laps, CYCLE) / usual_cycle(beside.laps, CYCLE) - 1
    return {
        "records": hook.cost.records, "without": beside.seconds, "with": mine.seconds,
        "added": added, "once": hook.once, "own": hook.cost.seconds / mine.seconds,
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
        recorder._thinning.keeps = lambda: True
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
    """Return the resident memory of this process in MB; 0 where that cannot be read."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 1e6
    except OSError:
        return 0.0


if __name__ == "__main__":
    print(json.dumps(_peak_above_forward(sys.argv[1])))
