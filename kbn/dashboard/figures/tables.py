"""The layers that moved most, as a table."""

from collections.abc import Sequence

import plotly.graph_objects as go

from kbn.dashboard.figures import style
from kbn.diagnosis.summary import Moved


def worst_layers(moved: Sequence[Moved], measure: str) -> go.Figure:
    """Draw a table of places, the farthest first.

    Args:
        moved: as `kbn.diagnosis.summary.moved` returns them.
        measure: what their numbers are.
    """
    title = f"The layers that moved most: {measure}, {style.unit(measure)}"
    if not moved:
        return style.nothing(title, f"No run has {measure} of more than a first record.")
    columns = [
        [style.text(one.run) for one in moved],
        [style.text(style.label(one.place)) for one in moved],
        [f"{one.mean:.3g}" for one in moved],
        [f"{one.farthest:.3g}" for one in moved],
        [str(one.at) for one in moved],
    ]
    names = ["run", "layer", "mean over records", "farthest", "at step"]
    figure = go.Figure(go.Table(
        header={"values": names, "align": "left"},
        cells={"values": columns, "align": ["left", "left", "right", "right", "right"]},
    ))  # fmt: skip
    return style.titled(figure, title, style.ABOVE + 40 + 26 * len(moved))
