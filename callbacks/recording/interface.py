"""What a session needs from its callback."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import keras

from kbn.callbacks.recording.schedule import Schedule
from kbn.callbacks.writing.event_file import Record
from kbn.common.types import Nested
from kbn.introspection.parts import Part
from kbn.records.history import History
from kbn.records.tags import Place


class RecordingCallback(Protocol):
    """A callback that records; see `Recorder` for the meaning of each member."""

    model: keras.Model
    params: Mapping[str, int | None] | None
    probe: Nested
    history: History
    schedule: Schedule
    budget: float | None
    part: Part
    notes: Mapping[str, str]
    writes_json_lines: bool
    compares_steps: bool

    @property
    def directory(self) -> str:
        """The folder of the event file."""

    def prepare(self, model: keras.Model) -> Sequence[Place]:
        """Prepare to record `model`, or raise; return the places whose percentiles are recorded."""

    def look_before(self) -> None:
        """Keep what the record of the coming step needs."""

    def record(self, step: int) -> Record:
        """Take a record."""

    def summarize(self) -> Record:
        """Return what to write at the end of an epoch with records."""

    def release(self) -> None:
        """Drop what `prepare` created."""
