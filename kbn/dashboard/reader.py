"""The callbacks' records by run, measure and place, read through TensorBoard's data provider.

The same code runs inside TensorBoard, on the provider of a plugin, and on a folder.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tensorboard.context import RequestContext
from tensorboard.data.provider import DataProvider, RunTagFilter, ScalarDatum, TensorDatum
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata

from kbn.dashboard.cache import Cache
from kbn.dashboard.numbers import Numbers
from kbn.dashboard.ordering import natural, tags_in_order
from kbn.dashboard.run_names import ITSELF, run_of, short_name
from kbn.records import catalogue, markdown
from kbn.records.series import Histograms, Series
from kbn.records.tags import Place

ALL_STEPS = 1_000_000
TEXTS = 10  # number of texts per tag that TensorBoard keeps

Source = tuple[str, str]  # TensorBoard's run and tag
Points = dict[str, dict[str, Sequence[ScalarDatum]]]  # by TensorBoard's run and tag


class RunReader:
    """The runs that kbn's callbacks wrote.

    A run is the `log_dir` of the callbacks. TensorBoard shows each callback's folder below it
    as a separate run. Here they are merged.

    Args:
        provider: TensorBoard's data provider.
        experiment: TensorBoard's name of the log.
        context: the context of the request, inside TensorBoard.
        most_steps: the largest number of steps to read of a series. Of a longer one, a sample is
            read.
        recent: a cache for readers of the same provider and `most_steps`; None for a new one.
        unreadable: sentences about files that could not be read.

    Attributes:
        foreign: number of runs that kbn did not write.
        unreadable: sentences about files that could not be read.
    """

    def __init__(
        self,
        provider: DataProvider,
        experiment: str = "",
        context: RequestContext | None = None,
        most_steps: int = ALL_STEPS,
        recent: Cache | None = None,
        unreadable: Sequence[str] = (),
    ) -> None:
        self._provider, self._most_steps = provider, most_steps
        self._recent = recent or Cache()
        self._common = {"ctx": context or RequestContext(), "experiment_id": experiment}
        self.foreign, self.unreadable = 0, list(unreadable)
        self._folders: dict[str, list[str]] = {}
        self._runs: dict[str, dict[str, dict[Place, Source]]] = {}
        self._histograms: dict[str, dict[Place, Source]] = {}
        self._newest: dict[str, int] = {}
        self._written: dict[Source, tuple[int, float]] = {}  # last step, and when
        self._refused: dict[Source, str] = {}
        self._find()

    def runs(self) -> list[str]:
        """Return their names, in natural order; "." is the folder itself."""
        return sorted(self._folders, key=natural)

    def label(self, run: str) -> str:
        """Return the name of `run` for people: the name of the folder instead of ".".

        If one of the other runs has the same name, it is "name (the folder itself)".
        """
        if run != ITSELF:
            return run
        name = self._name_of_folder()
        return f"{name} (the folder itself)" if name in self._folders else name

    def newest(self) -> dict[str, int]:
        """Return the last step of every run."""
        return dict(self._newest)

    def written(self) -> dict[str, int]:
        """Return a number per run that changes if something is written to the run."""
        found = dict.fromkeys(self._folders, 0)
        for place, stamp in sorted(self._written.items()):
            run = run_of(place[0])
            found[run] = zlib.crc32(repr((place, stamp)).encode(), found[run])
        return found

    def refused(self) -> list[str]:
        """Return sentences on the requested series that could not be read."""
        return [
            f"{self.label(at)}: {tag} is not shown ({why})."
            for (at, tag), why in self._refused.items()
        ]

    def measures(self, runs: Iterable[str]) -> list[str]:
        """Return the scalars that any of `runs` has, in the order of the catalogue."""
        found = {measure for run in runs for measure in self._runs.get(run, {})}
        return [measure for measure in catalogue.measures() if measure in found]

    def places(self, run: str, measure: str) -> list[Place]:
        """Return the places at which `run` has `measure`."""
        return list(self._runs.get(run, {}).get(measure, {}))

    def series(
        self, run: str, measure: str, only: Iterable[Place] | None = None
    ) -> dict[Place, Series]:
        """Return `measure` over steps at the places that have it, or at those in `only`."""
        found = self._runs.get(run, {}).get(measure, {})
        places = None if only is None else set(only)
        wanted = {
            place: source for place, source in found.items() if places is None or place in places
        }
        if not wanted:
            return {}
        stamp = tuple(self._written[source] for source in wanted.values())
        name = (self._common["experiment_id"], *wanted.values())
        read, refused = self._recent.get(name, stamp, lambda: self._scalars(wanted))
        self._refused |= refused
        return dict(read)

    def histograms(self, run: str, place: Place) -> Histograms:
        """Return the histograms of one place; empty if it has none."""
        if place not in self._histograms.get(run, {}):
            return Histograms(np.zeros(0, np.int64), [])
        read = self._tensors(
            histogram_metadata.PLUGIN_NAME, *self._histograms[run][place], self._most_steps
        )
        shown = [one for one in read if one.numpy.ndim == 2 and one.numpy.shape[1] == 3]
        steps = np.array([one.step for one in shown], np.int64)
        return Histograms(steps, [one.numpy.astype(np.float64) for one in shown])

    def histogram_places(self, run: str) -> list[Place]:
        """Return the places of `run` that have histograms."""
        return list(self._histograms.get(run, {}))

    def texts(self, run: str, tag: str) -> dict[str, str]:
        """Return the last text under `tag` that each callback of `run` wrote, by its folder."""
        plugin, found = text_metadata.PLUGIN_NAME, {}
        for at in self._folders.get(run, ()):
            read = self._tensors(plugin, at, tag, TEXTS)
            if read:
                found[at.rpartition("/")[2]] = _text(read[-1].numpy)
        return found

    def _name_of_folder(self) -> str:
        experiment = self._provider.experiment_metadata(**self._common)
        location = getattr(experiment, "data_location", "")
        return short_name(location) if location else "the folder itself"

    def _find(self) -> None:
        """Find the source of every measure (by run, measure, place) and every histogram."""
        scalars = self._provider.list_scalars(
            **self._common, plugin_name=scalar_metadata.PLUGIN_NAME
        )
        tensors = self._provider.list_tensors(
            **self._common, plugin_name=histogram_metadata.PLUGIN_NAME
        )
        for at in sorted({*scalars, *tensors}):
            order = self._order(at)
            numbers, shapes = (tags_in_order(of.get(at, ()), order) for of in (scalars, tensors))
            if not numbers and not shapes:
                self.foreign += 1
                continue
            run = run_of(at)
            self._folders.setdefault(run, []).append(at)
            last = {
                (at, tag): (of.max_step or 0, of.max_wall_time or 0.0)
                for tag, of in scalars.get(at, {}).items()
            }
            self._written |= {(at, tag): last[at, tag] for _, _, tag in numbers}
            self._newest[run] = max(
                self._newest.get(run, 0), 0, *(step for step, _ in last.values())
            )
            for place, measure, tag in numbers:
                self._runs.setdefault(run, {}).setdefault(measure, {})[place] = at, tag
            for place, measure, tag in shapes:
                if measure == catalogue.HISTOGRAM:
                    self._histograms.setdefault(run, {})[place] = at, tag

    def _order(self, at: str) -> dict[str, int]:
        """Return the position of each layer in the order of the model, as far as it was written."""
        read = self._tensors(text_metadata.PLUGIN_NAME, at, catalogue.LAYERS, TEXTS)
        layers = (row[0] for text in read for row in markdown.read(_text(text.numpy))[1:])
        return {layer: position for position, layer in enumerate(dict.fromkeys(layers))}

    def _scalars(
        self, wanted: Mapping[Place, Source]
    ) -> tuple[dict[Place, Series], dict[Source, str]]:
        """Return the wanted series, and for each source that could not be read, the reason."""
        refused: dict[Source, str] = {}
        try:
            read = self._points(wanted.values())
        except (TypeError, ValueError):  # one value that is not a number would hide all others
            read, refused = self._readable(wanted.values())
        found: dict[Place, Series] = {}
        for place, (at, tag) in wanted.items():
            points = read.get(at, {}).get(tag, [])
            try:
                if points:
                    found[place] = _series(points)
            except (TypeError, ValueError) as error:
                refused[at, tag] = str(error)
        return found, refused

    def _points(self, wanted: Iterable[Source]) -> Points:
        ats, names = (set(of) for of in zip(*wanted, strict=True))
        return dict(self._provider.read_scalars(
            **self._common, plugin_name=scalar_metadata.PLUGIN_NAME,
            downsample=self._most_steps, run_tag_filter=RunTagFilter(ats, names),
        ))  # fmt: skip

    def _readable(self, wanted: Iterable[Source]) -> tuple[Points, dict[Source, str]]:
        read: Points = {}
        refused: dict[Source, str] = {}
        for at, tag in wanted:
            try:
                read.setdefault(at, {}).update(self._points([(at, tag)]).get(at, {}))
            except (TypeError, ValueError) as error:
                refused[at, tag] = str(error)
        return read, refused

    def _tensors(self, plugin: str, at: str, tag: str, most: int) -> list[TensorDatum]:
        read = self._provider.read_tensors(
            **self._common, plugin_name=plugin, downsample=most,
            run_tag_filter=RunTagFilter([at], [tag]),
        )  # fmt: skip
        return list(read.get(at, {}).get(tag, []))


def _series(points: Sequence[ScalarDatum]) -> Series:
    if isinstance(points, Numbers):
        return points.series()
    steps = np.array([point.step for point in points], np.int64)
    return Series(steps, np.array([point.value for point in points], np.float64))


def _bytes(array: np.ndarray) -> bytes:
    if not array.size:
        return b""
    value = array.ravel()[0]
    return value if isinstance(value, bytes) else str(value).encode()


def _text(array: np.ndarray) -> str:
    return _bytes(array).decode(errors="replace")
