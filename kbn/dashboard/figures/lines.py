"""Runs side by side, on one axis: a measure of one layer, or the middle of all of them."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kbn.dashboard.figures import style
from kbn.dashboard.figures.maps import matrix
from kbn.dashboard.reader import Measures, Places, Series
from kbn.records import catalogue
from kbn.records.tags import Place

GRADIENTS = ("gradient_shift_relative", "gradient_cosine")
STATISTICS = ("mean_gap", "variance_log_ratio", "output_gap")


def compared(runs: Mapping[str, Places], measure: str, place: Place | None = None) -> go.Figure:
    """Draw `measure` over steps, a line per run: of one place, or the median over all of them.

    Where it is of all places, the band reaches from the tenth to the ninetieth percentile.

    Args:
        runs: the places of each run, by its name.
        measure: what their values are.
        place: one place; None: all.
    """
    whose = "median of all layers" if place is None else style.short(style.label(place))
    title = f"{measure}, {whose}"
    return _figure(title, {name: {measure: places} for name, places in runs.items()}, [measure],
                   place)  # fmt: skip


def gradient_shift(runs: Mapping[str, Measures], place: Place | None = None) -> go.Figure:
    """Draw how far gradients move when the layers below take their step, and the cosine.

    Santurkar et al. (2018), Def. 2.1, on the probe batch.

    Args:
        runs: the measures of each run, by its name.
        place: one place; None: the median of all.
    """
    return _figure("Gradient shift (Santurkar et al. 2018, Def. 2.1)", runs, GRADIENTS, place)


def statistics_gap(runs: Mapping[str, Measures], place: Place | None = None) -> go.Figure:
    """Draw how far moving statistics are from those of the probe batch, and what it does.

    Args:
        runs: the measures of each run, by its name.
        place: one place; None: the median of all.
    """
    title = "Moving statistics against those of the probe batch"
    chosen = (*STATISTICS, "loss_gap")
    return _figure(title, runs, chosen, place)


def _figure(
    title: str, runs: Mapping[str, Measures], measures: Sequence[str], place: Place | None
) -> go.Figure:
    """Draw one plot per measure that there is, below each other."""
    shown = [name for name in measures if any(_chosen(of, name, place) for of in runs.values())]
    if not shown:
        return style.nothing(title, f"No run has {' or '.join(measures)} here that is finite.")
    figure = make_subplots(
        len(shown), 1, shared_xaxes=True, vertical_spacing=min(0.07, 0.5 / len(shown))
    )
    for number, (run, of) in enumerate(runs.items()):
        drawn = 0
        for row, measure in enumerate(shown, start=1):
            places = _chosen(of, measure, place)
            traces = _traces(places, measure, run, number) if places else []
            if traces and not drawn:
                traces[-1].showlegend = True
            drawn += len(traces)
            figure.add_traces(traces, row, 1)
    for row, measure in enumerate(shown, start=1):
        lines = dict.fromkeys((measure.replace("_", " "), style.unit(measure)))  # once if the same
        title_text = "<br>".join(lines)
        figure.update_yaxes(title={"text": title_text, "font": {"size": 12}}, row=row, col=1)
    figure.update_xaxes(title_text=style.STEP, row=len(shown), col=1)
    return style.titled(figure, title, style.ABOVE + style.ROW * len(shown))


def _chosen(measures: Measures, name: str, place: Place | None) -> Places:
    places = {
        place: of for place, of in measures.get(name, {}).items() if np.isfinite(of.values).any()
    }
    whole = catalogue.measures()[name].whose == "model"  # the model's, whatever the layer
    return (
        places
        if place is None or whole
        else {each: of for each, of in places.items() if each == place}
    )


def _traces(places: Places, measure: str, run: str, number: int) -> list[go.Scatter]:
    if len(places) == 1:
        (series,) = places.values()
        return [style.line(series, measure, run, line=style.stroke(number))]
    steps, values = matrix(places)
    known = np.isfinite(values).any(axis=0)
    steps, values = steps[known], np.where(np.isfinite(values), values, np.nan)[:, known]
    low, middle, high = np.nanquantile(values, [0.1, 0.5, 0.9], axis=0)
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False,
            "legendgroup": run}  # fmt: skip
    return [
        go.Scatter(x=steps, y=low, **edge),
        go.Scatter(x=steps, y=high, fill="tonexty", fillcolor=style.colour(number, 0.2), **edge),
        style.line(Series(steps, middle), measure, run, line=style.stroke(number)),
    ]
