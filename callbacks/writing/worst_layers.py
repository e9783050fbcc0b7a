"""One picture and one table that say which layers moved most."""

from array import array
from collections.abc import Mapping

import numpy as np

from kbn.callbacks.writing.event_file import Record
from kbn.callbacks.writing.picture import heat_map
from kbn.records import catalogue, markdown
from kbn.records.tags import Place

LINES = 24
COLUMNS = 160  # records; of more, several share a column, and the greatest is shown


class Movements:
    """How far every place moved, record by record: what the picture and the table are of.

    Args:
        measure: the name of what is added.
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
        """Return a heat map of the worst places over all records, and a table of the last ones."""
        if not self._found:
            return Record()
        steps = np.unique(np.concatenate([at for at, _ in self._found.values()]))
        values = np.full((len(self._found), len(steps)), np.nan)
        for line, (at, moved) in enumerate(self._found.values()):
            values[line, np.searchsorted(steps, at)] = moved
        places = [" ".join(place) for place in self._found]
        worst = np.sort(_worst_first(values)[:LINES])  # as many as fit, in the order of the model
        drawn = heat_map(_fewer_columns(values[worst]), [places[i] for i in worst], steps.tolist())
        text = _table(places, values[:, -1], int(steps[-1]), self._measure)
        return Record(pictures={catalogue.HEAT_MAP: drawn}, texts={catalogue.WORST_LAYERS: text})


def _worst_first(values: np.ndarray) -> np.ndarray:
    """Order lines by their mean; what was inf stands before all, what is unknown behind."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.argsort(-np.where(known.any(axis=1), total, -np.inf), kind="stable")


def _fewer_columns(values: np.ndarray) -> np.ndarray:
    if values.shape[1] <= COLUMNS:
        return values
    begins = np.arange(COLUMNS) * values.shape[1] // COLUMNS
    return np.fmax.reduceat(values, begins, axis=1)


def _table(places: list[str], last: np.ndarray, step: int, measure: str) -> str:
    order = np.argsort(-np.nan_to_num(last, nan=-np.inf, posinf=np.inf), kind="stable")[:LINES]
    rows = [(places[i], f"{last[i]:.4g}") for i in order]
    return markdown.table(("place", f"{measure} at step {step}"), rows)
