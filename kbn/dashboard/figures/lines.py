"""Comparison of runs, with a plot per measure: of one place, or the median of all places."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kbn.dashboard.figures import style
from kbn.records import catalogue
from kbn.records.series import Measures, Places, Series, matrix
from kbn.records.tags import Place


def plots(
    title: str, runs: Mapping[str, Measures], measures: Sequence[str], place: Place | None = None
) -> go.Figure:
    """Draw one plot per recorded measure, below each other, with one line per run.

    For several places, the line is their median, in a band from the 10th to the 90th percentile.

    Args:
        title: title of the figure.
        runs: the measures of each run, by its name.
        measures: the measures to draw, from the top.
        place: one place; None: all. Measures of the model are always drawn.
    """
    shown = [name for name in measures if any(_chosen(of, name, place) for of in runs.values())]
    if not shown:
        return style.nothing(title, f"No run has finite values of {' or '.join(measures)} here.")
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
    if place is None or catalogue.measures()[name].whose == "model":
        return places
    return {each: of for each, of in places.items() if each == place}


def _traces(places: Places, measure: str, run: str, number: int) -> list[go.Scatter]:
    if len(places) == 1:
        (series,) = places.values()
        return [style.line(series, measure, run, line=style.stroke(number))]
    steps, values = matrix(places)
    known = np.isfinite(values).any(axis=0)
    steps, values = steps[known], np.where(np.isfinite(values), values, np.nan)[:, known]
    quantile = np.nanquantile if np.isnan(values).any() else np.quantile  # NumPy's first is slow
    low, middle, high = quantile(values, [0.1, 0.5, 0.9], axis=0)
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False,
            "legendgroup": run}  # fmt: skip
    return [
        go.Scatter(x=steps, y=low, **edge),
        go.Scatter(x=steps, y=high, fill="tonexty", fillcolor=style.color(number, 0.2), **edge),
        style.line(Series(steps, middle), measure, run, line=style.stroke(number)),
    ]
