"""What the experiments share: options, progress, tables over seeds, and output files."""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import keras
import numpy as np
import plotly.graph_objects as go
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import kbn
from kbn.demo import datasets

Row = dict[str, Any]
"""The result of one run: its setting, its seed and its numbers, by name."""

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


class Options(NamedTuple):
    """The options of the command line.

    Attributes:
        quick: use digits, within minutes, instead of Fashion-MNIST.
        seeds: each experiment runs once per seed.
        out: folder for numbers.json, picture.html and event files.
    """

    quick: bool
    seeds: list[int]
    out: Path

    def data(self) -> datasets.Parts:
        """Load the images and labels, with the channel axis that convolutions need."""
        found = datasets.parts("digits" if self.quick else "fashion-mnist")
        return datasets.Parts(*((x[..., None], y) for x, y in found))


def options(file: str, doc: str | None) -> Options:
    """Read the command line of the experiment in `file`."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    name = Path(file).stem
    parser.add_argument("--quick", action="store_true", help="on digits, within minutes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help=f"runs/{name}, or runs/{name}-quick")
    given = parser.parse_args()
    seeds = given.seeds
    if len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
        parser.error(f"--seeds must differ, each from 0 to 2³² − 1. Received: {seeds}")
    out = given.out or Path("runs") / (f"{name}-quick" if given.quick else name)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out cannot be made ({error}). Received: {out}")
    return Options(given.quick, seeds, out)


def log_dir(given: Options, run: str) -> Path:
    """Return the folder of a run, after deleting the event files of an earlier run.

    TensorBoard would draw both runs on one axis.
    """
    folder = given.out / run
    for file in folder.glob("*/events.out.tfevents.*"):
        Console().print(f"Replacing {file}", soft_wrap=True)
        file.unlink()
    return folder


@contextmanager
def population_statistics(model: keras.Model, x: np.ndarray) -> Iterator[None]:
    """Inside the `with` block, use the statistics of 10,000 training samples in `model`.

    Moving statistics come from the last few batches, and from weights that have changed since. At
    a high learning rate they can be wrong although the weights are good.
    """
    kept = model.get_weights()
    if any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers):
        kbn.recalibrate(model, x[:10_000], batch_size=1000, verbose=False)
    yield
    model.set_weights(kept)


@contextmanager
def progress(fits: int) -> Iterator[Callable[[str], keras.callbacks.Callback]]:
    """Show a bar over `fits` calls of `fit`; yield a function that makes the callback of each."""
    columns = TextColumn("{task.description:>28}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn()) as bar:
        task = bar.add_task("", total=fits)
        yield lambda label: _Bar(bar, task, label)


class _Bar(keras.callbacks.Callback):
    def __init__(self, bar: Progress, task: Any, label: str) -> None:
        super().__init__()
        self._bar, self._task, self._label = bar, task, label

    def on_train_begin(self, logs: Any = None) -> None:
        self._bar.update(self._task, description=self._label)
        self._begin = self._bar.tasks[self._task].completed

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        steps = self.params["epochs"] * self.params["steps"]
        self._bar.update(self._task, completed=self._begin + min(1, self._epochs + batch / steps))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epochs = epoch / self.params["epochs"]

    def on_train_end(self, logs: Any = None) -> None:
        self._bar.update(self._task, completed=self._begin + 1)


def spread(values: Sequence[float | None], form: str) -> str:
    """Return mean ± standard deviation over seeds, or how many runs diverged."""
    if None in values:
        return "–"  # a run does not have this number
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < len(values):
        return f"not finite, {len(values) - len(finite)} of {len(values)}"
    if len(finite) < 2:
        return format(finite[0], form)
    return f"{format(mean(finite), form)} ± {format(stdev(finite), form)}"


def table(rows: Sequence[Row], by: Sequence[str], columns: Mapping[str, str]) -> dict[str, Any]:
    """Return head and cells: one line per setting, with mean ± standard deviation over seeds.

    Args:
        rows: the rows of all runs.
        by: names of the values that define a setting.
        columns: the numbers to show, and the format of each.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    cells = [
        [*map(str, setting), *(spread([row[name] for row in group], form)
                               for name, form in columns.items())]
        for setting, group in groups.items()
    ]  # fmt: skip
    return {"head": [*by, *columns], "cells": cells}


def write(
    given: Options, rows: Sequence[Row], shown: dict[str, Any],
    figures: go.Figure | Mapping[str, go.Figure],
) -> None:  # fmt: skip
    """Print the table, and write numbers.json and picture.html, or <name>.html for each figure."""
    console = Console()
    printed = Table()
    for name in shown["head"]:
        printed.add_column(name, overflow="fold")
    for line in shown["cells"]:
        printed.add_row(*line)
    console.print(printed)
    numbers = {"seeds": given.seeds, "quick": given.quick, "table": shown, "rows": rows}
    (given.out / "numbers.json").write_text(json.dumps(_plain(numbers), indent=1) + "\n")
    figures = {"picture": figures} if isinstance(figures, go.Figure) else figures
    for name, figure in figures.items():
        figure.update_layout(template="plotly_white", width=1000, margin_t=60)
        figure.write_html(given.out / f"{name}.html")
    names = ", ".join(["numbers.json", *(f"{name}.html" for name in figures)])
    console.print(f"In {given.out}: {names}", soft_wrap=True)


def _plain(value: Any) -> Any:
    """Return the value for JSON, with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def line(
    points: Sequence[tuple[float, Sequence[float]]], name: str, color: int, **look: Any
) -> list[go.Scatter]:
    """Return the mean over seeds at every x as a line, and lowest to highest as a band.

    Values that are not finite are left out.
    """
    kept = [(x, [one for one in of if math.isfinite(one)]) for x, of in points]
    kept = [(x, of) for x, of in kept if of]
    at = [x for x, _ in kept]
    low, high = ([pick(of) for _, of in kept] for pick in (min, max))
    own = {"legendgroup": name, "name": name}
    band = go.Scatter(
        x=at + at[::-1], y=high + low[::-1], fill="toself", fillcolor=OKABE_ITO[color],
        opacity=0.2, mode="lines", line_width=0, hoverinfo="skip", showlegend=False, **own,
    )  # fmt: skip
    style = {"color": OKABE_ITO[color], **look}
    return [band, go.Scatter(x=at, y=[mean(of) for _, of in kept], line=style, **own)]
