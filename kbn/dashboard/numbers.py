"""The scalars under one tag, in columns."""

from array import array
from collections.abc import Sequence
from typing import overload

import numpy as np
from tensorboard.data.provider import ScalarDatum

from kbn.records.series import Series


class Numbers(Sequence[ScalarDatum]):
    """The scalars under one tag.

    Attributes:
        times: when each was written, in seconds.
        refused: why they cannot be read; empty if they can.
    """

    def __init__(self) -> None:
        self._steps, self._values, self.times = array("q"), array("d"), array("d")
        self.refused = ""

    def add(self, step: int, time: float, value: float) -> None:
        """Add one scalar."""
        self._steps.append(step)
        self._values.append(value)
        self.times.append(time)

    def extend(self, steps: "array[int]", times: "array[float]", values: np.ndarray) -> None:
        """Add scalars; `values` is float64."""
        self._steps.extend(steps)
        self.times.extend(times)
        self._values.frombytes(values.tobytes())

    def purge(self, step: int) -> None:
        """Remove those of `step` and later steps."""
        kept = np.array(self._steps) < step
        self._steps = array("q", np.array(self._steps)[kept].tobytes())
        self._values = array("d", np.array(self._values)[kept].tobytes())
        self.times = array("d", np.array(self.times)[kept].tobytes())

    def series(self) -> Series:
        """Return steps and values as arrays."""
        return Series(np.array(self._steps, np.int64), np.array(self._values, np.float64))

    def last(self) -> tuple[int | None, float | None]:
        """Return the largest step, and when the newest was written."""
        return max(self._steps, default=None), max(self.times, default=None)

    def __len__(self) -> int:
        return len(self._steps)

    @overload
    def __getitem__(self, index: int) -> ScalarDatum: ...

    @overload
    def __getitem__(self, index: slice) -> list[ScalarDatum]: ...

    def __getitem__(self, index: int | slice) -> ScalarDatum | list[ScalarDatum]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        return ScalarDatum(self._steps[index], self.times[index], self._values[index])
