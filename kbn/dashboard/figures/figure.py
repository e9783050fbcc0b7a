"""The description of a figure, and the part of the board that figures use."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import plotly.graph_objects as go

from kbn.diagnosis.summary import Moved
from kbn.records.series import Histograms, Measures, Places
from kbn.records.tags import Place

CHOICES = ("measure", "layer", "site")
"""Options that a page offers. They are names of parameters of `draw`."""


class Board(Protocol):
    """The recorded numbers that a figure selects from; `Selection` implements it."""

    @property
    def distance(self) -> str | None:
        """Name of the distance that is shown by default."""

    @property
    def histogram_layers(self) -> list[str]:
        """Paths of the layers that have histograms."""

    @property
    def histogram_places(self) -> list[Place]:
        """Places that have histograms."""

    def measure(self, measure: str | None = None) -> str:
        """Return `measure`, or `distance` if it is None."""

    def places(self, measure: str | None = None) -> list[Place]:
        """Return the places that have `measure`."""

    def places_at(self, measure: str, site: str | None = None) -> list[Place]:
        """Return the places that have `measure`, at `site` or at the default site."""

    def place(self, layer: str, site: str | None, among: Sequence[Place]) -> Place:
        """Return the place of `layer` at `site`, or at its first site."""

    def series(self, measure: str, site: str | None = None) -> dict[str, Places]:
        """Return `measure` at the places of `places_at`, by run."""

    def measures_of(
        self, names: Iterable[str], only: Sequence[Place] | None = None
    ) -> dict[str, Measures]:
        """Return the recorded measures among `names`, by run."""

    def histograms(self, place: Place) -> dict[str, Histograms]:
        """Return the histograms of `place`, by run."""

    def moved(self, measure: str | None = None, site: str | None = None) -> list[Moved]:
        """Return how far each layer moved, the farthest first."""


class Part(NamedTuple):
    """What the report shows below a figure's title and text.

    Attributes:
        figures: figures.
        tables: tables as lists of rows; the first row names the columns.
        text: an additional sentence.
    """

    figures: Sequence[go.Figure] = ()
    tables: Sequence[Sequence[Sequence[str]]] = ()
    text: str = ""


@dataclass(frozen=True)
class Figure:
    """One figure of the board, the report and the tab.

    Attributes:
        order: sort key among all figures, ascending.
        title: heading.
        text: description, in one or two sentences.
        draw: function that selects numbers from the board and draws them. Its name is the name of
            the figure and of its method of `Dashboard`. Its parameters that are in `CHOICES` are
            the figure's options.
        group: "overview" for the whole model, "layer" for one layer or a few, "callback" for the
            records of one callback.
        needs: the measure that the figure needs; empty: any.
        in_report: function that returns what the report shows; None: the figure without options.
    """

    order: int
    title: str
    text: str
    draw: Callable[..., go.Figure]
    group: Literal["overview", "layer", "callback"]
    needs: str = ""
    in_report: Callable[[Board], Part] | None = None

    @property
    def name(self) -> str:
        """Name of the method of `Dashboard`, and in requests of the tab."""
        return self.draw.__name__

    @property
    def options(self) -> list[str]:
        """Names of the options."""
        return [name for name in inspect.signature(self.draw).parameters if name in CHOICES]

    @property
    def required(self) -> list[str]:
        """Names of the options that have no default."""
        parameters = inspect.signature(self.draw).parameters
        return [
            name for name in self.options if parameters[name].default is inspect.Parameter.empty
        ]

    def part(self, board: Board) -> Part:
        """Return what the report shows of the figure."""
        return self.in_report(board) if self.in_report else Part([self.draw(board)])
