"""The layers that moved most, as a table."""

from collections.abc import Sequence

import plotly.graph_objects as go

from kbn.dashboard.figures import style
from kbn.dashboard.figures.figure import Board, Figure, Part
from kbn.diagnosis.summary import Moved

MOST_IN_REPORT = 15  # layers


def worst_layers(
    board: Board, measure: str | None = None, site: str | None = None, most: int = 20
) -> go.Figure:
    """Draw a table of the layers that moved most, by the mean over records.

    Args:
        board: the recorded runs.
        measure: any of `measures`; None: `distance`.
        site: site of the layers; None: the input if it was recorded.
        most: the largest number of rows.
    """
    measure = board.measure(measure)
    return plot(board.moved(measure, site)[:most], measure)


def plot(moved: Sequence[Moved], measure: str) -> go.Figure:
    """Draw a table of places, the farthest first.

    Args:
        moved: places, as `kbn.diagnosis.summary.moved` returns them.
        measure: the measure of their numbers.
    """
    title = f"The layers that moved most: {measure}, {style.unit(measure)}"
    if not moved:
        return style.nothing(title, f"No run has {measure} after its first record.")
    columns = {
        "run": [style.text(one.run) for one in moved],
        "layer": [style.text(style.label(one.place)) for one in moved],
        "mean over records": [f"{one.mean:.3g}" for one in moved],
        "farthest": [f"{one.farthest:.3g}" for one in moved],
        "at step": [str(one.at) for one in moved],
    }
    figure = go.Figure(go.Table(
        header={"values": list(columns), "align": "left"},
        cells={"values": list(columns.values()),
               "align": ["left", "left", "right", "right", "right"]},
    ))  # fmt: skip
    return style.titled(figure, title, style.ABOVE + 40 + 26 * len(moved))


def _in_report(board: Board) -> Part:
    rows = [
        (one.run, one.place.layer, one.place.site, f"{one.mean:.3g}", f"{one.farthest:.3g}",
         str(one.at))
        for one in board.moved()[:MOST_IN_REPORT]
    ]  # fmt: skip
    return Part(tables=[[("run", "layer", "site", "mean", "farthest", "at step"), *rows]])


FIGURE = Figure(
    order=20,
    title="The layers that moved most",
    text="Sorted by the mean over records. The first record of a distance is left out, because it "
    "is compared with itself.",
    draw=worst_layers,
    group="overview",
    in_report=_in_report,
)
