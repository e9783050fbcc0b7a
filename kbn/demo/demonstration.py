"""The demonstration: the paper's network, trained with and without normalization.

It is the network of Ioffe & Szegedy (2015), §4.1: three hidden layers of 100 sigmoid units, weights
from a small Gaussian, batches of 60, and normalization before each sigmoid. The paper does not give
the learning rate and the width of the Gaussian. Here plain SGD uses `LEARNING_RATE`, and the width
is `WEIGHT_STDDEV`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import kbn
from kbn.demo import datasets
from kbn.records import file_systems
from kbn.records.tags import Row

BATCH_SIZE = 60
HIDDEN_LAYERS = 3
UNITS = 100
LEARNING_RATE = 0.3
WEIGHT_STDDEV = 0.1
CHECKPOINTS = 10
RECORDS = 50
RUNS = {"plain": False, "batch_norm": True}


class Run(NamedTuple):
    """Results of a network: (step, validation accuracy) at fixed steps, and the callback's rows."""

    accuracy: list[tuple[int, float]]
    history: Sequence[Row]


def network(features: int, normalized: bool, seed: int) -> keras.Model:
    """Build the paper's network. With and without normalization, the initial weights are equal."""
    layers = [keras.layers.Input((features,))]
    for index in range(1, HIDDEN_LAYERS + 1):
        layers.append(_dense(UNITS, f"dense_{index}", seed + index, use_bias=not normalized))
        if normalized:
            layers.append(kbn.BatchNormalization(name=f"batch_norm_{index}"))
        layers.append(keras.layers.Activation("sigmoid", name=f"sigmoid_{index}"))
    layers.append(_dense(10, "logits", seed))
    model = keras.Sequential(layers)
    model.compile(
        keras.optimizers.SGD(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def run(data: str, steps: int, log_dir: str, seed: int, console: Console) -> None:
    """Train both networks, print the results, and write event files and a report.

    Args:
        data: one of `kbn.demo.datasets.DATA_SETS`.
        steps: optimizer steps of each network, rounded up to a multiple of `CHECKPOINTS`.
        log_dir: folder for the event files and the report.
        seed: seed of the split, the weights and the order of the batches.
        console: console for progress and tables.
    """
    from kbn.dashboard import load, report

    log_dir = file_systems.here("log_dir", log_dir)
    steps = -(-steps // CHECKPOINTS) * CHECKPOINTS
    split = datasets.load(data, seed)
    os.makedirs(log_dir, exist_ok=True)
    _clear_earlier(log_dir, console)
    console.print(
        f"{data}: {len(split.train[0])} samples for training, {steps} steps with batches of "
        f"{BATCH_SIZE}"
    )
    runs = {}
    with _progress(console) as progress:
        for name, normalized in RUNS.items():
            bar = _ProgressBar(progress, name, steps)
            runs[name] = _train(normalized, split, steps, os.path.join(log_dir, name), seed, bar)
    console.print(_accuracy_table(runs), _shift_table(runs))
    console.print(_summary(runs), soft_wrap=True)
    target = Path(log_dir) / "report.html"
    report.write(load(log_dir), log_dir, target)
    console.print(f"Report (open it in a browser): {target}", soft_wrap=True)
    console.print(f"To see all figures, run: tensorboard --logdir {log_dir}", soft_wrap=True)


def _clear_earlier(log_dir: str, console: Console) -> None:
    """Remove the event files of an earlier demonstration, so that TensorBoard does not mix both."""
    runs = [Path(log_dir) / name / "covariate_shift" for name in RUNS]
    earlier = [file for run in runs for file in run.glob("events.out.tfevents.*")]
    for file in earlier:
        file.unlink()
    if earlier:
        console.print(f"Replacing the earlier demonstration in {log_dir}", soft_wrap=True)


def _train(
    normalized: bool,
    split: datasets.Split,
    steps: int,
    log_dir: str,
    seed: int,
    bar: "_ProgressBar",
) -> Run:
    model = network(split.train[0].shape[1], normalized, seed)
    shift = kbn.callbacks.CovariateShift(
        log_dir, split.probe, layers="sigmoid_*", every_steps=max(1, steps // RECORDS)
    )
    x, y = split.train
    batches = _Batches(x, y, steps, seed)
    each = steps // CHECKPOINTS
    fitted = model.fit(
        batches, epochs=CHECKPOINTS, steps_per_epoch=each, shuffle=False, verbose=0,
        validation_data=split.validation, validation_batch_size=1000, callbacks=[shift, bar],
    )  # fmt: skip
    accuracies = fitted.history["val_accuracy"]
    at = [(each * (index + 1), value) for index, value in enumerate(accuracies)]
    return Run(at, shift.history)


class _Batches(keras.utils.PyDataset):
    """`steps` batches. Each pass over the data has a new order, which depends on `seed`."""

    def __init__(self, x: np.ndarray, y: np.ndarray, steps: int, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        passes = -(-steps * BATCH_SIZE // len(x))
        self._order = np.concatenate([rng.permutation(len(x)) for _ in range(passes)])
        self._x, self._y, self._steps = x, y, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._order[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
        return self._x[chosen], self._y[chosen]


class _ProgressBar(keras.callbacks.Callback):
    def __init__(self, progress: Progress, name: str, steps: int) -> None:
        super().__init__()
        self._progress, self._task = progress, progress.add_task(name, total=steps)

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self._progress.advance(self._task)


def _progress(console: Console) -> Progress:
    columns = TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, TimeElapsedColumn(), console=console)


def _dense(units: int, name: str, seed: int, use_bias: bool = True) -> keras.layers.Dense:
    initializer = keras.initializers.RandomNormal(stddev=WEIGHT_STDDEV, seed=seed)
    return keras.layers.Dense(units, use_bias=use_bias, kernel_initializer=initializer, name=name)


def _accuracy_table(runs: dict[str, Run]) -> Table:
    table = Table("step", *runs, title="Validation accuracy")
    for points in zip(*(one.accuracy for one in runs.values()), strict=True):
        table.add_row(str(points[0][0]), *(f"{value:.3f}" for _, value in points))
    return table


def _shift_table(runs: dict[str, Run]) -> Table:
    title = "Mean shift of each sigmoid's input\n(Wasserstein-1 / σ, per record)"
    table = Table("layer", *runs, title=title)
    rows = (row for one in runs.values() for row in one.history)
    layers = dict.fromkeys(row.layer for row in rows if row.measure == "wasserstein")
    for layer in layers:
        table.add_row(layer, *(f"{mean_shift(one.history, layer):.3f}" for one in runs.values()))
    return table


def mean_shift(history: Sequence[Row], layer: str) -> float:
    """Return how far the layer's inputs moved since the previous record: the mean over records."""
    wanted = (layer, "input", "wasserstein")
    moved = [row.value for row in history if (row.layer, row.site, row.measure) == wanted]
    return float(np.mean(moved[1:]))  # there is no record before the first


def _summary(runs: dict[str, Run]) -> str:
    best = max(value for _, value in runs["plain"].accuracy)
    reached = [next(step for step, value in runs["plain"].accuracy if value >= best)]
    reached += [step for step, value in runs["batch_norm"].accuracy if value >= best][:1]
    if len(reached) < 2:
        return f"With normalization, the plain net's best accuracy, {best:.3f}, was not reached."
    return (
        f"The plain net reached its best accuracy, {best:.3f}, at step {reached[0]}. "
        f"With normalization, the net reached it by step {reached[1]}."
    )
