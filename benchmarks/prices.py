"""What users pay: before the first step, per step in a small net, and per record of gradients.

Callbacks trace the model, and TensorFlow sets up the traced graphs in first records. A process can
measure this only once, so each measurement has its own.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from statistics import median

import keras
import numpy as np

import kbn
from benchmarks import callbacks, networks
from benchmarks.report import Cells, Row

WATCHING = ("CovariateShift", "MovingStatistics", "GradientShift")
KINDS = ("none", *WATCHING, "all three")
SIZE, CLASSES, BATCH, STEPS = 64, 10, 32, 3


READY_HEAD = [
    "callbacks in fit of ResNet50, 32 × 64×64×3", "until the first step has ended, s",
    "callbacks, s", "later records, s", "getting ready, s",
    "getting ready, in first steps without callbacks",
]  # fmt: skip
FIT_HEAD = [
    "a step of fit", "without normalization, ms", "kbn adds, ms", "Keras adds, ms", "kbn / Keras",
]  # fmt: skip
RECORD_HEAD = [
    "one record of GradientShift", "ms", "forward pass, ms", "layers", "forward passes per layer",
]  # fmt: skip
INTRODUCTION = """# Benchmarks of the prices

Written by `make bench` (this page alone: `python -m benchmarks --only prices`) on an otherwise idle
machine; do not edit. Times are medians. The columns of a row are measured in turn.

*Callbacks in fit of ResNet50* is the time until the first step of `fit` has ended, in processes of
their own. *Later records* is the time of as many later records of the same callbacks, with probe
batches of 32.
What the callbacks spend above that is *getting ready*: they trace the model, and TensorFlow
sets up the graphs.

*A step of fit* is that of the same network with kbn's layer, with Keras's and without. *One record*
is on a probe batch of 256, and the forward pass of this batch is in training mode."""


def rows(quick: bool) -> Iterator[Row]:
    """Measure all prices."""
    yield from _getting_ready(quick)
    for row in networks.rows(quick):
        yield {**row, "group": "fit"}
    for name, (network, shape) in callbacks.NETWORKS.items():
        model, probe = callbacks.compiled(network), callbacks.probe(256, shape)
        measured = callbacks.record(model, probe, kbn.callbacks.GradientShift, quick)
        yield {"group": "record", "name": name, **measured}


def tables(rows: Sequence[Row]) -> list[tuple[list[str], Cells]]:
    """Return the head and the cells of each table."""
    groups = [
        (READY_HEAD, "ready", _ready_cells),
        (FIT_HEAD, "fit", _fit_cells),
        (RECORD_HEAD, "record", _record_cells),
    ]
    return [(head, [cells(row) for row in rows if row["group"] == group])
            for head, group, cells in groups]  # fmt: skip


def _ready_cells(row: Row) -> list[str]:
    ready = row["callbacks"] - row["records"]
    times = row["first step"], row["callbacks"], row["records"], ready
    return [row["name"], *(f"{each:.1f}" for each in times), f"{ready / row['keras']:.2f}"]


def _fit_cells(row: Row) -> list[str]:
    kbn_adds, keras_adds = (row[kind] - row["none"] for kind in ("kbn", "keras"))
    ratio = f"{kbn_adds / keras_adds:.2f}"
    return [row["name"], f"{row['none']:.2f}", f"{kbn_adds:.2f}", f"{keras_adds:.2f}", ratio]


def _record_cells(row: Row) -> list[str]:
    per_layer = row["record"] / row["training"] / row["places"]
    times = f"{row['record']:.1f}", f"{row['training']:.1f}"
    return [row["name"], *times, f"{row['places']}", f"{per_layer:.2f}"]


def _getting_ready(quick: bool) -> Iterator[Row]:
    """Measure `fit` of ResNet50 without a callback, with each callback, and with all."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(1 if quick else 3):
        for kind, runs in found.items():  # in turn
            runs.append(_in_a_process(kind))
    for kind, runs in found.items():
        medians = {name: median(run[name] for run in runs) for name in runs[0]}
        first = median(run["first step"] for run in found["none"])
        yield {"group": "ready", "name": kind, "keras": first, **medians}


def _in_a_process(kind: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.prices", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _measure(kind: str, folder: str) -> dict[str, float]:
    """Return the seconds until the first step has ended, and those that callbacks spend."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * STEPS, SIZE, SIZE, 3)).astype("float32")
    y = rng.integers(0, CLASSES, BATCH * STEPS)
    model = keras.applications.ResNet50(weights=None, input_shape=(SIZE, SIZE, 3), classes=CLASSES)
    model.compile("sgd", "sparse_categorical_crossentropy")
    names = WATCHING if kind == "all three" else [name for name in WATCHING if name == kind]
    watching = [
        getattr(kbn.callbacks, name)(folder, (x, y), every_steps=1, probe_size=BATCH)
        for name in names
    ]
    spent: dict[str, float] = {}
    taken: list[int] = []

    def first_step_ended(batch: int, logs: object) -> None:  # noqa: ARG001 - Keras names both
        if batch == 0:
            spent["first step"] = time.perf_counter() - begun
            spent["callbacks"] = sum(each.cost.seconds for each in watching)
            taken.extend(each.cost.records for each in watching)

    clock = keras.callbacks.LambdaCallback(on_train_batch_end=first_step_ended)
    begun = time.perf_counter()
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[*watching, clock])
    # Later records are like those before and after the first step, but need no preparation.
    spent["records"] = sum(n * each.cost.last for n, each in zip(taken, watching, strict=True))
    return spent


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as logs:
        print(json.dumps(_measure(sys.argv[1], logs)))
