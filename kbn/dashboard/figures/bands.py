"""A band over steps, which several figures draw."""

from typing import NamedTuple

import plotly.graph_objects as go

from kbn.dashboard.figures import style
from kbn.records.series import Series


class Edge(NamedTuple):
    """One line of a band.

    Attributes:
        series: its numbers; None if they were not recorded.
        label: name of the numbers, shown on hover.
    """

    series: Series | None = None
    label: str = ""


def band(low: Edge, middle: Edge, high: Edge, run: str, number: int) -> list[go.Scatter]:
    """Return lines for `low` and `high`, with the area between filled, and a line for `middle`.

    Lines that were not recorded are left out.

    Args:
        low: lower edge.
        middle: the line between the edges.
        high: upper edge.
        run: the run's name.
        number: the run's number, which determines its color.
    """
    width = 0 if middle.series is not None else 1
    line = {"width": width, "color": style.color(number)}
    fill = {"fill": "tonexty", "fillcolor": style.color(number, 0.25)}
    traces = []
    if low.series is not None and high.series is not None:
        traces += [
            style.line(low.series, low.label, run, line=line),
            style.line(high.series, high.label, run, line=line, **fill),
        ]
    if middle.series is not None:
        traces.append(style.line(middle.series, middle.label, run, line=style.stroke(number)))
    return traces
