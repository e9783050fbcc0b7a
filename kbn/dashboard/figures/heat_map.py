"""The heat map of layers over steps: which layers move, and when."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kbn.dashboard.figures import style
from kbn.dashboard.figures.figure import Board, Figure, Part
from kbn.records import catalogue
from kbn.records.series import Places, matrix, thinned

COLUMNS = 500  # with more steps, several share a column, which shows the farthest value
DECADES = 4  # range of a logarithmic color scale
LINE, LEAST = 18, 60  # height of a layer, and least height of a run, in pixels
MOST, ALL = 900, 1600  # largest height of a run, and of all runs if there are many, in pixels
NAME = 15  # height of a name in pixels


def heat_map(board: Board, measure: str | None = None, site: str | None = None) -> go.Figure:
    """Draw layers over steps, which shows where in the network and when distributions move.

    Args:
        board: the recorded runs.
        measure: any of `measures`; None: `distance`.
        site: site of the layers; None: the input if it was recorded.
    """
    measure = board.measure(measure)
    return plot(board.series(measure, site), measure)


def plot(runs: Mapping[str, Places], measure: str) -> go.Figure:
    """Draw `measure` of every place over steps, with one heat map per run, below each other.

    Places are in the order in which the model calls them, the first at the top. All runs share one
    color scale. It is logarithmic if the catalogue says so.

    Args:
        runs: the places of each run, by its name.
        measure: the measure of their values.
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
    """The scale from values to colors, the same for all runs."""

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
        """Return the positions of `values` on the color axis. NaN stays NaN."""
        if not self.logarithmic:
            return np.clip(values, self.low, self.high)
        with np.errstate(invalid="ignore"):
            return np.log10(np.clip(values, self.low, self.high))

    def axis(self) -> dict[str, object]:
        """Return Plotly's color axis."""
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
    still = catalogue.measures()[measure].still
    steps, values = thinned(steps, values, COLUMNS, still)
    return go.Heatmap(
        x=steps, y=[style.text(style.label(place)) for place in places], z=scale.of(values),
        customdata=values.astype(np.float32), coloraxis="coloraxis", hoverongaps=False,
        hovertemplate=f"step %{{x}}<br>%{{y}}<br>{measure} %{{customdata:.3g}}<extra></extra>",
        meta=[[place.layer, place.site] for place in places],
    )  # fmt: skip


def _in_report(board: Board) -> Part:
    measure = board.measure()
    return Part([heat_map(board)], text=catalogue.measures()[measure].meaning)


FIGURE = Figure(
    order=10,
    title="Where and when layers move",
    text="One line per layer, in the order in which the model calls them, the first at the top. "
    "Brighter means that the layer's activations on the probe batch moved farther since the "
    "reference record. The data is the same, so only the weights cause the difference.",
    draw=heat_map,
    group="overview",
    in_report=_in_report,
)
