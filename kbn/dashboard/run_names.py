"""The names of runs."""

import os

from kbn.records import catalogue, file_systems

KINDS = tuple(run.name for run in catalogue.RUNS)
"""The names of the folders that callbacks write below `log_dir`."""
ITSELF = "."
"""The run of the folder that is read."""


def short_name(log_dir: str) -> str:
    """Return the last part of a path or URL, or the last two if the last is a callback's folder."""
    path = log_dir if file_systems.is_url(log_dir) else os.path.abspath(log_dir)
    *above, name = path.rstrip("/").replace(os.sep, "/").split("/")
    return f"{above[-1]}/{name}" if name in KINDS and above and above[-1] else name or path


def run_of(at: str) -> str:
    """Return the run that TensorBoard's run `at` belongs to: the `log_dir` of its callback."""
    run, _, kind = at.rpartition("/")
    return (run or ITSELF) if kind in KINDS else at
