"""Dashboard: the figures of a log, by name; what notebooks, the report and the tab share."""

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from kbn.dashboard import figures
from kbn.dashboard.reader import Measures, RunReader
from kbn.diagnosis import summary
from kbn.records import catalogue, tags
from kbn.records.tags import Place

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MANY = 6  # layers whose percentiles are drawn where nobody chose


class NotRecordedError(ValueError):
    """No run recorded this of the layer."""


class Dashboard:
    """Figures of recorded runs; every method that draws returns a `plotly.graph_objects.Figure`.

    Wherever a layer is asked for, `site` is one of the sites it was recorded at; None takes its
    input where there is one: internal covariate shift is the movement of what layers get.

    Args:
        log: what was recorded.
        runs: a glob pattern, or several, of the runs that are shown; None: all.
        skipped: sentences on what could not be read.

    Attributes:
        runs: names of the runs that are shown.
        skipped: sentences on what could not be read.
    """

    def __init__(
        self, log: RunReader, runs: str | Sequence[str] | None = None, skipped: Sequence[str] = ()
    ) -> None:
        self._log, self.skipped = log, list(skipped)
        self.runs = log.runs() if runs is None else _chosen_runs(log.runs(), runs)

    @property
    def measures(self) -> list[str]:
        """Names of the scalars that any run has."""
        return self._log.measures(self.runs)

    @property
    def distance(self) -> str | None:
        """Name of the distance that is shown where nobody chooses one: the first recorded."""
        known = self.measures
        return next((name for name in catalogue.distances() if name in known), None)

    def places(self, measure: str | None = None) -> list[Place]:
        """Return (layer, site) of all runs, in the order of the model.

        Args:
            measure: only where there is this one.
        """
        names = self.measures if measure is None else [self._chosen(measure)]
        return list(dict.fromkeys(
            place for run in self.runs for name in names for place in self._log.places(run, name)
        ))  # fmt: skip

    @property
    def layers(self) -> list[str]:
        """Paths of all layers, in the order of the model."""
        return list(dict.fromkeys(
            place.layer for name in self.measures if catalogue.measures()[name].whose == "layer"
            for place in self.places(name)
        ))  # fmt: skip

    @property
    def histogram_layers(self) -> list[str]:
        """Paths of the layers that have histograms, in the order of the model."""
        return list(dict.fromkeys(place.layer for place in self._with_histograms()))

    def heat_map(self, measure: str | None = None, site: str | None = None) -> "Figure":
        """Draw layers over steps: where in the network, and when, distributions move.

        Args:
            measure: any of `measures`; None, here and below: `distance`.
            site: of the layers.
        """
        measure = self._chosen(measure)
        return figures.heat_map(self._everywhere(measure, site), measure)

    def percentiles(
        self, layer: str | Sequence[str] | None = None, site: str | None = None
    ) -> "Figure":
        """Draw the 15th to 85th percentile over steps, one row per layer.

        Args:
            layer: one or several; None: six, spread over the depth of the model.
            site: of them.
        """
        _, middle, _ = catalogue.PERCENTILES
        places = self._at(middle, site)
        if layer is None:
            chosen = [places[i] for i in figures.style.evenly(len(places), MANY)]
        else:
            names = [layer] if isinstance(layer, str) else layer
            chosen = [self._place(name, site, places) for name in names]
        return figures.percentiles(self._of(catalogue.PERCENTILES, chosen), chosen)

    def ridge(self, layer: str, site: str | None = None) -> "Figure":
        """Draw how the histogram of a layer changes."""
        place = self._place(layer, site, self._with_histograms())
        return figures.ridge({run: self._log.histograms(run, place) for run in self.runs}, place)

    def compared(
        self, measure: str | None = None, layer: str | None = None, site: str | None = None
    ) -> "Figure":
        """Draw a measure over steps, a line per run: of one layer, or the median of all."""
        measure = self._chosen(measure)
        if layer is None:
            return figures.compared(self._everywhere(measure, site), measure)
        place = self._place(layer, site, self.places(measure))
        runs = {run: self._log.series(run, measure, [place]) for run in self.runs}
        return figures.compared(runs, measure, place)

    def gradient_shift(self, layer: str | None = None) -> "Figure":
        """Draw how far gradients move when the layers below take their step; of one, or of all."""
        place = None if layer is None else Place(layer, tags.PROBE)
        return figures.gradient_shift(self._of(catalogue.scalars("gradient_shift")), place)

    def landscape(self) -> "Figure":
        """Draw the landscape of the loss along the gradient."""
        return figures.landscape(self._of(catalogue.scalars("loss_landscape")))

    def statistics_gap(self, layer: str | None = None) -> "Figure":
        """Draw how far moving statistics are from those of the probe; of one layer, or of all."""
        place = None if layer is None else Place(layer, tags.PROBE)
        return figures.statistics_gap(self._of(catalogue.scalars("moving_statistics")), place)

    def worst_layers(
        self, measure: str | None = None, site: str | None = None, most: int = 20
    ) -> "Figure":
        """Draw a table of the layers that moved most, in the mean over records."""
        measure = self._chosen(measure)
        return figures.worst_layers(self.moved(measure, site)[:most], measure)

    def moved(self, measure: str | None = None, site: str | None = None) -> list[summary.Moved]:
        """Return how far each layer moved, the farthest first."""
        measure = self._chosen(measure)
        return summary.moved(self._everywhere(measure, site), measure)

    def verdict(self, measure: str | None = None, site: str | None = None) -> list[str]:
        """Say in sentences which run moved less, where most, and what looks broken."""
        measure = self._chosen(measure)
        return summary.verdict(self._log, self.runs, measure, self.moved(measure, site))

    def settings(self) -> dict[str, dict[str, str]]:
        """Return what each callback of each run was given, as Markdown."""
        return {run: self._log.texts(run, catalogue.SETTINGS) for run in self.runs}

    def to_frame(self) -> Any:
        """Return all scalars as a `pandas.DataFrame`: run, step, layer, site, measure, value.

        Raises:
            ImportError: where pandas is not installed (`pip install pandas`).
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise ImportError("to_frame needs pandas: pip install pandas") from None
        names = ["run", "step", "layer", "site", "measure", "value"]
        parts = [
            pd.DataFrame(dict(zip(names, (run, of.steps, place.layer, place.site, measure, of.values),
                                  strict=True)))
            for run in self.runs
            for measure in self._log.measures([run])
            for place, of in self._log.series(run, measure).items()
        ]  # fmt: skip
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)

    def _with_histograms(self) -> list[Place]:
        return [place for run in self.runs for place in self._log.histogram_places(run)]

    def _everywhere(self, measure: str, site: str | None) -> dict[str, Any]:
        self._check_site(measure, site)
        return {
            run: self._log.series(run, measure, self._at_of(run, measure, site))
            for run in self.runs
        }

    def _of(self, names: Iterable[str], only: Sequence[Place] | None = None) -> dict[str, Measures]:
        names = list(names)
        return {
            run: {name: self._log.series(run, name, only) for name in names
                  if self._log.places(run, name)}
            for run in self.runs
        }  # fmt: skip

    def _at(self, measure: str, site: str | None) -> list[Place]:
        self._check_site(measure, site)
        return list(dict.fromkeys(
            place for run in self.runs for place in self._at_of(run, measure, site)
        ))  # fmt: skip

    def _at_of(self, run: str, measure: str, site: str | None) -> list[Place]:
        """Return the places of `run`: at `site`, or of every layer its inputs if it has them."""
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

    def _place(self, layer: str, site: str | None, places: Sequence[Place]) -> Place:
        own = [place for place in places if place.layer == layer and site in (None, place.site)]
        if own:
            return min(own, key=lambda place: place.site)
        names = list(dict.fromkeys(place.layer for place in places))
        near = difflib.get_close_matches(layer, names, 3) or names[:10]
        where = "" if site is None else f" at site {site!r}"
        raise NotRecordedError(
            f"No run recorded this layer{where}. Did you mean one of {near}? "
            f"Received: layer={layer!r}"
        )

    def _chosen(self, measure: str | None) -> str:
        known, usual = self.measures, self.distance or catalogue.distances()[0]
        if known and measure not in (None, usual, *known):
            raise ValueError(f"measure must be one of {known}. Received: measure={measure!r}")
        return usual if measure is None else measure


def _chosen_runs(known: list[str], runs: str | Sequence[str]) -> list[str]:
    patterns = [runs] if isinstance(runs, str) else list(runs)
    idle = [one for one in patterns if not any(_matches(run, [one]) for run in known)]
    if idle or not patterns:
        raise ValueError(
            f"No run matches {' or '.join(map(repr, idle)) or 'no pattern at all'}. There are "
            f"{known or 'no runs at all'}. Received: runs={patterns!r}"
        )
    return [run for run in known if _matches(run, patterns)]


def _matches(run: str, patterns: Sequence[str]) -> bool:
    return any(run == pattern or fnmatch.fnmatchcase(run, pattern) for pattern in patterns)
