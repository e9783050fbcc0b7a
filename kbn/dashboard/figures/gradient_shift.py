"""How far gradients move."""

from collections.abc import Mapping

import plotly.graph_objects as go

from kbn.dashboard.figures.figure import Board, Figure
from kbn.dashboard.figures.lines import plots
from kbn.records import tags
from kbn.records.series import Measures
from kbn.records.tags import Place

SHOWN = ("gradient_shift_relative", "gradient_cosine")


def gradient_shift(board: Board, layer: str | None = None) -> go.Figure:
    """Draw how far the gradients of layers move when the layers before them take their step.

    Args:
        board: the recorded runs.
        layer: one layer; None: the median of all.
    """
    place = None if layer is None else Place(layer, tags.PROBE)
    return plot(board.measures_of(SHOWN), place)


def plot(runs: Mapping[str, Measures], place: Place | None = None) -> go.Figure:
    """Draw the relative shift of gradients over steps, and the cosine.

    The definition is Def. 2.1 of Santurkar et al. (2018), here on the probe batch.

    Args:
        runs: the measures of each run, by its name.
        place: one place; None: the median of all.
    """
    return plots("Gradient shift (Santurkar et al. 2018, Def. 2.1)", runs, SHOWN, place)


FIGURE = Figure(
    order=60,
    title="Gradient shift",
    text="How much a layer's gradient changes when the layers before it take their step: the "
    "change relative to the gradient's length (0: no change), and the cosine of the angle between "
    "both gradients (1: the same direction).",
    draw=gradient_shift,
    group="callback",
    needs="gradient_shift",
)
