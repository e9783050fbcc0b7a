"""The change of one layer's distribution: densities, with one line per step."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from kbn.dashboard.figures import style
from kbn.dashboard.figures.figure import Board, Figure, Part
from kbn.records import catalogue
from kbn.records.series import Histograms
from kbn.records.tags import Place

RIDGES = 24  # largest number of lines; of more records, evenly spread ones are drawn
OVERLAP = 3.0  # number of lines that the highest ridge covers
TAIL = 0.002  # share of the values that is left out at each end of the axis


def ridge(board: Board, layer: str, site: str | None = None) -> go.Figure:
    """Draw how the histogram of a layer changes.

    Args:
        board: the recorded runs.
        layer: one layer.
        site: site of the layer; None: the input if it was recorded.
    """
    place = board.place(layer, site, board.histogram_places)
    return plot(board.histograms(place), place)


def plot(runs: Mapping[str, Histograms], place: Place) -> go.Figure:
    """Draw the density of one place's activations at several steps, the first at the top.

    There is one column per run. Heights are comparable within a run.

    Args:
        runs: the histograms of each run, by its name.
        place: the place of the histograms.
    """
    title = f"Distribution of {style.short(style.label(place))} over training"
    kept = {run: _with_values(of) for run, of in runs.items()}
    kept = {run: of for run, of in kept.items() if of.buckets}
    if not kept:
        return style.nothing(title, "No run has histograms of this layer.")
    figure = make_subplots(1, len(kept), subplot_titles=[style.short(run) for run in kept])
    for column, histograms in enumerate(kept.values(), start=1):
        _draw(figure, histograms, column)
    figure.update_xaxes(title_text="value", row=1)
    figure.update_yaxes(title_text=style.STEP, row=1, col=1)
    figure.update_layout(showlegend=False)
    return style.titled(figure, title, 560)


def _with_values(histograms: Histograms) -> Histograms:
    held = [i for i, buckets in enumerate(histograms.buckets) if buckets[:, 2].sum() > 0]
    held = [held[i] for i in style.evenly(len(held), RIDGES)]
    return Histograms(histograms.steps[held], [histograms.buckets[i] for i in held])


def _draw(figure: go.Figure, histograms: Histograms, column: int) -> None:
    outlines = [density(buckets) for buckets in histograms.buckets]
    # A bucket without width, for many equal values, would make all others look flat.
    peaks = [heights.max() for _, heights in outlines]
    scale = OVERLAP / max(float(np.quantile(peaks, 0.9)), 1e-300)
    colors = sample_colorscale(style.SEQUENTIAL, np.linspace(0, 0.9, len(outlines)).tolist())
    for line, (values, heights) in enumerate(outlines):  # the first step at the back
        base = -float(line)
        figure.add_trace(
            go.Scatter(
                x=np.concatenate([values, values[::-1]]),
                y=np.concatenate([base + np.minimum(heights * scale, 2 * OVERLAP),
                                  np.full(len(values), base)]),
                fill="toself", fillcolor=colors[line], opacity=0.85, mode="lines",
                line={"color": "white", "width": 1}, hoverinfo="name",
                name=f"step {histograms.steps[line]}",
            ), 1, column,
        )  # fmt: skip
    marks = list(style.evenly(len(outlines), 8))
    figure.update_yaxes(
        tickvals=[-mark for mark in marks], ticktext=[str(histograms.steps[i]) for i in marks],
        showgrid=False, zeroline=False, row=1, col=column,
    )  # fmt: skip
    figure.update_xaxes(range=_range(histograms), row=1, col=column)


def density(buckets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the outline of a density with area 1: values, (2k,), and the density there, (2k,).

    Args:
        buckets: (k, 3) rows of (left, right, count), ascending. A bucket without width, for many
            equal values, is widened to a thousandth of the whole range.
    """
    least = (buckets[:, 1].max() - buckets[:, 0].min()) / 1000 or 1e-3
    edges, heights, end = [], [], -np.inf
    total = buckets[:, 2].sum()
    for left, right, count in buckets.tolist():
        begin = max(left, end)  # the previous bucket may have been widened
        end = max(right, begin + least)
        edges += [begin, end]
        heights += 2 * [count / (total * (end - begin))]
    return np.array(edges), np.array(heights)


def _range(histograms: Histograms) -> tuple[float, float]:
    """Return a range with nearly all values of all steps, but without outliers."""
    ends = [_quantiles(buckets) for buckets in histograms.buckets]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def _quantiles(buckets: np.ndarray) -> tuple[float, float]:
    total = np.cumsum(buckets[:, 2]) / buckets[:, 2].sum()
    first, last = np.searchsorted(total, [TAIL, 1 - TAIL])
    return float(buckets[first, 0]), float(buckets[min(last, len(buckets) - 1), 1])


def _in_report(board: Board) -> Part:
    """Draw the layer that moved most and the last layer."""
    moved = [one.place.layer for one in board.moved()]
    layers = board.histogram_layers
    chosen = dict.fromkeys([*moved[:1], *layers[-1:]])
    return Part([ridge(board, layer) for layer in chosen if layer in layers])


FIGURE = Figure(
    order=50,
    title="Distribution of one layer",
    text="The density of the layer's activations, from the first record at the top to the last at "
    "the bottom.",
    draw=ridge,
    group="layer",
    needs=catalogue.HISTOGRAM,
    in_report=_in_report,
)
