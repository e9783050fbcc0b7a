"""Run the benchmarks, print their tables, and write each part to docs/ as JSON and as a page."""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rich.progress import track

from benchmarks import (
    callbacks,
    callbacks_report,
    layers,
    networks,
    on_backend,
    prices,
    report,
    reports,
    tab,
    tab_report,
)
from benchmarks.passes import BACKEND


def _layer_rows(quick: bool) -> Iterator[dict[str, Any]]:
    yield networks.memory_row(quick)  # first: it starts its own processes
    yield from layers.rows(quick)
    yield from layers.errors()
    yield from networks.rows(quick)


class Part(NamedTuple):
    """A part of the benchmarks: its rows, the text and the tables of its page, and its files."""

    rows: Callable[[bool], Iterator[dict[str, Any]]]
    introduction: str
    tables: Callable[..., Any]
    file: str


def _parts() -> dict[str, Part]:
    """Return the parts for the backend in use, by name."""
    if BACKEND != "tensorflow":
        text, file = on_backend.introduction(BACKEND), f"benchmarks-{BACKEND}"
        return {"backend": Part(on_backend.rows, text, on_backend.tables, file)}
    pages = {
        "layer": (_layer_rows, report, "benchmarks"),
        "callbacks": (callbacks.rows, callbacks_report, "benchmarks-callbacks"),
        "tab": (tab.rows, tab_report, "benchmarks-tab"),
        "report": (reports.rows, reports, "benchmarks-report"),
        "prices": (prices.rows, prices, "benchmarks-prices"),
    }
    return {
        name: Part(rows, page.INTRODUCTION, page.tables, file)
        for name, (rows, page, file) in pages.items()
    }


def main() -> None:
    """Measure all parts, or one."""
    parts = _parts()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows, few rounds")
    parser.add_argument("--only", choices=parts, help="one part (all)")
    parser.add_argument("--out", default="docs", type=Path, help="folder of the files (docs)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    machine = report.machine()
    for name in [arguments.only] if arguments.only else parts:
        part = parts[name]
        rows = list(track(part.rows(arguments.quick), f"Measuring: {name}", total=None))
        tables = part.tables(rows)
        report.print_tables(tables)
        found = json.dumps({"machine": machine, "rows": rows}, indent=1, ensure_ascii=False)
        (arguments.out / f"{part.file}.json").write_text(found + "\n")
        text = report.markdown(part.introduction, tables, machine)
        (arguments.out / f"{part.file}.md").write_text(text)


if __name__ == "__main__":
    main()
