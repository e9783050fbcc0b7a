"""The rows that a callback recorded, in a table that needs little memory in long runs."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from kbn.records.data_frames import pandas
from kbn.records.tags import Place, Row

if TYPE_CHECKING:
    from pandas import DataFrame

Key = tuple[str, str, str]  # layer, site, measure
_KINDS_KEPT = 8  # kinds of records in the cache; records of a kind have the same places


class Rows:
    """The rows of one record, in columns. Iteration yields each row as a `Row`.

    Attributes:
        step: step of all rows.
        places: layer, site and measure of each row.
        values: value of each row, rounded to float32 as in the event file.
    """

    def __init__(self, step: int, found: Mapping[Place, Mapping[str, float]]) -> None:
        """Put the values of one step, by place and measure, into columns."""
        self.step = step
        self.places = tuple([(*place, measure) for place, of in found.items() for measure in of])
        self.values = array("f", [value for of in found.values() for value in of.values()])

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Row]:
        for place, value in zip(self.places, self.values, strict=True):
            yield Row(self.step, *place, value)


class History(Sequence[Row]):
    """The rows of all records, in the order in which they were taken; a sequence of `Row`.

    A row takes 24 bytes. In a list of tuples it would take several times as many.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._steps, self._keys, self._values = array("q"), array("l"), array("d")
        self._places: list[Key] = []
        self._known: dict[Key, int] = {}
        self._together: dict[tuple[Key, ...], array[int]] = {}
        self.extend(rows)

    def extend(self, rows: Iterable[Row]) -> None:
        """Add rows."""
        for step, layer, site, measure, value in rows:
            self._steps.append(step)
            self._keys.append(self._key((layer, site, measure)))
            self._values.append(value)

    def add(self, rows: Rows) -> None:
        """Add the rows of a record, all at once."""
        keys = self._together.get(rows.places)
        if keys is None:
            if len(self._together) == _KINDS_KEPT:
                self._together.clear()
            keys = self._together[rows.places] = array("l", map(self._key, rows.places))
        self._steps.extend(array("q", [rows.step]) * len(rows))
        self._keys.extend(keys)
        self._values.extend(array("d", rows.values))

    def __len__(self) -> int:
        return len(self._steps)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self._row(i) for i in range(*index.indices(len(self)))]
        return self._row(range(len(self))[index])

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"History({len(self)} rows, last: {self[-1] if len(self) else None})"

    def series(self, measure: str) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
        """Return steps (n,) and values (n,) of `measure` for every (layer, site) that has it."""
        keys = np.array(self._keys)
        found = {}
        for (layer, site, name), key in self._known.items():
            if name == measure:
                rows = np.flatnonzero(keys == key)
                found[layer, site] = np.array(self._steps)[rows], np.array(self._values)[rows]
        return found

    def to_frame(self) -> "DataFrame":
        """Return a `pandas.DataFrame` with the columns step, layer, site, measure, value.

        Raises:
            ImportError: if pandas is not installed.
        """
        pd = pandas()
        places = [self._places[key] for key in self._keys]
        columns = zip(*places, strict=True) if places else ((), (), ())
        layer, site, measure = (pd.Series(list(column), dtype="str") for column in columns)
        return pd.DataFrame(
            {
                "step": pd.Series(self._steps.tolist(), dtype="int64"),
                "layer": layer,
                "site": site,
                "measure": measure,
                "value": pd.Series(self._values.tolist(), dtype="float64"),
            }
        )

    def _key(self, place: Key) -> int:
        if place not in self._known:
            self._known[place] = len(self._places)
            self._places.append(place)
        return self._known[place]

    def _row(self, index: int) -> Row:
        return Row(self._steps[index], *self._places[self._keys[index]], self._values[index])
