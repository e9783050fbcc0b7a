"""Where records go: a TensorBoard event file.

TensorBoard's own writer and protos are used, so that no TensorFlow is needed to write and no
`tf.summary` setting of the user's (`record_if`, a default writer) reaches the records.
"""

import os
import time
from collections.abc import Iterable, Mapping

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_SCALAR,
    DATA_CLASS_TENSOR,
    Summary,
    SummaryMetadata,
)
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar_metadata
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from kbn import tags
from kbn.tags import Row, Tap

CATEGORY = "Covariate shift: 15th, 50th and 85th percentile"


def row(step: int, tap: Tap, measure: str, value: float) -> Row:
    """Make a row whose value is rounded to the float32 that the event file holds."""
    with np.errstate(over="ignore"):
        return Row(step, tap.layer, tap.site, measure, float(np.float32(value)))


class EventFile:
    """One TensorBoard event file in a run directory of its own."""

    def __init__(self, directory: str) -> None:
        """Create `directory` where it is absent, and a new event file in it."""
        self._writer = EventFileWriter(directory)
        self._described: set[str] = set()

    def write(self, step: int, rows: Iterable[Row], histograms: Mapping[Tap, np.ndarray]) -> None:
        """Add one record, as a single event.

        Args:
            step: the step it belongs to.
            rows: its scalars.
            histograms: its (k, 3) float64 rows of (left, right, count), by place.
        """
        summary = Summary()
        for tap, buckets in histograms.items():
            self._add_histogram(summary, tap, buckets)
        for one in rows:
            self._add_scalar(summary, one)
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def write_layout(self, taps: Iterable[Tap]) -> None:
        """Add the custom-scalars layout that shows each place's percentiles as a band."""
        # The page shows a category's charts in reverse.
        layout = layout_pb2.Layout(category=[_percentile_category(reversed(list(taps)))])
        summary = Summary()
        summary.value.add(
            tag=custom_scalar_metadata.CONFIG_SUMMARY_TAG,
            tensor=make_tensor_proto(layout.SerializeToString(), dtype=np.object_),
            metadata=_with_class(
                custom_scalar_metadata.create_summary_metadata(), DATA_CLASS_TENSOR
            ),
        )
        self._writer.add_event(Event(wall_time=time.time(), summary=summary))

    def flush(self) -> None:
        """Bring everything written so far to disk."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file; a second call does nothing."""
        self._writer.close()

    def _add_histogram(self, summary: Summary, tap: Tap, buckets: np.ndarray) -> None:
        tag = tags.tag(tags.HISTOGRAM, tap)
        value = summary.value.add(tag=tag, tensor=make_tensor_proto(buckets, dtype=np.float64))
        if self._is_new(tag):
            text = tags.DESCRIPTIONS[tags.HISTOGRAM]
            metadata = histogram_metadata.create_summary_metadata("", text)
            value.metadata.CopyFrom(_with_class(metadata, DATA_CLASS_TENSOR))

    def _add_scalar(self, summary: Summary, one: Row) -> None:
        tag = tags.tag(one.measure, Tap(one.layer, one.site))
        value = summary.value.add(tag=tag, tensor=make_tensor_proto(one.value, dtype=np.float32))
        if self._is_new(tag):
            text = tags.DESCRIPTIONS[one.measure]
            metadata = scalar_metadata.create_summary_metadata("", text)
            value.metadata.CopyFrom(_with_class(metadata, DATA_CLASS_SCALAR))

    def _is_new(self, tag: str) -> bool:
        """Say whether `tag` is new to this file: TensorBoard wants its metadata once."""
        new = tag not in self._described
        self._described.add(tag)
        return new


def check_log_dir(log_dir: object) -> str:
    """Return `log_dir` as a string, or say why no run can be written below it."""
    if not isinstance(log_dir, str | os.PathLike) or not str(log_dir):
        raise TypeError(f"log_dir must be a path. Received: log_dir={log_dir!r}")
    path = os.fspath(log_dir)
    there = path
    while there and "://" not in there:
        if os.path.exists(there) and not os.path.isdir(there):
            raise ValueError(
                f"log_dir must be a folder, and {there!r} is a file. Received: log_dir={path!r}"
            )
        there = os.path.dirname(there)
        if os.path.isdir(there):
            break
    return path


def _percentile_category(taps: Iterable[Tap]) -> layout_pb2.Category:
    low, middle, high = tags.PERCENTILE_MEASURES
    charts = [
        layout_pb2.Chart(
            title=f"{tap.layer} {tap.site}",
            margin=layout_pb2.MarginChartContent(
                series=[
                    layout_pb2.MarginChartContent.Series(
                        value=tags.tag(middle, tap),
                        lower=tags.tag(low, tap),
                        upper=tags.tag(high, tap),
                    )
                ]
            ),
        )
        for tap in taps
    ]
    return layout_pb2.Category(title=CATEGORY, chart=charts)


def _with_class(metadata: SummaryMetadata, data_class: int) -> SummaryMetadata:
    """Set the data class, without which TensorBoard drops the summary."""
    metadata.data_class = data_class
    return metadata
