"""Records as TensorBoard's protos."""

import time
from array import array
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog, SourceMetadata
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    DATA_CLASS_SCALAR,
    DATA_CLASS_TENSOR,
    Summary,
    SummaryMetadata,
)
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar_metadata
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.util.tensor_util import make_tensor_proto

from kbn.callbacks.writing.picture import Picture
from kbn.records import catalogue, tags
from kbn.records.history import Key, Rows
from kbn.records.tags import Place

CATEGORY = "Covariate shift: 15th, 50th and 85th percentile"
_KINDS_KEPT = 8  # kinds of records in the cache; records of a kind have the same places


class _Scalars:
    """The scalars of some places, serialized once; each record then replaces only the numbers."""

    def __init__(self, places: Sequence[Key]) -> None:
        serialized = [_scalar(place).SerializeToString() for place in places]
        self._bytes = np.frombuffer(bytearray(b"".join(serialized)), np.uint8)
        # The number is at the end: `float_val` is the last field of a tensor, and the tensor is
        # the last field of a value without metadata.
        self._ends = np.cumsum([len(each) for each in serialized])[:, None] - range(4, 0, -1)

    def of(self, values: "array[float]") -> bytes:
        """Return a serialized summary of `values`, one per place."""
        self._bytes[self._ends] = np.array(values, "<f4").view(np.uint8).reshape(-1, 4)
        return self._bytes.tobytes()


def _scalar(place: Key) -> Summary:
    layer, site, measure = place
    summary = Summary()
    tensor = summary.value.add(tag=tags.tag(measure, Place(layer, site))).tensor
    tensor.dtype = 1  # DT_FLOAT
    tensor.tensor_shape.SetInParent()
    tensor.float_val.append(0.0)
    return summary


class Builder:
    """Builds the summaries of one file, and writes the metadata of a tag only once."""

    def __init__(self) -> None:
        self._described: set[str] = set()
        self._scalars: dict[tuple[Key, ...], _Scalars] = {}

    def summary(
        self,
        rows: Rows | None,
        histograms: Mapping[Place, np.ndarray],
        pictures: Mapping[str, Picture],
        texts: Mapping[str, str],
    ) -> Summary:
        """Return one record as a summary."""
        summary = Summary()
        for place, buckets in histograms.items():
            self._add_histogram(summary, place, buckets)
        if rows:
            self._add_scalars(summary, rows)
        for tag, picture in pictures.items():
            self._add_picture(summary, tag, picture)
        for tag, text in texts.items():
            self._add_text(summary, tag, text)
        return summary

    def _add_histogram(self, summary: Summary, place: Place, buckets: np.ndarray) -> None:
        tag = tags.tag(catalogue.HISTOGRAM, place)
        value = summary.value.add(tag=tag)
        value.tensor.dtype = 2  # DT_DOUBLE; make_tensor_proto takes ten times as long
        for size in buckets.shape:
            value.tensor.tensor_shape.dim.add(size=size)
        value.tensor.tensor_content = buckets.astype("<f8").tobytes()
        if self._is_new(tag):
            text = catalogue.measures()[catalogue.HISTOGRAM].meaning
            metadata = histogram_metadata.create_summary_metadata("", text)
            value.metadata.CopyFrom(_with_class(metadata, DATA_CLASS_TENSOR))

    def _add_scalars(self, summary: Summary, rows: Rows) -> None:
        places = rows.places
        known = places in self._scalars
        if not known:
            if len(self._scalars) == _KINDS_KEPT:
                self._scalars.clear()
            self._scalars[places] = _Scalars(places)
        first = len(summary.value)
        summary.MergeFromString(self._scalars[places].of(rows.values))
        if not known:
            for value, (_, _, measure) in zip(summary.value[first:], places, strict=True):
                self._describe_scalar(value, measure)

    def _describe_scalar(self, value: Summary.Value, measure: str) -> None:
        if self._is_new(value.tag):
            metadata = scalar_metadata.create_summary_metadata(
                "", catalogue.measures()[measure].meaning
            )
            value.metadata.CopyFrom(_with_class(metadata, DATA_CLASS_SCALAR))

    def _add_picture(self, summary: Summary, tag: str, picture: Picture) -> None:
        width, height = picture.size
        content = [str(width).encode(), str(height).encode(), picture.png]
        value = summary.value.add(tag=tag, tensor=make_tensor_proto(content, dtype=np.object_))
        if self._is_new(tag):
            metadata = image_metadata.create_summary_metadata(
                "", catalogue.measures()[tag].meaning, converted_to_tensor=None
            )
            value.metadata.CopyFrom(_with_class(metadata, DATA_CLASS_BLOB_SEQUENCE))

    def _add_text(self, summary: Summary, tag: str, text: str) -> None:
        content = make_tensor_proto(text.encode(), dtype=np.object_)
        value = summary.value.add(tag=tag, tensor=content)
        if self._is_new(tag):
            about = catalogue.measures()[tag.split("/")[0]].meaning
            metadata = text_metadata.create_summary_metadata("", about)
            value.metadata.CopyFrom(_with_class(metadata, DATA_CLASS_TENSOR))

    def _is_new(self, tag: str) -> bool:
        new = tag not in self._described
        self._described.add(tag)
        return new


def header() -> Event:
    """Return the first event of a file."""
    source = SourceMetadata(writer="kbn")
    return Event(wall_time=time.time(), file_version="brain.Event:2", source_metadata=source)


def restart(step: int) -> Event:
    """Return the event that makes TensorBoard drop the events of earlier files from `step` on.

    Training that is resumed from a backup runs some steps again.
    """
    return Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START))


def layout(places: Iterable[Place]) -> Summary:
    """Return the custom-scalars layout that shows each place's percentiles as a band."""
    # TensorBoard shows the charts of a category in reverse order.
    page = layout_pb2.Layout(category=[_percentile_category(reversed(list(places)))])
    summary = Summary()
    summary.value.add(
        tag=custom_scalar_metadata.CONFIG_SUMMARY_TAG,
        tensor=make_tensor_proto(page.SerializeToString(), dtype=np.object_),
        metadata=_with_class(custom_scalar_metadata.create_summary_metadata(), DATA_CLASS_TENSOR),
    )
    return summary


def _percentile_category(places: Iterable[Place]) -> layout_pb2.Category:
    low, middle, high = catalogue.PERCENTILES
    charts = [
        layout_pb2.Chart(
            title=f"{place.layer} {place.site}",
            margin=layout_pb2.MarginChartContent(
                series=[
                    layout_pb2.MarginChartContent.Series(
                        value=tags.tag(middle, place),
                        lower=tags.tag(low, place),
                        upper=tags.tag(high, place),
                    )
                ]
            ),
        )
        for place in places
    ]
    return layout_pb2.Category(title=CATEGORY, chart=charts)


def _with_class(metadata: SummaryMetadata, data_class: int) -> SummaryMetadata:
    """Set the data class of `metadata`. Without it, TensorBoard drops the summary."""
    metadata.data_class = data_class
    return metadata
