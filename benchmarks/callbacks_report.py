"""The page of the benchmarks of the callbacks."""

from collections.abc import Sequence

from benchmarks.report import Cells, Row

RECORD_HEAD = [
    "one record", "callback", "ms", "forward pass in training mode, ms", "ratio",
    "in inference mode, ms", "ratio", "places", "bytes", "bytes per place",
]  # fmt: skip
SHARE_HEAD = [
    "fit", "steps", "100 steps, s", "one record adds", "an empty callback adds",
    "once per fit, s", "once per epoch, ms", "share of fit", "in each round", "by its own count",
]  # fmt: skip
MEMORY_HEAD = ["10⁷ values, at a layer's input and output", "MB above the forward pass"]
GROWTH_HEAD = [
    "what grows",
    "to",
    "record, ms",
    "forward pass, ms",
    "ratio",
    "bytes",
    "resident, MB",
]

INTRODUCTION = """# Benchmarks of the callbacks

Written by `make bench` (this page alone: `python -m benchmarks --only callbacks`) on an otherwise
idle machine; do not edit. Times are medians. The columns of a row are measured in one process, in
turn.

*One record* is taken, compared and written to the event file, histograms included. Each callback
has its default options, except for its cadence. The forward pass is that of the same probe batch:
in training mode, as a record runs it, and in inference mode.

*Fit* is one fit in which `CovariateShift`, with its default options except for its cadence, runs
during every second block of ten steps. It takes a record in the first step of each of its blocks.
Blocks alternate because a slowdown of the machine lasts longer than a block, and because two
separate fits differ by up to 2.5 % even without a callback. *One record adds* is the sum of two
times, divided by the time of 100 steps. The first is how much longer a step with a record and the
nine steps after it take than ten steps without the callback, with each step at its median. The
second is the time of the callback's calls in the other 90 steps. *An empty callback adds* is the
same for a callback that does nothing.

*Share of fit* is for a fit of that many steps with a record every 100 steps. It is *one
record adds* plus the time of what the callback does once per fit or epoch (tracing, the first
record, pictures), which is measured directly. It is the mean over rounds, each with a new model.
*By its own count* uses the milliseconds that the callback itself reports.

*Memory* is by how much two records raise the peak that forward passes had reached. *Growth* varies
one size at a time. The others are 8 layers of 64 channels, recorded at inputs and outputs, and 256
samples of 8×8. Its last rows are from one run with many records: the cost of a record after that
many records, and the resident memory."""


def tables(rows: Sequence[Row]) -> list[tuple[list[str], Cells]]:
    """Return the head and the cells of each table that has any."""
    groups = [
        (RECORD_HEAD, "record", _record_cells),
        (SHARE_HEAD, "share", _share_cells),
        (MEMORY_HEAD, "memory", lambda row: [row["name"], f"{row['megabytes']:.0f}"]),
        (GROWTH_HEAD, "growth", _growth_cells),
    ]
    found = [(head, [cells(row) for row in rows if row["group"] == group])
             for head, group, cells in groups]  # fmt: skip
    return [(head, cells) for head, cells in found if cells]


def _record_cells(row: Row) -> list[str]:
    return [
        row["name"], row["callback"], f"{row['record']:.1f}",
        f"{row['training']:.1f}", f"{row['record'] / row['training']:.2f}",
        f"{row['inference']:.1f}", f"{row['record'] / row['inference']:.2f}",
        f"{row['places']}", f"{row['bytes']:.0f}", f"{row['bytes'] / row['places']:.0f}",
    ]  # fmt: skip


def _share_cells(row: Row) -> list[str]:
    shares = ", ".join(f"{each:.1%}" for each in row["shares"])
    return [
        row["name"], f"{row['steps']}", f"{row['hundred']:.3f}",
        f"{row['added'] / row['hundred']:+.1%}", f"{row['alike']:+.1%}", f"{row['in_fit']:.2f}",
        f"{1e3 * row['in_epoch']:.1f}", f"{row['share']:.1%}", shares, f"{row['own']:.1%}",
    ]  # fmt: skip


def _growth_cells(row: Row) -> list[str]:
    forward = row.get("training")
    resident = row.get("resident")
    return [
        row["name"], f"{row['value']}", f"{row['record']:.1f}",
        f"{forward:.1f}" if forward else "–", f"{row['record'] / forward:.2f}" if forward else "–",
        f"{row['bytes']:.0f}", f"{resident:.0f}" if resident else "–",
    ]  # fmt: skip
