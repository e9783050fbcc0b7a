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
FIT_HEAD = ["fit", "kbn", "Keras", "without", "added by kbn", "added by Keras", "ratio"]
MEMORY_HEAD = ["peak memory of fit, MB", "kbn", "Keras", "without", "÷ Keras"]


def machine() -> Row:
    """Return the machine and the versions of the libraries."""
    import keras
    import tensorflow as tf

    from benchmarks import torch_layers
    from benchmarks.timing import cpus
    from kbn.backend.tensorflow import native_kernels

    gpus = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
            for gpu in tf.config.list_physical_devices("GPU")]  # fmt: skip
    found: Row = {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "cpu": f"{_cpu()}, {cpus()} cores",
        "gpu": ", ".join(gpus) or "none",
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "torch": "not installed",
        "kernels": native_kernels.load().reason,
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "not set"),
    }
    if torch_layers.available():
        import torch

        found["torch"] = torch.__version__
    return found


def tables(rows: Sequence[Row]) -> list[tuple[list[str], Cells]]:
    """Return the head and the cells of each table that has any."""
    groups = [
        (LAYER_HEAD, "layer", _layer_cells),
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
and no allocation of memory; the other columns include both.

torch always runs eagerly, also in the rows for graph and XLA. It has the same memory layout as the
others, except in 3-D. *Added* is how much longer a step of `fit` takes than without
normalization."""


def _layer_cells(row: Row) -> list[str]:
    torch, shape = row.get("torch"), "×".join(map(str, row["shape"]))
    return [
        f"{row['name']} ({shape})", row["dtype"], row["mode"], row["pass"],
        f"{row['kbn']:.2f}", f"{row['keras']:.2f}", f"{row['kbn'] / row['keras']:.2f}",
        f"{torch:.2f}" if torch else "–", f"{row['kbn'] / torch:.2f}" if torch else "–",
        f"{row['kbn'] / row['floor']:.1f}",
    ]  # fmt: skip


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
