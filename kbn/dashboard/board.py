"""Dashboard: the figures of a log, by name, for notebooks, the report and the tab."""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kbn.dashboard.figures import FIGURES
from kbn.dashboard.reader import RunReader
from kbn.dashboard.selection import Selection
from kbn.diagnosis import summary
from kbn.records import catalogue
from kbn.records.frames import pandas

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from pandas import DataFrame


class Dashboard(Selection):
    """Figures of recorded runs.

    Each module of `kbn.dashboard.figures` adds the method that draws its figure and returns a
    `plotly.graph_objects.Figure`. `site` is one of the sites that were recorded; None takes the
    input of a layer if it was recorded, because internal covariate shift is the movement of what
    layers get.

    Args:
        log: what was recorded.
        runs: a glob pattern, or several, of the runs that are shown; None: all.
        skipped: sentences on what could not be read.

    Attributes:
        runs: names of the runs that are shown.
        skipped: sentences on what could not be read.
    """

    if TYPE_CHECKING:
        # The figures.
        def __getattr__(self, name: str) -> Callable[..., "go.Figure"]: ...

    def __init__(
        self, log: RunReader, runs: str | Sequence[str] | None = None, skipped: Sequence[str] = ()
    ) -> None:
        super().__init__(log, runs)
        self.skipped = list(skipped)

    def compared(
        self, measure: str | None = None, layer: str | None = None, site: str | None = None
    ) -> "go.Figure":
        """Draw what `compare` draws; the old name, which is deprecated."""
        message = "Dashboard.compared is deprecated; use Dashboard.compare."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return self.compare(measure, layer, site)

    def verdict(self, measure: str | None = None, site: str | None = None) -> list[str]:
        """Return sentences on which run moved less, where it moved most, and what looks broken."""
        measure = self.measure(measure)
        alarms = self.measures_of(summary.ALARMS)
        runs = {
            run: {**alarms[run], measure: places}
            for run, places in self.series(measure, site).items()
        }
        return [*summary.verdict(runs, measure, self.moved(measure, site)), *self._log.refused()]

    def settings(self) -> dict[str, dict[str, str]]:
        """Return by run and callback the callback's settings, as Markdown."""
        return {run: self._log.texts(run, catalogue.SETTINGS) for run in self.runs}

    def to_frame(self) -> "DataFrame":
        """Return all scalars as a `pandas.DataFrame`: run, step, layer, site, measure, value.

        Raises:
            ImportError: if pandas is not installed.
        """
        pd = pandas()
        names = ["run", "step", "layer", "site", "measure", "value"]
        parts = [
            pd.DataFrame({
                "run": run, "step": of.steps, "layer": place.layer, "site": place.site,
                "measure": measure, "value": of.values,
            })
            for run in self.runs
            for measure in self._log.measures([run])
            for place, of in self._log.series(run, measure).items()
        ]  # fmt: skip
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)


for _figure in FIGURES.values():
    setattr(Dashboard, _figure.name, _figure.draw)
