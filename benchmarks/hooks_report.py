"""The page of the hooks' benchmarks."""

from collections.abc import Sequence

from benchmarks.report import Cells, Row

RECORD_HEAD = [
    "one record", "hook", "ms", "forward pass in training mode, ms", "ratio",
    "in inference mode, ms", "ratio", "places", "bytes", "bytes per place",
]  # fmt: skip
SHARE_HEAD = [
    "fit", "steps", "a hundred steps, s", "a record adds to them", "nothing adds",
    "once in a fit, s", "once in an epoch, ms", "share of fit", "of all rounds", "its own account",
]  # fmt: skip
MEMORY_HEAD = ["10⁷ values, once in and once out of a layer", "MB above the forward pass"]
GROWTH_HEAD = [
    "what grows",
    "to",
    "record, ms",
    "forward pass, ms",
    "ratio",
    "bytes",
    "resident, MB",
]

INTRODUCTION = """# Benchmarks of the hooks

Written by `make bench` (this page alone: `python -m benchmarks --only hooks`), on an otherwise idle
machine; do not edit. Medians; the columns of a row are measured in one process, in turn. *One
record* is taken, compared and written to the event file, histograms included, by each hook at its
defaults but for its cadence. The forward pass is that of the same probe batch: in training mode, as
a record has to make it, and in inference mode. *Fit* is one in that `CovariateShift`, at its
defaults but for its cadence, is handed every second ten steps, the first of which takes a record,
and of the others nothing: what slows a machine lasts longer, and two fits beside each other differ
by up to 2.5 % even without a hook. The share is made of what a record and the nine steps behind it
take longer than ten steps without the hook, each as it usually is (the median); of what its calls
take at 90 steps more; and of what it does once in a fit or an epoch (tracing, the first record,
pictures), by the clock, in a fit of that many steps with a record every hundred. It is the mean of
the rounds, each with a new model. *Nothing adds* is the same of a callback that does nothing. *Its
own account* is by the milliseconds that the hook itself says. *Memory* is by how much two records
raise the peak that forward passes had reached. *Growth* varies one thing at a time around 8 layers
of 64 channels, watched at both sides, and 256 samples of 8×8; at last the records of one run, with
its resident memory."""


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
        row["name"], row["hook"], f"{row['record']:.1f}",
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
