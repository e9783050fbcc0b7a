"""Write the golden log of this version: `python -m tests.golden.make_log FOLDER`.

Run it with the code whose event files are to be kept (see README.md). It trains two tiny nets with
every callback that records. Next to their event files, it writes `expected.json`, with the numbers
that the same code reads from them.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
from werkzeug.test import Client

import kbn
import kbn.dashboard
from kbn.callbacks import CovariateShift, GradientShift, LossLandscape, MovingStatistics
from kbn.dashboard import report
from kbn.dashboard.plugin import CovariateShiftPlugin

MEASURES = (
    "wasserstein", "jeffreys", "wasserstein_gaussian", "jensen_shannon", "psi",
    "kolmogorov_smirnov", "energy",
)  # fmt: skip


def network(*, normalized: bool) -> keras.Model:
    """Return a net of two blocks, compiled."""
    layers = [keras.Input((4,))]
    for number in (1, 2):
        layers.append(keras.layers.Dense(5, name=f"dense_{number}"))
        if normalized:
            layers.append(kbn.BatchNormalization(momentum=0.5, name=f"norm_{number}"))
        layers.append(keras.layers.Activation("sigmoid", name=f"sigmoid_{number}"))
    model = keras.Sequential([*layers, keras.layers.Dense(1, name="out")], name="net")
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def train(log_dir: Path) -> None:
    """Train both nets, with all callbacks."""
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, (24 * 8, 4)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    for run in ("plain", "normalized"):
        keras.utils.set_random_seed(0)
        often = {"every_steps": 4, "probe_size": 32}
        callbacks = [
            CovariateShift(log_dir / run, x, layers="sigmoid_*", measures=MEASURES, **often),
            GradientShift(log_dir / run, (x, y), **often),
            LossLandscape(log_dir / run, (x, y), **often),
        ]
        if run == "normalized":
            callbacks.append(MovingStatistics(log_dir / run, (x, y), **often))
        network(normalized=run == "normalized").fit(
            x, y, batch_size=8, verbose=0, shuffle=False, callbacks=callbacks
        )


def state(board: kbn.dashboard.board.Dashboard, log_dir: Path) -> dict:
    """Return the state that the tab shows."""
    context = SimpleNamespace(
        data_provider=board._log._provider,
        flags=SimpleNamespace(logdir=str(log_dir)),
    )
    route = CovariateShiftPlugin(context).get_plugin_apps()["/state"]
    return Client(route).get("/state").get_json()


def expected(log_dir: Path) -> dict:
    """Return the numbers that this code reads from the log."""
    board = kbn.dashboard.load(log_dir)
    frame = board.to_frame()
    columns = ["run", "measure", "layer", "site"]
    series = [
        [*key, rows.step.tolist(), [repr(value) for value in rows.value]]
        for key, rows in frame.groupby(columns, sort=False)
    ]
    shown = state(board, log_dir)
    return {
        "numbers": report.numbers(board),
        "series": series,
        "state": {key: shown[key] for key in ("runs", "measure", "sites", "layers", "newest")}
        | {"measures": [one["name"] for one in shown["measures"]]},
        "histograms": {
            run: {
                " ".join(place): [int(step) for step in board._log.histograms(run, place).steps]
                for place in board._log.histogram_places(run)
            }
            for run in board.runs
        },
    }


def main(folder: str) -> None:
    """Write the log and the expected numbers to `folder`."""
    log_dir = Path(folder)
    train(log_dir)
    text = json.dumps(expected(log_dir), indent=None, ensure_ascii=False)
    (log_dir / "expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
