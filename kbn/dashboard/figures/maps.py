"""Where in the network, and when, something moves: layers over steps."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kbn.dashboard.figures import style
from kbn.dashboard.reader import Places, Series
from kbn.diagnosis.summary import far
from kbn.records import catalogue
from kbn.records.tags import Place

COLUMNS = 500  # of more steps, several share a column, and the farthest value is shown
DECADES = 4  # that a logarithmic colour spans
LINE, LEAST = 18, 60  # pixels of a layer, and of all layers of a run
MOST, ALL = 900, 1600  # pixels of a run at most, and of all runs where there are many
NAME = 15  # pixels that a name needs


def heat_map(runs: Mapping[str, Places], measure: str) -> go.Figure:
    """Draw `measure` of every place over steps, one picture per run below each other.

    Places stand in the order in which the model calls them, the first at the top; all runs share
    one colour scale, logarithmic where numbers span decades.

    Args:
        runs: the places of each run, by its name.
        measure: what their values are.
    """
    title = f"{measure} of every layer over training"
    runs = {name: places for name, places in runs.items() if places}
    if not runs:
        return style.nothing(title, f"No run has {measure}.")
    most = max(min(MOST, ALL // len(runs)), 2 * LEAST)
    heights = [min(max(LINE * len(places), LEAST), most) for places in runs.values()]
    gap = min(60 / sum(heights), 0.5 / len(runs))
    figure = make_subplots(
        len(runs), 1, row_heights=heights, vertical_spacing=gap if len(runs) > 1 else 0,
        subplot_titles=[style.text(name) for name in runs],
    )  # fmt: skip
    scale = _Scale([of.values for places in runs.values() for of in places.values()], measure)
    for row, places in enumerate(runs.values(), start=1):
        figure.add_trace(_map(places, scale, measure), row, 1)
        names = [style.text(style.label(place)) for place in places]
        ticks = [style.short(style.label(place)) for place in places]
        shown = range(0, len(names), -(-len(names) * NAME // heights[row - 1]))
        figure.update_yaxes(
            row=row, col=1, autorange="reversed", tickvals=[names[i] for i in shown],
            ticktext=[ticks[i] for i in shown], automargin=True, type="category",
        )  # fmt: skip
    figure.update_xaxes(title_text=style.STEP, row=len(runs), col=1)
    figure.update_layout(coloraxis=scale.axis())
    return style.titled(figure, title, style.ABOVE + 60 * len(runs) + sum(heights))


class _Scale:
    """From values to colours, the same for all runs."""

    def __init__(self, values: Sequence[np.ndarray], measure: str) -> None:
        known = np.concatenate(values) if values else np.zeros(0)
        known = known[np.isfinite(known)]
        self._measure = measure
        self.logarithmic = catalogue.measures()[measure].scale == "logarithmic" and bool(
            np.any(known > 0)
        )
        self.high = float(known.max()) if known.size else 1.0
        self.low = float(known.min()) if known.size else 0.0
        if self.logarithmic:
            self.low = max(float(known[known > 0].min()), self.high / 10**DECADES)

    def of(self, values: np.ndarray) -> np.ndarray:
        """Return what the colour axis is of; NaN stays."""
        if not self.logarithmic:
            return np.clip(values, self.low, self.high)
        with np.errstate(invalid="ignore"):
            return np.log10(np.clip(values, self.low, self.high))

    def axis(self) -> dict[str, object]:
        """Return Plotly's colour axis."""
        low, high = self.of(np.array([self.low, self.high])).tolist()
        title = {"text": style.unit(self._measure), "side": "right"}
        bar: dict[str, object] = {"title": title, "thickness": 14}
        if self.logarithmic:
            decades = range(math.floor(low), math.ceil(high) + 1)
            marks = sorted({low, high, *(float(d) for d in decades if low <= d <= high)})
            bar |= {"tickvals": marks, "ticktext": [f"{10**mark:.2g}" for mark in marks]}
        return {"colorscale": style.SEQUENTIAL, "cmin": low, "cmax": high, "colorbar": bar}


def _map(places: Places, scale: _Scale, measure: str) -> go.Heatmap:
    steps, values = matrix(places)
    steps, values = _fewer(steps, values, measure)
    return go.Heatmap(
        x=steps, y=[style.text(style.label(place)) for place in places], z=scale.of(values),
        customdata=values.astype(np.float32), coloraxis="coloraxis", hoverongaps=False,
        hovertemplate=f"step %{{x}}<br>%{{y}}<br>{measure} %{{customdata:.3g}}<extra></extra>",
        meta=[[place.layer, place.site] for place in places],
    )  # fmt: skip


def matrix(places: Mapping[Place, Series]) -> tuple[np.ndarray, np.ndarray]:
    """Return all steps (n,) and the values (places, n) there, NaN where a place has none."""
    steps = np.unique(np.concatenate([of.steps for of in places.values()]))
    values = np.full((len(places), len(steps)), np.nan)
    for line, of in enumerate(places.values()):
        values[line, np.searchsorted(steps, of.steps)] = of.values
    return steps, values


def _fewer(steps: np.ndarray, values: np.ndarray, measure: str) -> tuple[np.ndarray, np.ndarray]:
    if len(steps) <= COLUMNS:
        return steps, values
    begins = np.arange(COLUMNS) * len(steps) // COLUMNS
    low, high = (pick.reduceat(values, begins, axis=1) for pick in (np.fmin, np.fmax))
    return steps[begins], np.where(far(low, measure) > far(high, measure), low, high)
