"""Figures, one module each.

A module that draws a figure has `FIGURE`, a `Figure` with its title, text and options. There is no
other list of figures. Its pure function `plot` takes the numbers and returns a
`plotly.graph_objects.Figure`.
"""

import importlib
import pkgutil

from kbn.dashboard.figures.figure import Board, Figure, Part

__all__ = ["FIGURES", "Board", "Figure", "Part"]


def _found() -> dict[str, Figure]:
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    figures = [module.FIGURE for module in modules if hasattr(module, "FIGURE")]
    return {figure.name: figure for figure in sorted(figures, key=lambda figure: figure.order)}


FIGURES = _found()
"""Figures by name, in the order in which pages show them."""
