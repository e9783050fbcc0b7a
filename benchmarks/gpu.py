"""Measure the layer and the callbacks on a GPU: `make bench-gpu`, in at most 8 minutes.

The backend is KERAS_BACKEND, or else the first installed of PyTorch, JAX and TensorFlow that finds
a GPU.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.report import Cells, Row

SECONDS = 390  # a row that begins later could end after 8 minutes
INTRODUCTION = """# Benchmarks on a GPU

Written by `make bench-gpu`; do not edit. *Copy* is the speed of x·2 on the device: it reads and
writes the activation once. The columns *kbn*, *Keras* and *BatchNorm2d* (channels last) are
fractions of this speed: the effective bandwidth, 8 × the bytes of x ÷ time in training (forward and
backward, with the gradients of inputs, γ and β) and 2 × in inference. A row is measured in one
process, its columns in turn, several calls for each wait for the device. *Error* is the largest
error of the outputs in training, on float32 inputs whose mean is 10⁴ times their deviation. The
fits whose weights are compared run with the libraries' deterministic kernels; nothing else does."""
BANDWIDTH_HEAD = [
    "activation", "dtype", "pass", "copy, GB/s", "kbn", "Keras", "BatchNorm2d", "kbn, ms",
    "÷ Keras", "÷ BatchNorm2d",
]  # fmt: skip
FIT_HEAD = ["fit", "weights equal those of the first fit, bit for bit"]
LATE_HEAD = ["not measured, because the time was over", ""]


def main() -> None:
    """Measure, print the tables, and write docs/benchmarks-gpu-BACKEND.{md,json}."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small sizes, on a CPU too")
    parser.add_argument("--out", default="docs", type=Path, help="folder of the files (docs)")
    arguments = parser.parse_args()
    # The fits that are compared run in a process of their own, which needs memory of the GPU too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    chosen = os.environ.get("KERAS_BACKEND") or backend_with_gpu()
    if chosen is None and not arguments.tiny:
        sys.exit("bench-gpu: none of PyTorch, JAX and TensorFlow that are installed here finds a "
                 "GPU. To try it on a CPU: python -m benchmarks.gpu --tiny")  # fmt: skip
    if chosen:
        os.environ["KERAS_BACKEND"] = chosen
    _measure(arguments)


def backend_with_gpu() -> str | None:
    """Return the first installed backend that finds a GPU."""

    def torch() -> bool:
        import torch

        return torch.cuda.is_available()

    def jax() -> bool:
        import jax

        return jax.default_backend() == "gpu"

    def tensorflow() -> bool:
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))

    finds: dict[str, Callable[[], bool]] = {"torch": torch, "jax": jax, "tensorflow": tensorflow}
    return next((name for name, found in finds.items() if find_spec(name) and found()), None)


def _measure(arguments: argparse.Namespace) -> None:
    from rich.progress import track

    from benchmarks import gpu_rows, report
    from benchmarks.passes import BACKEND

    if not arguments.tiny and not report.gpus():
        sys.exit(f"bench-gpu: {BACKEND} finds no GPU. To try it on a CPU: "
                 "python -m benchmarks.gpu --tiny")  # fmt: skip
    machine = report.machine()
    measuring = gpu_rows.rows(tiny=arguments.tiny, seconds=SECONDS)
    rows = list(track(measuring, "Measuring", total=None))
    found = tables(rows)
    report.print_tables(found)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / f"benchmarks-gpu-{BACKEND}"
    kept = json.dumps({"machine": machine, "rows": rows}, indent=1, ensure_ascii=False)
    file.with_suffix(".json").write_text(kept + "\n")
    file.with_suffix(".md").write_text(report.markdown(INTRODUCTION, found, machine))


def tables(rows: "Sequence[Row]") -> "list[tuple[list[str], Cells]]":
    """Return the head and the cells of each table that has any."""
    from benchmarks import callbacks_report, report

    own: list[tuple[list[str], str, Callable[[Any], list[list[str]]]]] = [
        (BANDWIDTH_HEAD, "bandwidth", lambda row: [_bandwidth_cells(row)]),
        (FIT_HEAD, "identical", _fit_cells),
        (LATE_HEAD, "late", lambda row: [[row["name"], ""]]),
    ]
    found = [(head, [cells for row in rows if row["group"] == group for cells in lines(row)])
             for head, group, lines in own]  # fmt: skip
    return [
        *report.tables(rows),
        *callbacks_report.tables(rows),
        *(each for each in found if each[1]),
    ]


def _bandwidth_cells(row: "Row") -> list[str]:
    from benchmarks.layers import TRANSFERS

    transfers, shape = TRANSFERS[row["pass"]], "×".join(map(str, row["shape"]))
    copied = 2 * row["bytes"] / row["copy"] / 1e6
    shares = [f"{transfers / 2 * row['copy'] / row[name]:.2f}" if name in row else "–"
              for name in ("kbn", "keras", "torch")]  # fmt: skip
    ratios = [
        f"{row['kbn'] / row[name]:.2f}" if name in row else "–" for name in ("keras", "torch")
    ]
    return [
        shape,
        row["dtype"],
        row["pass"],
        f"{copied:.0f}",
        *shares,
        f"{row['kbn']:.3f}",
        *ratios,
    ]


def _fit_cells(row: "Row") -> list[list[str]]:
    records = ", ".join(map(str, row["records"]))
    return [
        ["once more, without callbacks", _yes(row["again"])],
        [f"with all callbacks, which took {records} records", _yes(row["watched"])],
    ]


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


if __name__ == "__main__":
    main()
