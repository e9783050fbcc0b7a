"""Select recorded numbers by the names of runs, measures, layers and sites."""

import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from kbn.dashboard.reader import RunReader
from kbn.diagnosis import summary
from kbn.records import catalogue, tags
from kbn.records.series import Histograms, Measures, Places
from kbn.records.tags import Place

T = TypeVar("T")


class NotRecordedError(ValueError):
    """No run recorded the requested numbers of a layer."""


class Selection:
    """The numbers of some runs, by measure and place.

    Args:
        log: reader of the recorded runs.
        runs: glob pattern, or a list of them, of the runs to show; None: all.

    Attributes:
        runs: names of the runs that are shown.
    """

    def __init__(self, log: RunReader, runs: str | Sequence[str] | None = None) -> None:
        self._log = log
        self.runs = log.runs() if runs is None else _chosen_runs(log, runs)

    def label(self, run: str) -> str:
        """Return the name of a run for people: the name of the folder instead of "."."""
        return self._log.label(run)

    def labeled(self, by_run: Mapping[str, T]) -> dict[str, T]:
        """Return `by_run` with the names for people as keys."""
        return {self.label(run): of for run, of in by_run.items()}

    @property
    def measures(self) -> list[str]:
        """Names of the scalars that any run has."""
        return self._log.measures(self.runs)

    @property
    def distance(self) -> str | None:
        """Name of the distance that is shown by default: the first one that was recorded."""
        recorded = self.measures
        return next((name for name in catalogue.distances() if name in recorded), None)

    @property
    def layers(self) -> list[str]:
        """Paths of all layers, in the order of the model."""
        rows = catalogue.measures()
        names = [name for name in self.measures if rows[name].whose == "layer"]
        return list(dict.fromkeys(place.layer for name in names for place in self.places(name)))

    @property
    def histogram_places(self) -> list[Place]:
        """Places that have histograms, run by run, in the order of the model."""
        return [place for run in self.runs for place in self._log.histogram_places(run)]

    @property
    def histogram_layers(self) -> list[str]:
        """Paths of the layers that have histograms, in the order of the model."""
        return list(dict.fromkeys(place.layer for place in self.histogram_places))

    def recorded(self, measure: str) -> bool:
        """Return whether any run has `measure`, which may be `catalogue.HISTOGRAM`."""
        if measure == catalogue.HISTOGRAM:
            return bool(self.histogram_places)
        return measure in self.measures

    def measure(self, measure: str | None = None) -> str:
        """Return `measure`, or `distance` if it is None.

        Raises:
            ValueError: if no run has it.
        """
        recorded, usual = self.measures, self.distance or catalogue.distances()[0]
        if recorded and measure not in (None, usual, *recorded):
            raise ValueError(f"measure must be one of {recorded}. Received: measure={measure!r}")
        return usual if measure is None else measure

    def places(self, measure: str | None = None) -> list[Place]:
        """Return (layer, site) of all runs, in the order of the model.

        Args:
            measure: only places that have this measure; None: places that have any measure.
        """
        names = self.measures if measure is None else [self.measure(measure)]
        return list(dict.fromkeys(
            place for run in self.runs for name in names for place in self._log.places(run, name)
        ))  # fmt: skip

    def places_at(self, measure: str, site: str | None = None) -> list[Place]:
        """Return the places that have `measure`, at `site` or at the default site of each layer.

        The default site of a layer is its input if it was recorded, because internal covariate
        shift is the change in the distributions of layers' inputs.

        Raises:
            ValueError: if no place has this site.
        """
        self._check_site(measure, site)
        return list(dict.fromkeys(
            place for run in self.runs for place in self._places_of(run, measure, site)
        ))  # fmt: skip

    def place(self, layer: str, site: str | None, among: Sequence[Place]) -> Place:
        """Return the place in `among` of `layer`, at `site` or at its first site.

        Raises:
            NotRecordedError: if there is no such place; the message names similar layers.
        """
        own = [place for place in among if place.layer == layer and site in (None, place.site)]
        if own:
            return min(own, key=lambda place: place.site)
        names = list(dict.fromkeys(place.layer for place in among))
        near = difflib.get_close_matches(layer, names, 3) or names[:10]
        where = "" if site is None else f" at site {site!r}"
        raise NotRecordedError(
            f"No run recorded this layer{where}. Did you mean one of {near}? "
            f"Received: layer={layer!r}"
        )

    def series(self, measure: str, site: str | None = None) -> dict[str, Places]:
        """Return `measure` at the places of `places_at`, by run."""
        self._check_site(measure, site)
        return {
            run: self._log.series(run, measure, self._places_of(run, measure, site))
            for run in self.runs
        }

    def measures_of(
        self, names: Iterable[str], only: Sequence[Place] | None = None
    ) -> dict[str, Measures]:
        """Return the recorded measures among `names`, by run, at all places or only at some."""
        names = list(names)
        return {
            run: {name: self._log.series(run, name, only) for name in names
                  if self._log.places(run, name)}
            for run in self.runs
        }  # fmt: skip

    def histograms(self, place: Place) -> dict[str, Histograms]:
        """Return the histograms of `place`, by run."""
        return {run: self._log.histograms(run, place) for run in self.runs}

    def moved(self, measure: str | None = None, site: str | None = None) -> list[summary.Moved]:
        """Return how far each layer moved, the farthest first."""
        measure = self.measure(measure)
        return summary.moved(self.series(measure, site), measure)

    def _places_of(self, run: str, measure: str, site: str | None) -> list[Place]:
        places = self._log.places(run, measure)
        if site is not None:
            return [place for place in places if place.site == site]
        inputs = [place for place in places if place.site.split(":")[0] == tags.SITES[0]]
        layers = {place.layer for place in inputs}
        return [place for place in places if place in inputs or place.layer not in layers]

    def _check_site(self, measure: str, site: str | None) -> None:
        sites = dict.fromkeys(
            place.site for run in self.runs for place in self._log.places(run, measure)
        )
        if site is not None and sites and site not in sites:
            raise ValueError(f"site must be one of {list(sites)}. Received: site={site!r}")


def _chosen_runs(log: RunReader, runs: str | Sequence[str]) -> list[str]:
    patterns = [runs] if isinstance(runs, str) else list(runs)
    names = {run: (run, log.label(run)) for run in log.runs()}
    idle = [one for one in patterns if not any(_matches(of, [one]) for of in names.values())]
    if idle or not patterns:
        problem = f"No run matches {' or '.join(map(repr, idle))}" if idle else "No pattern given"
        raise ValueError(
            f"{problem}. The runs are {[label for _, label in names.values()] or 'none'}. "
            f"Received: runs={patterns!r}"
        )
    return [run for run, of in names.items() if _matches(of, patterns)]


def _matches(names: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(
        name == pattern or fnmatch.fnmatchcase(name, pattern)
        for name in names for pattern in patterns
    )  # fmt: skip
