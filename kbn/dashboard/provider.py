"""TensorBoard's data provider of one folder."""

import os
from collections.abc import Iterator, Mapping
from typing import TypeVar

from tensorboard.data.provider import (
    DataProvider,
    ExperimentMetadata,
    Run,
    RunTagFilter,
    ScalarTimeSeries,
    TensorDatum,
    TensorTimeSeries,
)

from kbn.dashboard.event_files import Track, event_files, joined, read, silently
from kbn.dashboard.event_log import EventLog, Tensors
from kbn.dashboard.numbers import Numbers

T = TypeVar("T")
Listed = TypeVar("Listed", ScalarTimeSeries, TensorTimeSeries)


class Folder(DataProvider):
    """TensorBoard's data provider of one folder, with all records of scalars and tensors.

    Attributes:
        unreadable: one sentence per event file that cannot be read to its end.
    """

    def __init__(self, path: str, track: Track[str] = silently) -> None:
        """Read the files.

        Args:
            path: a path or URL, as `file_systems.located` returns it.
            track: shows the progress over the files.
        """
        self._path = path
        self._logs: dict[str, EventLog] = {}
        self.unreadable: list[str] = []
        for name in track(list(event_files(path)), "Reading"):
            log = self._logs.setdefault(os.path.dirname(name) or ".", EventLog())
            if name.endswith(".profile-empty"):  # without a record, as TensorBoard's profiler wrote
                continue
            complaint = read(joined(path, name), log.add)
            if complaint:
                self.unreadable.append(f"{name}: {complaint}")
        for log in self._logs.values():
            log.settle()

    def experiment_metadata(self, ctx: object = None, *, experiment_id: str) -> ExperimentMetadata:
        """Return where the records are."""
        return ExperimentMetadata(data_location=self._path)

    def list_runs(self, ctx: object = None, *, experiment_id: str) -> list[Run]:
        """Return the folders with event files."""
        return [Run(name, name, log.first_time) for name, log in self._logs.items()]

    def list_scalars(
        self, ctx: object = None, *, experiment_id: str, plugin_name: str,
        run_tag_filter: RunTagFilter | None = None,
    ) -> dict[str, dict[str, ScalarTimeSeries]]:  # fmt: skip
        """Return a description of the scalars, by run and tag."""
        found = self._numbers(plugin_name, run_tag_filter or RunTagFilter())
        return self._described(ScalarTimeSeries, found)

    def read_scalars(
        self, ctx: object = None, *, experiment_id: str, plugin_name: str,
        downsample: int | None = None, run_tag_filter: RunTagFilter | None = None,
    ) -> dict[str, dict[str, Numbers]]:  # fmt: skip
        """Return all scalars, by run and tag.

        Raises:
            ValueError: if one of them is not a number.
        """
        found = self._numbers(plugin_name, run_tag_filter or RunTagFilter())
        for numbers in (each for of in found.values() for each in of.values()):
            if numbers.refused:
                raise ValueError(numbers.refused)
        return found

    def read_last_scalars(
        self, ctx: object = None, *, experiment_id: str, plugin_name: str,
        run_tag_filter: RunTagFilter | None = None,
    ) -> dict[str, dict[str, object]]:  # fmt: skip
        """Return the last scalars, by run and tag."""
        found = self._numbers(plugin_name, run_tag_filter or RunTagFilter())
        return {
            run: {tag: each[-1] for tag, each in of.items() if each} for run, of in found.items()
        }

    def list_tensors(
        self, ctx: object = None, *, experiment_id: str, plugin_name: str,
        run_tag_filter: RunTagFilter | None = None,
    ) -> dict[str, dict[str, TensorTimeSeries]]:  # fmt: skip
        """Return a description of the tensors, by run and tag."""
        found = self._tensors(plugin_name, run_tag_filter or RunTagFilter())
        return self._described(TensorTimeSeries, found)

    def read_tensors(
        self, ctx: object = None, *, experiment_id: str, plugin_name: str,
        downsample: int | None = None, run_tag_filter: RunTagFilter | None = None,
    ) -> dict[str, dict[str, list[TensorDatum]]]:  # fmt: skip
        """Return all tensors, by run and tag."""
        found = self._tensors(plugin_name, run_tag_filter or RunTagFilter())
        return {
            run: {tag: [TensorDatum(one.step, one.time, one.array()) for one in each]
                  for tag, each in of.items()}
            for run, of in found.items()
        }  # fmt: skip

    def _numbers(self, plugin: str, wanted: RunTagFilter) -> dict[str, dict[str, Numbers]]:
        return {run: of for run, log in self._runs(wanted)
                if (of := _of(plugin, wanted, log, log.numbers))}  # fmt: skip

    def _tensors(self, plugin: str, wanted: RunTagFilter) -> dict[str, dict[str, Tensors]]:
        return {run: of for run, log in self._runs(wanted)
                if (of := _of(plugin, wanted, log, log.tensors))}  # fmt: skip

    def _runs(self, wanted: RunTagFilter) -> Iterator[tuple[str, EventLog]]:
        for run, log in self._logs.items():
            if wanted.runs is None or run in wanted.runs:
                yield run, log

    def _described(
        self, kind: type[Listed], found: Mapping[str, Mapping[str, Numbers | Tensors]]
    ) -> dict[str, dict[str, Listed]]:
        described: dict[str, dict[str, Listed]] = {}
        for run, of in found.items():
            for tag, each in of.items():
                step, written = each.last()
                about = self._logs[run].metadata[tag]
                described.setdefault(run, {})[tag] = kind(
                    max_step=step, max_wall_time=written,
                    plugin_content=about.plugin_data.content,
                    description=about.summary_description, display_name=about.display_name,
                )  # fmt: skip
        return described


def _of(plugin: str, wanted: RunTagFilter, log: EventLog, found: Mapping[str, T]) -> dict[str, T]:
    """Return what `plugin` shows of the wanted tags."""
    tags = found if wanted.tags is None else [tag for tag in wanted.tags if tag in found]
    return {tag: found[tag] for tag in tags
            if log.metadata[tag].plugin_data.plugin_name == plugin}  # fmt: skip
