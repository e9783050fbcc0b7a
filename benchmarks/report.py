"""The tables of the benchmarks of the layer, the page of any part, and the machine."""

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Cells = list[list[str]]

LAYER_HEAD = [
    "layer",
    "dtype",
    "mode",
    "pass",
    "kbn",
    "Keras",
    "÷ Keras",
    "torch",
    "÷ torch",
    "÷ floor",
]
ERROR_HEAD = ["error at mean/std = 10⁴", "mode", "execution path", "error"]
FIT_HEAD = ["fit", "kbn", "Keras", "without", "added by kbn", "added by Keras", "ratio"]
MEMORY_HEAD = ["peak memory of fit, MB", "kbn", "Keras", "without", "÷ Keras"]


LIBRARIES = {
    "tensorflow": ("tensorflow", "keras", "torch"),
    "jax": ("jax", "keras"),
    "torch": ("torch", "keras"),
}
"""The libraries that a benchmark on each backend uses."""


def machine() -> Row:
    """Return the machine and the versions of the libraries."""
    from benchmarks.passes import BACKEND
    from benchmarks.timing import cpus

    found: Row = {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "cpu": f"{_cpu()}, {cpus()} cores",
        "gpu": ", ".join(gpus()) or "none",
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES[BACKEND]},
    }
    if BACKEND == "tensorflow":
        from kbn.backend.tensorflow import native_kernels

        found["kernels"] = native_kernels.load().reason
        found["TF_ENABLE_ONEDNN_OPTS"] = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "not set")
    return found


def gpus() -> list[str]:
    """Return the names of the GPUs that the backend in use finds."""
    from benchmarks.passes import BACKEND

    if BACKEND == "jax":
        import jax

        return [each.device_kind for each in jax.devices() if each.platform == "gpu"]
    if BACKEND == "torch":
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [torch.cuda.get_device_name(index) for index in range(count)]
    import tensorflow as tf

    return [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]


def _version(name: str) -> str:
    try:
        return __import__(name).__version__
    except ImportError:
        return "not installed"


def tables(rows: Sequence[Row]) -> list[tuple[list[str], Cells]]:
    """Return the head and the cells of each table that has any."""
    groups = [
        (LAYER_HEAD, "layer", _layer_cells),
        (ERROR_HEAD, "error", _error_cells),
        (FIT_HEAD, "fit", _fit_cells),
        (MEMORY_HEAD, "memory", _memory_cells),
    ]
    found = [(head, [cells(row) for row in rows if row["group"] == group])
             for head, group, cells in groups]  # fmt: skip
    return [(head, cells) for head, cells in found if cells]


def print_tables(tables: Sequence[tuple[list[str], Cells]]) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table

    for head, cells in tables:
        table = Table(*head)
        for line in cells:
            table.add_row(*line)
        Console(width=150).print(table)


def markdown(introduction: str, tables: Sequence[tuple[list[str], Cells]], machine: Row) -> str:
    """Return a page of the documentation."""
    lines = [introduction, "", *(f"- {name}: {value}" for name, value in machine.items())]
    for head, cells in tables:
        lines += ["", _line(head), _line(["---"] * len(head)), *map(_line, cells)]
    return "\n".join(lines) + "\n"


INTRODUCTION = """# Benchmarks

Written by `make bench` on an otherwise idle machine; do not edit. Every row is measured in one
process, its columns in turn. Times are medians in milliseconds. *Training* is forward and backward,
with the gradients of inputs, γ and β. *Inference* is `training=False`.

The *floor* is the time of the fewest possible reads and writes of the activation, at the speed at
which all CPUs together copy memory, measured in the same row. In the forward pass, training has to
read x, and then to read x and write y. In the backward pass, it has to read x and dy, and then to
read x and dy and write dx. Inference has to read x and write y. The floor includes no Python calls
and no allocation of memory; the other columns include both. Compiled programs can be below it:
their reads find parts of the activation in the caches.

torch always runs eagerly, also in the rows for graph and XLA. It has the same memory layout as the
others, except in 3-D. *Error* is the largest error of the outputs in training, on float32 inputs of
32×28×28×64 whose mean is 10⁴ times their deviation. *Added* is how much longer a step of `fit`
takes than without normalization."""


def _layer_cells(row: Row) -> list[str]:
    torch, shape = row.get("torch"), "×".join(map(str, row["shape"]))
    return [
        f"{row['name']} ({shape})", row["dtype"], row["mode"], row["pass"],
        f"{row['kbn']:.2f}", f"{row['keras']:.2f}", f"{row['kbn'] / row['keras']:.2f}",
        f"{torch:.2f}" if torch else "–", f"{row['kbn'] / torch:.2f}" if torch else "–",
        f"{row['kbn'] / row['floor']:.1f}",
    ]  # fmt: skip


def _error_cells(row: Row) -> list[str]:
    return [row["name"], row["mode"], row["path"], f"{row['error']:.0e}"]


def _fit_cells(row: Row) -> list[str]:
    ours, theirs = row["kbn"] - row["none"], row["keras"] - row["none"]
    times = [row["kbn"], row["keras"], row["none"], ours, theirs]
    return [row["name"], *(f"{time:.2f}" for time in times), f"{ours / theirs:.2f}"]


def _memory_cells(row: Row) -> list[str]:
    sizes = [f"{row[kind]:.0f}" for kind in ("kbn", "keras", "none")]
    return [row["name"], *sizes, f"{row['kbn'] / row['keras']:.2f}"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _commit() -> str:
    git = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    done = subprocess.run(git, capture_output=True, text=True, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    level = next((flag for flag in ("avx512f", "avx2", "avx") if flag in flags.split()), "")
    return f"{models[0] if models else platform.machine()} {level}".strip()
