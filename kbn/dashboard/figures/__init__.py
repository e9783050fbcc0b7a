"""Figures, one function each; every one returns a `plotly.graph_objects.Figure`."""

from kbn.dashboard.figures import style
from kbn.dashboard.figures.bands import landscape, percentiles
from kbn.dashboard.figures.lines import compared, gradient_shift, statistics_gap
from kbn.dashboard.figures.maps import heat_map
from kbn.dashboard.figures.ridges import ridge
from kbn.dashboard.figures.tables import worst_layers

__all__ = [
    "compared",
    "gradient_shift",
    "heat_map",
    "landscape",
    "percentiles",
    "ridge",
    "statistics_gap",
    "style",
    "worst_layers",
]
