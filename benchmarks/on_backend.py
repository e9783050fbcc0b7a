"""The page of the benchmarks on JAX or PyTorch: the layer, how exact it is, and the callbacks."""

from collections.abc import Iterator, Sequence

from benchmarks import callbacks, callbacks_report, layers, report
from benchmarks.report import Cells, Row

TITLES = {"jax": "JAX", "torch": "PyTorch"}
MODES = {
    "jax": "All programs are compiled by `jax.jit`, as in `fit`.",
    "torch": """All calls are eager, as in `fit`. The column *torch* is `torch.nn.BatchNorm2d`, or
its form for other ranks, in the same memory layout. Only in 3-D are its channels first, because
torch has no other layout there.""",
}
WATCHED = "3×100 net on 784, batch 60"


def rows(quick: bool) -> Iterator[Row]:
    """Measure all parts."""
    yield from layers.rows(quick)
    yield from layers.errors()
    yield from callbacks.records(quick, list(callbacks.NETWORKS)[quick:])
    settings = callbacks.FITS[WATCHED]._replace(epochs=3, rounds=1)
    yield callbacks.share(WATCHED, settings, quick)


def introduction(backend: str) -> str:
    """Return the text above the tables of a backend's page."""
    return f"""# Benchmarks on {TITLES[backend]}

Written by `make bench BACKEND={backend}` on an otherwise idle machine; do not edit.
[benchmarks.md](benchmarks.md) and [benchmarks-callbacks.md](benchmarks-callbacks.md) are the pages
for TensorFlow, and explain the columns. Every row is measured in one process, its columns in turn.
Times are medians in milliseconds. *Error* is the largest error of the outputs in training, on
float32 inputs of 32×28×28×64 whose mean is 10⁴ times their deviation.

{MODES[backend]}"""


def tables(rows: Sequence[Row]) -> list[tuple[list[str], Cells]]:
    """Return the head and the cells of each table that has any."""
    return [*report.tables(rows), *callbacks_report.tables(rows)]
