"""`kbn report`: the CPU time of a report on many runs, layers and records of all callbacks."""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmarks.report import Cells, Row
from kbn.callbacks.covariate_shift import DEFAULTS
from kbn.callbacks.recording.schedule import Thinning
from kbn.callbacks.recording.settings import layers_in_order
from kbn.callbacks.writing.event_file import EventFile, Record
from kbn.diagnosis.summary import ALARMS
from kbn.distributions.sketch import HISTOGRAM_POINTS
from kbn.records import catalogue, tags
from kbn.records.history import Rows
from kbn.records.tags import Place


class Size(NamedTuple):
    """The size of a log: numbers of runs, of layers per run, and of records per callback."""

    runs: int
    layers: int
    records: int


SIZES = (Size(2, 30, 200), Size(12, 30, 200))
ROUNDS = 3
_EVERY = 100  # steps from one record to the next

HEAD = ["runs", "layers", "records", "event files, MB", "kbn report, s", "kbn report --json, s"]
INTRODUCTION = """# Benchmarks of the report

Written by `make bench` (this page alone: `python -m benchmarks --only report`); do not edit. Times
are CPU seconds of the whole command, user and system, with the start of Python: medians of three.
Every run has the records of all callbacks at their default options, for the given number of layers.
`--json` prints the numbers and draws no figure."""


def rows(quick: bool) -> Iterator[Row]:
    """Measure the command for logs of all sizes."""
    rounds = 1 if quick else ROUNDS
    for size in (Size(2, 10, 50),) if quick else SIZES:
        with tempfile.TemporaryDirectory() as folder:
            written = write(Path(folder) / "runs", size)
            target = os.path.join(folder, "report.html")
            command = [sys.executable, "-m", "kbn", "report", f"{folder}/runs", "-o", target]
            taken = [_cpu_seconds(command) for _ in range(rounds)]
            as_json = [_cpu_seconds([*command, "--json"]) for _ in range(rounds)]
        yield {**size._asdict(), "megabytes": written / 1e6, "report": median(taken),
               "json": median(as_json)}  # fmt: skip


def tables(rows: Sequence[Row]) -> list[tuple[list[str], Cells]]:
    """Return the head and the cells of the table, if there are rows."""
    cells = [
        [f"{row['runs']}", f"{row['layers']}", f"{row['records']}", f"{row['megabytes']:.0f}",
         f"{row['report']:.1f}", f"{row['json']:.1f}"]
        for row in rows
    ]  # fmt: skip
    return [(HEAD, cells)] if cells else []


def write(folder: Path, size: Size) -> int:
    """Write a log of this size with the records of all callbacks, and return its bytes."""
    for run in range(size.runs):
        rng = np.random.default_rng(run)
        for kind in catalogue.RUNS:
            _write_callback(folder / f"run_{run}" / kind.name, size, rng)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _write_callback(folder: Path, size: Size, rng: np.random.Generator) -> None:
    """Write what the callback of the run `folder.name` writes in a `fit` of known length."""
    places = _measures_by_place(folder.name, size.layers)
    shown = [place for place in places if place.site in tags.SITES]
    file = EventFile(str(folder), shown, restarts=True, json_lines=False)
    thinning = Thinning()
    thinning.begin(size.records)
    for record in range(size.records):
        step = _EVERY * record
        values = iter(rng.uniform(0, 1, sum(map(len, places.values()))).tolist())
        found = Rows(step, {
            place: {name: next(values) if name not in ALARMS else 0.0 for name in names}
            for place, names in places.items()
        })  # fmt: skip
        buckets = {place: _buckets(rng) for place in shown} if thinning.keeps() else {}
        texts = {} if record else {catalogue.LAYERS: layers_in_order(found)}
        file.write(step, Record(found, buckets, texts=texts))
        costs = {
            Place("record", site): {catalogue.MONITOR: 1.0} for site in ("milliseconds", "bytes")
        }
        file.write(step, Record(Rows(step, costs)))


def _measures_by_place(kind: str, layers: int) -> dict[Place, Sequence[str]]:
    """Return the measures that a callback records at its default options, by place."""
    names = [f"block_{number // 10}/layer_{number}" for number in range(layers)]
    optional, about = set(catalogue.distances()) - set(DEFAULTS), catalogue.measures()
    measures = [
        name for name in catalogue.scalars(kind) if name.removesuffix("_worst") not in optional
    ]
    of_layer = [name for name in measures if about[name].whose == "layer"]
    of_model = [name for name in measures if about[name].whose == "model"]
    sites = tags.SITES if kind == catalogue.run_of("CovariateShift") else (tags.PROBE,)
    found = {Place(name, site): of_layer for name in names for site in sites if of_layer}
    return {**found, Place(tags.MODEL, tags.PROBE): of_model} if of_model else found


def _buckets(rng: np.random.Generator) -> np.ndarray:
    edges = np.sort(rng.normal(size=len(HISTOGRAM_POINTS)))
    return np.stack([edges[:-1], edges[1:], np.ones(len(edges) - 1)], axis=1)


def _cpu_seconds(command: Sequence[str]) -> float:
    """Return user and system time of `command` and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
