"""How far moving statistics are from those of the probe batch."""

from collections.abc import Mapping

import plotly.graph_objects as go

from kbn.dashboard.figures.figure import Board, Figure
from kbn.dashboard.figures.lines import plots
from kbn.records import tags
from kbn.records.series import Measures
from kbn.records.tags import Place

SHOWN = ("mean_gap", "variance_log_ratio", "output_gap", "loss_gap")


def statistics_gap(board: Board, layer: str | None = None) -> go.Figure:
    """Draw how far moving statistics are from those of the probe batch.

    Args:
        board: the recorded runs.
        layer: one layer; None: the median of all.
    """
    place = None if layer is None else Place(layer, tags.PROBE)
    return plot(board.measures_of(SHOWN), place)


def plot(runs: Mapping[str, Measures], place: Place | None = None) -> go.Figure:
    """Draw the gaps of the moving statistics, of the layer's output and of the loss over steps.

    Args:
        runs: the measures of each run, by its name.
        place: one place; None: the median of all.
    """
    return plots("Moving statistics against those of the probe batch", runs, SHOWN, place)


FIGURE = Figure(
    order=80,
    title="Moving statistics",
    text="The gap between the moving mean and variance, which inference uses, and those of the "
    "probe batch (0: equal), and the resulting change in the layer's output and in the loss.",
    draw=statistics_gap,
    group="callback",
    needs="mean_gap",
)
