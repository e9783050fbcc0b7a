"""The writer of records: a TensorBoard event file, and JSON lines next to it.

It uses TensorBoard's protos and record format. So writing does not need TensorFlow, and the user's
`tf.summary` settings (`record_if`, a default writer) do not affect the records.
"""

import itertools
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from kbn.callbacks.writing import summaries
from kbn.callbacks.writing.appended_file import File
from kbn.callbacks.writing.picture import Picture
from kbn.records import event_framing as records
from kbn.records import file_systems
from kbn.records import json_lines as lines
from kbn.records.history import Rows
from kbn.records.tags import Place

EVENTS = "the event file"
FILE_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Record:
    """The content of one record.

    Attributes:
        rows: scalars; None if there are none.
        histograms: (k, 3) float64 rows of (left, right, count), by place.
        pictures: pictures by tag.
        texts: Markdown by tag.
    """

    rows: Rows | None = None
    histograms: Mapping[Place, np.ndarray] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


class EventFile:
    """One TensorBoard event file in its own run directory.

    Each event goes to the operating system immediately, and either completely or not at all. So
    TensorBoard can read everything that was written, even if training stops or the disk is full.
    If the file is removed, the next event begins a new one.
    """

    def __init__(
        self, directory: str, places: Sequence[Place] = (), *, restarts: bool, json_lines: bool
    ) -> None:
        """Prepare to write; the first event creates the files and `directory`.

        Args:
            directory: the run directory.
            places: the places whose percentiles the Custom Scalars tab shows as a band.
            restarts: whether TensorBoard drops the events of other files from the first step on.
            json_lines: whether to also write the rows to `history.jsonl`.
        """
        self._directory = directory
        self._restarts = restarts
        self._layout = summaries.layout(places) if places else None
        self._lines = File(directory, lines.NAME) if json_lines else None
        self._file = self._new_file()
        self._builder = summaries.Builder()

    def write(self, step: int, record: Record) -> int:
        """Add one record as a single event, and return its size in bytes.

        Raises:
            OSError: if it cannot be written; then no part of it is in the event file.
        """
        try:
            return self._write(step, record)
        except Exception:
            self._builder = summaries.Builder()  # because the descriptions were not written
            raise

    def vanished(self) -> list[str]:
        """Return which files were removed; the next event creates them again."""
        found = []
        if self._file.vanished():
            found.append(EVENTS)
            self._file, self._builder = self._new_file(), summaries.Builder()
        if self._lines is not None and self._lines.vanished():
            found.append(lines.NAME)
            self._lines.begin_anew()
        return found

    def _write(self, step: int, record: Record) -> int:
        self._begin_if_needed(step)
        summary = self._builder.summary(
            record.rows, record.histograms, record.pictures, record.texts
        )
        data = _as_record(Event(wall_time=time.time(), step=step, summary=summary))
        self._file.append(data)
        if self._lines is None or not record.rows:
            return len(data)
        copy = lines.json_lines(record.rows)
        try:
            self._lines.append(copy)
        except Exception:
            self._file.take_back()
            raise
        return len(data) + len(copy)

    def _begin_if_needed(self, step: int) -> None:
        if self._file.is_begun:
            return
        events = [summaries.header()]
        if self._restarts:
            events.append(summaries.restart(step))
        if self._layout is not None:
            events.append(_event_of(self._layout))
        self._file.append(b"".join(map(_as_record, events)))

    def _new_file(self) -> File:
        name = (
            f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(FILE_NUMBERS):06d}"
        )
        return File(self._directory, f"events.out.tfevents.{name}")


def check_log_dir(log_dir: object) -> str:
    """Return `log_dir` as a string, or raise if runs cannot be written there."""
    if not isinstance(log_dir, str | os.PathLike) or not str(log_dir):
        raise TypeError(f"log_dir must be a path. Received: log_dir={log_dir!r}")
    path = file_systems.located(log_dir)
    if file_systems.is_url(path):
        return path
    path = there = os.path.abspath(path)  # the current folder may change during training
    while there:
        if os.path.exists(there) and not os.path.isdir(there):
            raise ValueError(
                f"log_dir must be a folder, and {there!r} is a file. Received: log_dir={path!r}"
            )
        there = os.path.dirname(there)
        if os.path.isdir(there):
            break
    return path


def _event_of(summary: Summary) -> Event:
    return Event(wall_time=time.time(), summary=summary)


def _as_record(event: Event) -> bytes:
    return records.framed(event.SerializeToString())
