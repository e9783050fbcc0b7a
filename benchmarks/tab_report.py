"""The page of the tab's benchmarks."""

from collections.abc import Sequence

from benchmarks.report import Cells, Row

HEAD = [
    "layers", "steps", "runs", "first draw of the tab, s", "with TensorBoard's own page, s",
    "until every figure of the tab stands, s", "first draw of a second visit, s",
]  # fmt: skip

INTRODUCTION = """# Benchmarks of the tab

Written by `make bench` (this page alone: `python -m benchmarks --only tab`), on an otherwise idle
machine; do not edit. A TensorBoard that was just started and has read a log of this size, and
headless Chromium on the same machine, without a cache and with no debugger attached, which would
slow scripts: medians of five, each with a new TensorBoard. *First draw* is from the beginning of
the tab's own page until the heat map of all layers and runs stands, by the browser's clock;
Plotly's script is loaded in it."""


def tables(rows: Sequence[Row]) -> list[tuple[list[str], Cells]]:
    """Return the head and the cells of the table, if there is any."""
    cells = [
        [f"{row['layers']}", f"{row['steps']}", f"{row['runs']}", f"{row['tab']:.2f}",
         f"{row['page']:.2f}", f"{row['everything']:.2f}", f"{row['again']:.2f}"]
        for row in rows
    ]  # fmt: skip
    return [(HEAD, cells)] if cells else []
