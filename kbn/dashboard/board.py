"""Dashboard: the figures of recorded runs, for notebooks, the report and the tab."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kbn.common.warning import deprecated
from kbn.dashboard.figures import FIGURES
from kbn.dashboard.reader import RunReader
from kbn.dashboard.selection import Selection
from kbn.diagnosis import summary
from kbn.records import catalogue
from kbn.records.data_frames import pandas

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from pandas import DataFrame


class Dashboard(Selection):
    """Figures of recorded runs.

    Each module of `kbn.dashboard.figures` adds a method that draws its figure and returns it as a
    `plotly.graph_objects.Figure`. The argument `site` is one of the recorded sites. None means the
    input of each layer if it was recorded, because internal covariate shift is the change in the
    distributions of layers' inputs.

    Args:
        log: reader of the recorded runs.
        runs: glob pattern, or a list of them, of the runs to show; None: all.
        skipped: sentences about files that could not be read.

    Attributes:
        runs: names of the runs that are shown.
        skipped: sentences about files that could not be read.
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
        """Deprecated: the former name of `compare`."""
        deprecated("Dashboard.compared", "Dashboard.compare")
        return self.compare(measure, layer, site)

    def verdict(self, measure: str | None = None, site: str | None = None) -> list[str]:
        """Return findings: which run moved less, where it moved most, and what looks broken."""
        measure = self.measure(measure)
        alarms = self.measures_of(summary.ALARMS)
        runs = {
            run: {**alarms[run], measure: places}
            for run, places in self.series(measure, site).items()
        }
        moved = [one._replace(run=self.label(one.run)) for one in self.moved(measure, site)]
        return [*summary.verdict(self.labeled(runs), measure, moved), *self._log.refused()]

    def settings(self) -> dict[str, dict[str, str]]:
        """Return the settings of each callback as Markdown, by run and callback."""
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
