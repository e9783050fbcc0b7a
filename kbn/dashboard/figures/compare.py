"""Comparison of runs by one measure."""

from collections.abc import Mapping

import plotly.graph_objects as go

from kbn.dashboard.figures import style
from kbn.dashboard.figures.figure import Board, Figure
from kbn.dashboard.figures.lines import plots
from kbn.records.series import Places
from kbn.records.tags import Place


def compare(
    board: Board, measure: str | None = None, layer: str | None = None, site: str | None = None
) -> go.Figure:
    """Draw a measure over steps with a line per run: of one layer, or the median of all layers.

    Args:
        board: the recorded runs.
        measure: any of `measures`; None: `distance`.
        layer: one layer; None: all.
        site: site of the layers; None: the input if it was recorded.
    """
    measure = board.measure(measure)
    if layer is None:
        return plot(board.series(measure, site), measure)
    place = board.place(layer, site, board.places(measure))
    runs = board.measures_of([measure], [place])
    return plot({run: of.get(measure, {}) for run, of in runs.items()}, measure, place)


def plot(runs: Mapping[str, Places], measure: str, place: Place | None = None) -> go.Figure:
    """Draw `measure` over steps with a line per run: of one place, or the median of all places.

    For all places, a band shows the 10th to 90th percentile.

    Args:
        runs: the places of each run, by its name.
        measure: the measure of their values.
        place: one place; None: all.
    """
    whose = "median of all layers" if place is None else style.short(style.label(place))
    named = {run: {measure: places} for run, places in runs.items()}
    return plots(f"{measure}, {whose}", named, [measure], place)


FIGURE = Figure(
    order=30,
    title="Runs compared",
    text="One line per run: the median over all layers, with a band from the 10th to the 90th "
    "percentile. If a layer is chosen, the lines show only this layer.",
    draw=compare,
    group="overview",
)
