"""Run the benchmarks: print the tables, write docs/benchmarks.json and docs/benchmarks.md."""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rich.progress import track

from benchmarks import layers, networks, records, report


def _rows(quick: bool) -> Iterator[dict[str, Any]]:
    yield networks.memory_row(quick)  # first: it takes processes of its own
    yield from layers.rows(quick)
    yield from networks.rows(quick)
    yield from records.rows(quick)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows, few rounds")
    parser.add_argument("--out", default="docs", type=Path, help="folder of both files (docs)")
    arguments = parser.parse_args()
    machine = report.machine()
    rows = list(track(_rows(arguments.quick), "Measuring", total=None))
    report.print_tables(rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = json.dumps({"machine": machine, "rows": rows}, indent=1, ensure_ascii=False)
    (arguments.out / "benchmarks.json").write_text(found + "\n")
    (arguments.out / "benchmarks.md").write_text(report.markdown(rows, machine))


if __name__ == "__main__":
    main()
