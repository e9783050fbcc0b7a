"""The landscape of the loss along the gradient."""

from collections.abc import Mapping
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kbn.dashboard.figures import style
from kbn.dashboard.figures.bands import Edge, band
from kbn.dashboard.figures.figure import Board, Figure
from kbn.records import tags
from kbn.records.series import Measures
from kbn.records.tags import Place

_SMOOTHNESS = "beta_smoothness"
_PLACE = Place(tags.MODEL, tags.PROBE)


class _Row(NamedTuple):
    """One plot: the label of its axis, and the measures that it shows."""

    label: str
    low: str = ""
    middle: str = ""
    high: str = ""


_ROWS = (
    _Row("loss along the gradient", low="loss_lowest", middle="loss", high="loss_highest"),
    _Row("‖∇L(θ − αg) − g‖₂", low="predictiveness_lowest", high="predictiveness_highest"),
    _Row("effective β", middle=_SMOOTHNESS),
)


def landscape(board: Board) -> go.Figure:
    """Draw the landscape of the loss along the gradient."""
    names = [name for row in _ROWS for name in (row.low, row.middle, row.high) if name]
    return plot(board.measures_of(names))


def plot(runs: Mapping[str, Measures]) -> go.Figure:
    """Draw the range of the loss and of the gradient's change along the gradient, and β.

    This is Fig. 4 of Santurkar et al. (2018), on the probe batch.

    Args:
        runs: the measures of each run, by its name.
    """
    title = "Landscape of the loss along the gradient (Santurkar et al. 2018, Fig. 4)"
    runs = {run: of for run, of in runs.items() if _SMOOTHNESS in of}
    if not runs:
        return style.nothing(title, "No run has the measures of LossLandscape.")
    figure = make_subplots(len(_ROWS), 1, shared_xaxes=True, vertical_spacing=0.07)
    for number, (run, measures) in enumerate(runs.items()):
        for row, shown in enumerate(_ROWS, start=1):
            low, middle, high = (
                Edge(measures.get(name, {}).get(_PLACE), name)
                for name in (shown.low, shown.middle, shown.high)
            )
            traces = band(low, middle, high, run, number)
            if traces and row == len(_ROWS):
                traces[-1].showlegend = True
            figure.add_traces(traces, row, 1)
    for row, shown in enumerate(_ROWS, start=1):
        figure.update_yaxes(title_text=shown.label, row=row, col=1, type="log")
    figure.update_xaxes(title_text=style.STEP, row=len(_ROWS), col=1)
    return style.titled(figure, title, style.ABOVE + style.ROW * len(_ROWS))


FIGURE = Figure(
    order=70,
    title="Landscape of the loss",
    text="The range of the loss, and of the change of its gradient, along the direction of the "
    "gradient. If the range is narrow, the gradient predicts the outcome of a step well. β is the "
    "largest change of the gradient per distance.",
    draw=landscape,
    group="callback",
    needs=_SMOOTHNESS,
)
