"""The page of the benchmarks of the tab."""

from collections.abc import Sequence

from benchmarks.report import Cells, Row

HEAD = [
    "layers", "steps", "runs", "first draw of the tab, s", "including TensorBoard's own page, s",
    "until every figure of the tab is drawn, s", "first draw of a second visit, s",
]  # fmt: skip

INTRODUCTION = """# Benchmarks of the tab

Written by `make bench` (this page alone: `python -m benchmarks --only tab`) on an otherwise idle
machine; do not edit. Times are medians of five. For each time, a new TensorBoard has read a log of
this size. The browser is headless Chromium on the same machine, without a cache, and without a
debugger, which would slow scripts down. *First draw* is the time from the start of the tab's own
page until the heat map of all layers and runs is drawn, by the browser's clock. It includes loading
Plotly's script."""


def tables(rows: Sequence[Row]) -> list[tuple[list[str], Cells]]:
    """Return the head and the cells of the table, if there are rows."""
    cells = [
        [f"{row['layers']}", f"{row['steps']}", f"{row['runs']}", f"{row['tab']:.2f}",
         f"{row['page']:.2f}", f"{row['everything']:.2f}", f"{row['again']:.2f}"]
        for row in rows
    ]  # fmt: skip
    return [(HEAD, cells)] if cells else []
