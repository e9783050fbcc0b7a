"""Figures of recorded runs, for notebooks, reports and TensorBoard.

This package needs neither Keras nor a backend.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kbn.dashboard.board import Dashboard

__all__ = ["load"]


def load(log_dir: str | os.PathLike[str], runs: str | Sequence[str] | None = None) -> "Dashboard":
    """Read the event files below `log_dir`, for figures in a notebook.

    Example:
        >>> import pathlib, tempfile
        >>> import kbn.dashboard
        >>> board = kbn.dashboard.load(tempfile.mkdtemp())
        >>> board.runs
        []

    Args:
        log_dir: the `log_dir` of the callbacks, or a folder above several of them: a path, or a URL
            that TensorBoard reads, such as `gs://bucket/runs`.
        runs: glob pattern, or a list of them, of the runs to show; None: all.

    Raises:
        FileNotFoundError: if `log_dir` does not exist.
        OSError: if it is a URL that cannot be reached.
        ValueError: if a pattern matches no run.
    """
    from kbn.dashboard.board import Dashboard
    from kbn.dashboard.folder import open_folder

    log = open_folder(log_dir)
    return Dashboard(log, runs, log.unreadable)
