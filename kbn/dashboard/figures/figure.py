"""What a figure says of itself, and what it may ask of the board."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import plotly.graph_objects as go

from kbn.diagnosis.summary import Moved
from kbn.records.series import Histograms, Measures, Places
from kbn.records.tags import Place

CHOICES = ("measure", "layer", "site")
"""What a page lets its reader choose, by the names of the parameters of `draw`."""


class Board(Protocol):
    """The recorded numbers from which a figure selects, as `Selection` provides them."""

    @property
    def distance(self) -> str | None:
        """Name of the distance that is shown if none is chosen."""

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
        """Return the places that have `measure`, at `site` or at the usual site."""

    def place(self, layer: str, site: str | None, among: Sequence[Place]) -> Place:
        """Return the place of `layer` at `site`, or at its first site."""

    def series(self, measure: str, site: str | None = None) -> dict[str, Places]:
        """Return by run `measure` at the places of `places_at`."""

    def measures_of(
        self, names: Iterable[str], only: Sequence[Place] | None = None
    ) -> dict[str, Measures]:
        """Return by run those of the measures `names` that it has."""

    def histograms(self, place: Place) -> dict[str, Histograms]:
        """Return by run the histograms of `place`."""

    def moved(self, measure: str | None = None, site: str | None = None) -> list[Moved]:
        """Return how far each layer moved, the farthest first."""


class Part(NamedTuple):
    """What stands in the report below a figure's title and text.

    Attributes:
        figures: what is drawn.
        tables: rows of cells, of which the first names the columns.
        text: a sentence more.
    """

    figures: Sequence[go.Figure] = ()
    tables: Sequence[Sequence[Sequence[str]]] = ()
    text: str = ""


@dataclass(frozen=True)
class Figure:
    """One figure of the board, the report and the tab.

    Attributes:
        order: where it stands among all figures, ascending.
        title: its heading.
        text: what it shows, in a sentence or two.
        draw: selects from the board and draws. Its name is the figure's name, in `Dashboard` too;
            its parameters after the board, among `CHOICES`, are the figure's options.
        group: "overview": of the whole model; "layer": of one layer or a few; "callback": of what
            one callback records.
        needs: the measure without which there is nothing to draw; empty: any.
        in_report: what the report shows of it; by default what `draw` draws without options.
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
        """Name of the board's method, and in the tab's requests."""
        return self.draw.__name__

    @property
    def options(self) -> list[str]:
        """What can be chosen."""
        return [name for name in inspect.signature(self.draw).parameters if name in CHOICES]

    @property
    def required(self) -> list[str]:
        """What has to be chosen."""
        parameters = inspect.signature(self.draw).parameters
        return [
            name for name in self.options if parameters[name].default is inspect.Parameter.empty
        ]

    def part(self, board: Board) -> Part:
        """Return what the report shows of it."""
        return self.in_report(board) if self.in_report else Part([self.draw(board)])
