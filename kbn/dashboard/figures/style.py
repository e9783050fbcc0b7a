"""Colors, sizes and texts that all figures use."""

import html
from collections.abc import Sequence

import plotly.graph_objects as go

from kbn.records import catalogue, tags
from kbn.records.series import Series
from kbn.records.tags import Place

# The colors of Okabe & Ito, which color-blind readers can distinguish.
RUNS = (
    "0, 114, 178", "213, 94, 0", "0, 158, 115", "204, 121, 167", "230, 159, 0", "86, 180, 233",
)  # fmt: skip
SEQUENTIAL = "Viridis"  # Smith & van der Walt (2015): its lightness increases evenly
ROW, ABOVE = 240, 110  # pixels
LONGEST = 34  # characters of a name at an axis
STEP = "optimizer step"


def color(run: int, alpha: float = 1.0) -> str:
    """Return the color of run number `run`."""
    return f"rgba({RUNS[run % len(RUNS)]}, {alpha})"


def dash(run: int) -> str:
    """Return the dash of run number `run`. After six runs, colors repeat but dashes do not."""
    return ("solid", "dash", "dot", "dashdot")[run // len(RUNS) % 4]


def line(series: Series, label: str, run: str, **look: object) -> go.Scatter:
    """Return `series` of `run` as a line that shows its values on hover."""
    return go.Scatter(
        x=series.steps, y=series.values, name=short(run), legendgroup=run, mode="lines",
        showlegend=False, hovertemplate=f"step %{{x}}<br>{label} %{{y:.4g}}", **look,
    )  # fmt: skip


def stroke(run: int) -> dict[str, object]:
    """Return color, width and dash of the line of run number `run`."""
    return {"color": color(run), "width": 2, "dash": dash(run)}


def text(name: str) -> str:
    """Return `name`, escaped so that Plotly shows it unchanged.

    Plotly interprets some HTML in every text, and formulas between dollar signs.
    """
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return html.escape(plain, quote=False).replace("$", "&#36;").replace("%{", "&#37;{")


def short(name: str) -> str:
    """Return `name`, or its end if it is long, escaped by `text`."""
    return text(name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}")


def label(place: Place) -> str:
    """Return the name of a place."""
    return place.layer if place.site == tags.PROBE else f"{place.layer} {place.site}"


def unit(measure: str) -> str:
    """Return the unit of `measure`, or its name if it has no unit."""
    return catalogue.measures()[measure].unit or measure.replace("_", " ")


def titled(figure: go.Figure, title: str, height: int) -> go.Figure:
    """Return `figure` with its title and size."""
    return figure.update_layout(
        title={"text": title, "x": 0, "xref": "paper", "font": {"size": 16}},
        template="plotly_white", height=height, margin={"t": 80, "l": 70, "r": 20, "b": 60},
        hoverlabel={"namelength": -1},
    )  # fmt: skip


def nothing(title: str, missing: str) -> go.Figure:
    """Return an empty figure that says what is missing."""
    figure = go.Figure(layout={"xaxis": {"visible": False}, "yaxis": {"visible": False}})
    figure.add_annotation(text=text(missing), showarrow=False, font={"size": 14})
    return titled(figure, title, 220)


def themed(figure: go.Figure, *, dark: bool) -> go.Figure:
    """Return `figure` for a dark or a light page."""
    figure.update_layout(template="plotly_dark" if dark else "plotly_white")
    return figure.update_layout(paper_bgcolor="rgba(0, 0, 0, 0)") if dark else figure


def evenly(size: int, most: int) -> Sequence[int]:
    """Return at most `most` of `size` indices, evenly spread, including the first and last."""
    if size <= most:
        return range(size)
    return [round(i * (size - 1) / (most - 1)) for i in range(most)]
