"""Ranges over steps: percentiles of activations, and the landscape of the loss."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kbn.dashboard.figures import style
from kbn.dashboard.reader import Measures, Series
from kbn.records import catalogue, tags
from kbn.records.tags import Place

MODEL = Place(tags.MODEL, tags.PROBE)
LANDSCAPE = (
    ("loss along the gradient", "loss_lowest", "loss", "loss_highest"),
    ("‖∇L(θ − αg) − g‖₂", "predictiveness_lowest", None, "predictiveness_highest"),
    ("effective β", None, "beta_smoothness", None),
)


def percentiles(runs: Mapping[str, Measures], places: Sequence[Place]) -> go.Figure:
    """Draw the 15th to 85th percentile of activations over steps, with the median as a line.

    One row of plots per place and one column per run, on one axis per row: Ioffe & Szegedy
    (2015), Fig. 1 (b, c), for whole layers.

    Args:
        runs: the measures of each run, by its name; percentiles are needed.
        places: which rows to draw, from the top.
    """
    low, middle, high = catalogue.PERCENTILES
    title = "15th, 50th and 85th percentile of activations on one fixed batch"
    places = [place for place in places if any(place in of.get(middle, {}) for of in runs.values())]
    if not places:
        return style.nothing(title, "No run has percentiles of these layers.")
    titles = [f"{style.short(style.label(place))}, {style.short(run)}"
              for place in places for run in runs]  # fmt: skip
    figure = make_subplots(
        len(places), len(runs), subplot_titles=titles, shared_xaxes=True, shared_yaxes=True,
        horizontal_spacing=min(0.03, 0.5 / len(runs)),
        vertical_spacing=min(0.09, 0.5 / len(places)),
    )  # fmt: skip
    for column, (run, measures) in enumerate(runs.items()):
        for row, place in enumerate(places, start=1):
            of = [measures.get(name, {}).get(place) for name in (low, middle, high)]
            names = [f"{percent} %" for percent in catalogue.PERCENTILES.values()]
            figure.add_traces(_band(of, names, run, column), row, column + 1)
    figure.update_xaxes(title_text=style.STEP, row=len(places))
    figure.update_yaxes(title_text="value", col=1)
    figure.update_layout(showlegend=False)
    return style.titled(figure, title, style.ABOVE + style.ROW * len(places))


def landscape(runs: Mapping[str, Measures]) -> go.Figure:
    """Draw the range of the loss and of the gradient's change along the gradient, and β.

    Santurkar et al. (2018), Fig. 4, on the probe batch.

    Args:
        runs: the measures of each run, by its name.
    """
    title = "Landscape of the loss along the gradient (Santurkar et al. 2018, Fig. 4)"
    runs = {run: of for run, of in runs.items() if "beta_smoothness" in of}
    if not runs:
        return style.nothing(title, "No run has LossLandscape's measures.")
    figure = make_subplots(len(LANDSCAPE), 1, shared_xaxes=True, vertical_spacing=0.07)
    for number, (run, measures) in enumerate(runs.items()):
        for row, (_, *names) in enumerate(LANDSCAPE, start=1):
            of = [measures.get(name, {}).get(MODEL) if name else None for name in names]
            labels = [name or "" for name in names]
            traces = _band(of, labels, run, number)
            if traces and row == len(LANDSCAPE):
                traces[-1].showlegend = True
            figure.add_traces(traces, row, 1)
    for row, (label, *_) in enumerate(LANDSCAPE, start=1):
        figure.update_yaxes(title_text=label, row=row, col=1, type="log")
    figure.update_xaxes(title_text=style.STEP, row=len(LANDSCAPE), col=1)
    return style.titled(figure, title, style.ABOVE + style.ROW * len(LANDSCAPE))


def _band(
    of: Sequence[Series | None], names: Sequence[str], run: str, number: int
) -> list[go.Scatter]:
    """Return low and high, filled between, and the middle as a line; what there is of them."""
    low, middle, high = of
    edge = {"width": 0 if middle is not None else 1, "color": style.colour(number)}
    fill = {"fill": "tonexty", "fillcolor": style.colour(number, 0.25)}
    traces = []
    if low is not None and high is not None:
        traces += [
            style.line(low, names[0], run, line=edge),
            style.line(high, names[2], run, line=edge, **fill),
        ]
    if middle is not None:
        traces.append(style.line(middle, names[1], run, line=style.stroke(number)))
    return traces
