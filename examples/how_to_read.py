"""Four nets for docs/how-to-read.md: healthy, with a stale moving average, dying, exploding.

All are ReLU nets with three hidden layers and kbn's callbacks. All except the first have one fault.

    python examples/how_to_read.py [--quick] [--seeds 0 1 2] [--out FOLDER]
"""

import math
import warnings
from pathlib import Path
from typing import NamedTuple

import experiment
import keras
import numpy as np
import plotly.graph_objects as go

import kbn
from kbn import dashboard
from kbn.demo import datasets
from kbn.records import tags

HIDDEN, UNITS, BATCH_SIZE, RECORDS = 3, 100, 64, 30


class Case(NamedTuple):
    """Settings of one net: momentum (None: no normalization), learning rate and steps."""

    momentum: float | None
    rate: float
    steps: int


CASES = {
    "healthy": Case(momentum=0.9, rate=0.1, steps=600),
    "stale": Case(momentum=0.999, rate=0.1, steps=300),
    "dying": Case(momentum=None, rate=0.9, steps=300),
    "exploding": Case(momentum=None, rate=3.0, steps=30),
}


def network(features: int, case: Case) -> keras.Model:
    """Build dense layers, each with ReLU, and with normalization if the case has it."""
    model = keras.Sequential([keras.layers.Input((features,))])
    for index in range(1, HIDDEN + 1):
        model.add(keras.layers.Dense(UNITS, name=f"dense_{index}"))
        if case.momentum is not None:
            model.add(kbn.BatchNormalization(momentum=case.momentum, name=f"norm_{index}"))
        model.add(keras.layers.ReLU(name=f"relu_{index}"))
    model.add(keras.layers.Dense(10, name="logits"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(case.rate), loss, metrics=["accuracy"])
    return model


def trained(case: Case, seed: int, data: datasets.Parts, log_dir: Path, bar: object) -> dict:
    """Train one net with the callbacks, and return what they show at the end."""
    keras.utils.set_random_seed(seed)
    (x, y), (x_test, y_test) = ((x.reshape(len(x), -1), y) for x, y in data)
    chosen = np.random.default_rng(seed).integers(0, len(x), case.steps * BATCH_SIZE)
    probe, every = (x_test[:256], y_test[:256]), case.steps // RECORDS
    callbacks = [kbn.callbacks.CovariateShift(log_dir, probe, layers="relu_*", every_steps=every)]
    if case.momentum is not None:
        callbacks.append(kbn.callbacks.MovingStatistics(log_dir, probe, every_steps=every))
    model = network(x.shape[1], case)
    with warnings.catch_warnings():
        # The example shows on purpose what this warns about.
        warnings.filterwarnings("ignore", "At step .* inference will be off", UserWarning)
        fitted = model.fit(
            x[chosen], y[chosen], batch_size=BATCH_SIZE, shuffle=False, verbose=0,
            callbacks=[*callbacks, bar],
            validation_data=(x_test, y_test), validation_batch_size=1000,
        )  # fmt: skip
    rows = [row for callback in callbacks for row in callback.history]
    return {name: value[-1] for name, value in fitted.history.items()} | {
        "dead units": last(rows, "dead", "output"),
        "mean gap, σ": last(rows, "mean_gap", tags.PROBE),
        "wider, powers of ten": width(rows),
    }


def last(rows: list, measure: str, site: str) -> float | None:
    """Return the mean over layers of the last record's `measure`; None if no layer has it."""
    own = [row for row in rows if (row.measure, row.site) == (measure, site)]
    return mean_of(own, max(row.step for row in own)) if own else None


def mean_of(rows: list, step: int) -> float:
    """Return the mean of the values at this step."""
    return float(np.mean([row.value for row in rows if row.step == step]))


def width(rows: list) -> float:
    """Return the log₁₀ of the largest growth in width of any layer's inputs."""
    own = [row for row in rows if (row.measure, row.site) == ("std", "input")]
    before = {row.layer: row.value for row in own if row.step == 0}
    wider = (row.value / before[row.layer] for row in own)
    return math.log10(max(one for one in wider if math.isfinite(one)))


def figures(out: Path, seed: int) -> dict[str, go.Figure]:
    """Draw for each net the figure of the tab that shows its fault."""
    runs = {case: dashboard.load(out, f"{case}-{seed}") for case in CASES}
    everything = dashboard.load(out, f"*-{seed}")
    return {
        "healthy": runs["healthy"].percentiles(site="input"),
        "stale": runs["stale"].statistics_gap(),
        "dying": runs["dying"].heat_map("dead", site="output"),
        "exploding": everything.compare("std", "relu_3", "input")
            .update_yaxes(type="log").update_xaxes(range=[0, CASES["exploding"].steps]),
    }  # fmt: skip


def main() -> None:
    """Train all four nets for every seed; the pictures are of the first seed."""
    given = experiment.options(__file__, __doc__)
    data, rows = given.data(), []
    with experiment.progress(len(CASES) * len(given.seeds)) as bar:
        for seed in given.seeds:
            for name, case in CASES.items():
                label = bar(f"{name}, seed {seed}")
                log_dir = experiment.log_dir(given, f"{name}-{seed}")
                found = trained(case, seed, data, log_dir, label)
                rows.append({"net": name, "seed": seed, **found})
    columns = {"loss": ".2f", "val_loss": ".2f", "dead units": ".2f", "mean gap, σ": ".2f",
               "wider, powers of ten": ".1f"}  # fmt: skip
    shown = experiment.table(rows, ["net"], columns)
    experiment.write(given, rows, shown, figures(given.out, given.seeds[0]))


if __name__ == "__main__":
    main()
