"""Run the benchmarks, print their tables, and write each part to docs/ as JSON and as a page."""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rich.progress import track

from benchmarks import (
    callbacks,
    callbacks_report,
    layers,
    networks,
    prices,
    report,
    reports,
    tab,
    tab_report,
)

# For each part, by name: its page, and the name of its files in docs/.
PARTS = {
    "layer": (report, "benchmarks"),
    "callbacks": (callbacks_report, "benchmarks-callbacks"),
    "tab": (tab_report, "benchmarks-tab"),
    "report": (reports, "benchmarks-report"),
    "prices": (prices, "benchmarks-prices"),
}
# The parts that are measured by the function `rows` of one module.
MEASURED = {"callbacks": callbacks, "tab": tab, "report": reports, "prices": prices}


def _rows(part: str, quick: bool) -> Iterator[dict[str, Any]]:
    if part in MEASURED:
        yield from MEASURED[part].rows(quick)
        return
    yield networks.memory_row(quick)  # first: it starts its own processes
    yield from layers.rows(quick)
    yield from networks.rows(quick)


def main() -> None:
    """Measure all parts, or one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows, few rounds")
    parser.add_argument("--only", choices=PARTS, help="one part (all)")
    parser.add_argument("--out", default="docs", type=Path, help="folder of the files (docs)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    machine = report.machine()
    for part in [arguments.only] if arguments.only else PARTS:
        page, name = PARTS[part]
        rows = list(track(_rows(part, arguments.quick), f"Measuring: {part}", total=None))
        tables = page.tables(rows)
        report.print_tables(tables)
        found = json.dumps({"machine": machine, "rows": rows}, indent=1, ensure_ascii=False)
        (arguments.out / f"{name}.json").write_text(found + "\n")
        text = report.markdown(page.INTRODUCTION, tables, machine)
        (arguments.out / f"{name}.md").write_text(text)


if __name__ == "__main__":
    main()
