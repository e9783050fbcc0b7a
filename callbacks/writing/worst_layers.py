"""A picture and a table of the layers that moved most."""

from array import array
from collections.abc import Mapping

import numpy as np

from kbn.callbacks.writing.event_file import Record
from kbn.callbacks.writing.picture import heat_map
from kbn.records import catalogue, markdown
from kbn.records.series import Series, matrix, thinned
from kbn.records.tags import Place

LINES = 24
COLUMNS = 160  # with more records, several share a column, which shows the largest value


class Movements:
    """How far every place moved in each record, for the picture and the table.

    Args:
        measure: name of the distance.
    """

    def __init__(self, measure: str) -> None:
        self._measure = measure
        self._found: dict[Place, tuple[array[int], array[float]]] = {}

    def add(self, step: int, moved: Mapping[Place, float]) -> None:
        """Add a record."""
        for place, value in moved.items():
            steps, values = self._found.setdefault(place, (array("q"), array("d")))
            steps.append(step)
            values.append(value)

    def summary(self) -> Record:
        """Return a heat map of the worst places in all records, and a table of the last record."""
        if not self._found:
            return Record()
        series = {
            place: Series(np.array(steps), np.array(values))
            for place, (steps, values) in self._found.items()
        }
        steps, values = matrix(series)
        places = [" ".join(place) for place in self._found]
        worst = np.sort(_worst_first(values)[:LINES])  # as many as fit, in the order of the model
        _, shown = thinned(steps, values[worst], COLUMNS)
        drawn = heat_map(shown, [places[i] for i in worst], steps.tolist())
        text = _table(places, values[:, -1], int(steps[-1]), self._measure)
        return Record(pictures={catalogue.HEAT_MAP: drawn}, texts={catalogue.WORST_LAYERS: text})


def _worst_first(values: np.ndarray) -> np.ndarray:
    """Return line numbers by descending mean: inf first, lines without a value last."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.argsort(-np.where(known.any(axis=1), total, -np.inf), kind="stable")


def _table(places: list[str], last: np.ndarray, step: int, measure: str) -> str:
    order = np.argsort(-np.nan_to_num(last, nan=-np.inf, posinf=np.inf), kind="stable")[:LINES]
    rows = [(places[i], f"{last[i]:.4g}") for i in order]
    return markdown.table(("place", f"{measure} at step {step}"), rows)
