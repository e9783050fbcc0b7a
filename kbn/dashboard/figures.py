"""Figures, one function each; every one returns a `plotly.graph_objects.Figure`."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kbn import tags
from kbn.tags import Row

# Okabe & Ito's colour-blind-safe blue and vermilion, as fills and lines.
COLOURS = ("0, 114, 178", "213, 94, 0", "0, 158, 115", "204, 121, 167")


def percentile_bands(runs: Mapping[str, Sequence[Row]], site: str = "input") -> go.Figure:
    """Draw the 15th to 85th percentile of each layer over steps, with the median as a line.

    One row of plots per layer and one column per run, on one axis per row: Ioffe & Szegedy
    (2015), Fig. 1 (b, c), for whole layers.

    Args:
        runs: the `history` of each run's callback, by the run's name.
        site: which side of the layers, "input" or "output".
    """
    layers = list(dict.fromkeys(r.layer for rows in runs.values() for r in rows if r.site == site))
    titles = [f"{layer}, {run}" for layer in layers for run in runs]
    figure = make_subplots(
        max(1, len(layers)), max(1, len(runs)), subplot_titles=titles,
        shared_xaxes=True, shared_yaxes=True, horizontal_spacing=0.03, vertical_spacing=0.09,
    )  # fmt: skip
    for column, (run, rows) in enumerate(runs.items(), start=1):
        for line, layer in enumerate(layers, start=1):
            chosen = [row for row in rows if (row.layer, row.site) == (layer, site)]
            figure.add_traces(
                _band(chosen, run, COLOURS[(column - 1) % len(COLOURS)]), line, column
            )
        figure.update_xaxes(title_text="optimizer step", row=len(layers), col=column)
    figure.update_yaxes(title_text=f"{site} value", col=1)
    figure.update_layout(
        title=f"15th, 50th and 85th percentile of each layer's {site} on one fixed batch",
        template="plotly_white", showlegend=False, height=120 + 220 * len(layers), width=960,
    )  # fmt: skip
    return figure


def _band(rows: Sequence[Row], name: str, colour: str) -> list[go.Scatter]:
    low, middle, high = tags.PERCENTILE_MEASURES
    edge, line = {"width": 0}, {"color": f"rgb({colour})", "width": 2}
    return [
        _line(rows, low, f"{name} 15 %", line=edge),
        _line(
            rows, high, f"{name} 85 %", line=edge, fill="tonexty", fillcolor=f"rgba({colour}, 0.25)"
        ),
        _line(rows, middle, f"{name} 50 %", line=line),
    ]


def _line(rows: Sequence[Row], measure: str, name: str, **style: object) -> go.Scatter:
    points = [(row.step, row.value) for row in rows if row.measure == measure]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return go.Scatter(x=steps, y=values, name=name, mode="lines", **style)
