"""Runs side by side by one measure."""

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
    """Draw a measure over steps, a line per run: of one layer, or the median of all layers.

    Args:
        board: what was recorded.
        measure: any of `measures`; None: `distance`.
        layer: one layer; None: all.
        site: of the layers; None: the input if it was recorded.
    """
    measure = board.measure(measure)
    if layer is None:
        return plot(board.series(measure, site), measure)
    place = board.place(layer, site, board.places(measure))
    runs = board.measures_of([measure], [place])
    return plot({run: of.get(measure, {}) for run, of in runs.items()}, measure, place)


def plot(runs: Mapping[str, Places], measure: str, place: Place | None = None) -> go.Figure:
    """Draw `measure` over steps, a line per run: of one place, or the median of all places.

    If it is of all places, a band reaches from the tenth to the ninetieth percentile.

    Args:
        runs: the places of each run, by its name.
        measure: what their values are.
        place: one place; None: all.
    """
    whose = "median of all layers" if place is None else style.short(style.label(place))
    named = {run: {measure: places} for run, places in runs.items()}
    return plots(f"{measure}, {whose}", named, [measure], place)


FIGURE = Figure(
    order=30,
    title="Runs compared",
    text="The median over layers, with a band from the tenth to the ninetieth percentile; or one "
    "layer.",
    draw=compare,
    group="overview",
)
