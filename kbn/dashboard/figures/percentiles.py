"""The 15th to 85th percentile of layers over steps."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kbn.dashboard.figures import style
from kbn.dashboard.figures.bands import Edge, band
from kbn.dashboard.figures.figure import Board, Figure
from kbn.records.catalogue import PERCENTILES
from kbn.records.series import Measures
from kbn.records.tags import Place

MANY = 6  # number of layers that are drawn if none is chosen
_LOW, _MIDDLE, _HIGH = PERCENTILES


def percentiles(
    board: Board, layer: str | Sequence[str] | None = None, site: str | None = None
) -> go.Figure:
    """Draw the 15th to 85th percentile over steps, one row per layer.

    Args:
        board: the recorded runs.
        layer: one layer or several; None: six, spread over the depth of the model.
        site: site of the layers; None: the input if it was recorded.
    """
    places = board.places_at(_MIDDLE, site)
    if layer is None:
        chosen = [places[i] for i in style.evenly(len(places), MANY)]
    else:
        names = [layer] if isinstance(layer, str) else layer
        chosen = [board.place(name, site, places) for name in names]
    return plot(board.measures_of(PERCENTILES, chosen), chosen)


def plot(runs: Mapping[str, Measures], places: Sequence[Place]) -> go.Figure:
    """Draw the 15th to 85th percentile of activations over steps, with the median as a line.

    There is one row of plots per place and one column per run. Plots in a row share their vertical
    axis. This is Fig. 1 (b, c) of Ioffe & Szegedy (2015), for whole layers.

    Args:
        runs: the measures of each run, by its name; they must include the percentiles.
        places: the rows to draw, from the top.
    """
    title = "15th, 50th and 85th percentile of activations on one fixed batch"
    places = [
        place for place in places if any(place in of.get(_MIDDLE, {}) for of in runs.values())
    ]
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
            low, middle, high = (
                Edge(measures.get(name, {}).get(place), f"{PERCENTILES[name]} %")
                for name in (_LOW, _MIDDLE, _HIGH)
            )
            figure.add_traces(band(low, middle, high, run, column), row, column + 1)
    figure.update_xaxes(title_text=style.STEP, row=len(places))
    figure.update_yaxes(title_text="value", col=1)
    figure.update_layout(showlegend=False)
    return style.titled(figure, title, style.ABOVE + style.ROW * len(places))


FIGURE = Figure(
    order=40,
    title="Percentiles of activations",
    text="15 % of a layer's values are below the band, 15 % are above it, and half are below the "
    "line (Ioffe & Szegedy 2015, Fig. 1). A band that drifts shows covariate shift. A band that "
    "shrinks to a line shows that the layer's output hardly depends on its inputs.",
    draw=percentiles,
    group="layer",
    needs=_MIDDLE,
)
