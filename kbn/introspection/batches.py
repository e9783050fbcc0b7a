"""Batches of inputs from any data that `fit` accepts."""

from collections.abc import Iterator, Sized
from itertools import chain, count, islice

import keras
from keras import tree

from kbn.common import checks
from kbn.common.types import Data, Nested

ACCEPTED = (
    "an array, (x, y), a dict of arrays, a tf.data.Dataset, a keras.utils.PyDataset or an iterator "
    "of batches"
)
DEFAULT_BATCH_SIZE = 32  # that of fit


class Batches:
    """The inputs of `data`, batch by batch. Each iteration is one pass over the data.

    As in `fit`, a tuple means (x, y) or (x, y, sample_weight), and a list means several inputs.
    Only x is used.

    Args:
        data: see `ACCEPTED`; arrays are cut into batches of `batch_size`.
        steps: number of batches in a pass; None: all.
        batch_size: samples per batch of arrays, 32 if None; not allowed for other data.

    Attributes:
        is_spent_by_reading: whether the data can be read only once.

    Raises:
        TypeError, ValueError: if `data` is not in `ACCEPTED`, if it has no end and `steps` is None,
            or if it already comes in batches and `batch_size` is given.
    """

    def __init__(self, data: Data, steps: int | None = None, batch_size: int | None = None) -> None:
        for name, value in (("steps", steps), ("batch_size", batch_size)):
            if value is not None:
                checks.integer(name, value, low=1)
        self._data, self._steps = data, steps
        self.is_spent_by_reading = hasattr(data, "__next__")
        self._comes_in_batches = self.is_spent_by_reading or is_data_set(data)
        if self._comes_in_batches:
            if batch_size is not None:
                raise ValueError(
                    "batch_size is for arrays only; this data already comes in batches. "
                    f"Received: batch_size={batch_size!r}, data={describe(data)}"
                )
        else:
            self._length = samples(self._inputs_of(data), data)
        self._batch_size = batch_size or DEFAULT_BATCH_SIZE
        if steps is None and self._is_endless():
            raise ValueError(
                f"steps must be given for data without an end. Received: data={describe(data)}"
            )

    @property
    def steps(self) -> int | None:
        """Number of batches in a pass, or None if it is unknown before the end."""
        if self._steps is not None:
            return self._steps
        if not self._comes_in_batches:
            return -(-self._length // self._batch_size)
        if isinstance(self._data, keras.utils.PyDataset):
            return self._data.num_batches
        known = int(self._data.cardinality()) if hasattr(self._data, "cardinality") else -1
        return known if known >= 0 else None

    def first(self) -> Nested:
        """Return the inputs of the first batch, without removing it from the data."""
        if not self.is_spent_by_reading:
            return next(iter(self))
        for batch in self._data:
            self._data = chain([batch], self._data)
            return self._inputs_of(batch)
        raise ValueError("The data has no batch. Received: an iterator at its end")

    def __iter__(self) -> Iterator[Nested]:
        """Yield the inputs of each batch.

        Raises:
            ValueError: if the data ends before `steps` batches, or has no batch.
        """
        read = 0
        batches = batches_of(self._data) if self._comes_in_batches else self._slices()
        for batch in islice(batches, self._steps):
            read += 1
            yield self._inputs_of(batch)
        if read < (self._steps or 1):
            raise ValueError(
                f"The data ended after {read} batches. "
                f"Received: steps={self._steps}, data={describe(self._data)}"
            )

    def _inputs_of(self, batch: Nested) -> Nested:
        return parts_of(batch, self._data, "data")[0]

    def _slices(self) -> Iterator[Nested]:
        inputs = self._inputs_of(self._data)
        for start in range(0, self._length, self._batch_size):
            # Put it into a tuple: inputs that are a tuple themselves would be taken for (x, y).
            part = tree.map_structure(lambda x, i=start: x[i : i + self._batch_size], inputs)
            yield (part,)

    def _is_endless(self) -> bool:
        if isinstance(self._data, keras.utils.PyDataset):
            return self._data.num_batches is None
        return hasattr(self._data, "cardinality") and int(self._data.cardinality()) == -1


def is_data_set(data: Data) -> bool:
    """Return whether `data` is a data set of batches, rather than arrays."""
    # A tf.data.Dataset has element_spec. This check does not need to import TensorFlow.
    return isinstance(data, keras.utils.PyDataset) or hasattr(data, "element_spec")


def batches_of(data: Data) -> Iterator[Nested]:
    """Iterate over the batches of `data`."""
    if isinstance(data, keras.utils.PyDataset):
        indices = count() if data.num_batches is None else range(data.num_batches)
        return (data[index] for index in indices)
    return iter(data)


def parts_of(batch: Nested, data: Data, name: str) -> tuple[Nested, ...]:
    """Return (x,), (x, y) or (x, y, sample_weight).

    Args:
        batch: a batch of `data`, or `data` itself.
        data: the user's argument, for messages.
        name: the name of this argument, for messages.

    Raises:
        ValueError: if `batch` is a tuple of another length.
    """
    if not isinstance(batch, tuple):
        return (batch,)
    if not 1 <= len(batch) <= 3:
        raise ValueError(
            f"A tuple of {name} means (x, y) or (x, y, sample_weight). "
            f"Received: {name}={describe(data)}, a tuple of {len(batch)}"
        )
    return batch


def samples(inputs: Nested, data: Data) -> int:
    """Return the number of samples of arrays.

    Raises:
        TypeError, ValueError: if they are not arrays, or differ in length.
    """
    arrays = tree.flatten(inputs)
    if not arrays or any(getattr(x, "ndim", 0) == 0 or not isinstance(x, Sized) for x in arrays):
        raise TypeError(f"data must be {ACCEPTED}. Received: data={describe(data)}")
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise ValueError(
            f"All inputs must have the same number of samples. Received: {sorted(lengths)}"
        )
    return lengths.pop()


def describe(data: Data) -> str:
    """Return a short description for messages, on one line."""
    shape = getattr(data, "shape", None)
    if shape is not None:
        what = f"shape {tuple(shape)}"
    elif isinstance(data, tuple | list | dict):
        leaves = tree.flatten(data)
        rest = [f"{len(leaves) - 4} more"] if len(leaves) > 4 else []
        what = ", ".join([*map(describe, leaves[:4]), *rest])
    else:
        what = " ".join(repr(data).split())[:60]
    return f"{type(data).__name__} ({what})"
