"""Write logs of any size with known values."""

import os

import numpy as np

from kbn.callbacks.recording.settings import layers_in_order
from kbn.callbacks.writing.event_file import EventFile, Record
from kbn.records import catalogue
from kbn.records.history import Rows
from kbn.records.tags import Place

# Names that would do harm if they were not treated as plain text.
HOSTILE = (
    "<script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned = 2">',
    "</script><svg onload=window.pwned=3>",
    "<a href='javascript:window.pwned=4'>a</a>",
    "%{x}<br>$x$ &lt;b&gt; `code` | **b**",
    "../../etc/passwd",
    "Ж-層-🙂",
    "l" * 300,
)


def write(log_dir, measures, steps=None, *, sites=("input",), histograms=None, kind=None):
    """Write one run.

    Args:
        log_dir: the folder of the run.
        measures: by name and layer, a list with one value per record.
        steps: steps of the records; None for 0, 100, …
        sites: the sites of every layer.
        histograms: by layer, a list with (k, 3) buckets per record.
        kind: name of the callback's run; None for that of CovariateShift.
    """
    layers = list(dict.fromkeys(layer for of in measures.values() for layer in of))
    places = [Place(layer, site) for layer in layers for site in sites]
    records = max(len(values) for of in measures.values() for values in of.values())
    folder = os.path.join(log_dir, kind or "covariate_shift")
    file = EventFile(folder, places, restarts=False, json_lines=False)
    for record in range(records):
        step = 100 * record if steps is None else steps[record]
        rows = Rows(step, {
            place: {name: float(of[place.layer][record])
                  for name, of in measures.items() if place.layer in of}
            for place in places
        })  # fmt: skip
        shown = {place: np.asarray(histograms[place.layer][record]) for place in places
                 if place.layer in (histograms or {})}  # fmt: skip
        texts = {} if record else {catalogue.LAYERS: layers_in_order(rows)}
        file.write(step, Record(rows, shown, texts=texts))


def buckets(rng, shift=0.0, k=20):
    """Return (k, 3) buckets of a normal sample, cut at quantiles."""
    x = rng.normal(shift, 1, 1000)
    edges = np.quantile(x, np.linspace(0, 1, k + 1))
    return np.stack([edges[:-1], edges[1:], np.full(k, 1000 / k)], axis=1)


def hostile_log(folder):
    """Write runs and layers with names from `HOSTILE`, and damaged files."""
    rng = np.random.default_rng(0)
    values = {name: [0.0, 1.0, 2.0] for name in HOSTILE}
    measures = dict.fromkeys(("wasserstein", "jeffreys", *catalogue.PERCENTILES), values)
    shapes = {name: [buckets(rng)] * 3 for name in HOSTILE}
    for run in ("<img src=x onerror=window.pwned=5>", "'\"><script>window.pwned=6<"):
        write(folder / run, measures, histograms=shapes)
    (folder / "empty").mkdir()
    empty = folder / "empty" / "events.out.tfevents.1.<b>host"
    empty.touch()
    (file, *_) = (file for file in folder.rglob("*tfevents*") if file != empty)
    file.write_bytes(file.read_bytes()[:-9])
    for each in (empty, file):
        os.utime(each, (0, 0))  # because recently written files are not reported as damaged
