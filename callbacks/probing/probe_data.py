"""The probe batch, taken once from the user's data."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import tree

from kbn import backend
from kbn.common.types import Data, Nested
from kbn.introspection.batches import batches_of, describe, is_data_set, parts_of

ACCEPTED = "an array, (x, y), a dict of arrays, a tf.data.Dataset or a keras.utils.PyDataset"


class Batch(NamedTuple):
    """A batch as `fit` takes it; structures of NumPy arrays.

    Attributes:
        x: inputs.
        y: targets, or None.
        sample_weight: weights of the samples, or None.
    """

    x: Nested
    y: Nested = None
    sample_weight: Nested = None


def first_samples(data: Data, size: int) -> Nested:
    """Return the inputs of the first `size` samples of `data`, as NumPy arrays.

    As in `fit`, a tuple means (x, y) or (x, y, sample_weight) and only x is kept; a list means
    several inputs. A data set yields batches, and is read only as far as needed.

    Raises:
        TypeError: if the type of `data` is not supported.
        ValueError: if it has no sample, its arrays differ in length, or a tuple has more parts.
    """
    return _first(data, size, lambda batch: Batch(_unpacked(batch, data).x)).x


def first_batch(data: Data, size: int) -> Batch:
    """Return the first `size` samples of `data`, with its targets and weights if it has any.

    Raises:
        TypeError, ValueError: as `first_samples`.
    """
    return _first(data, size, lambda batch: _unpacked(batch, data))


def _first(data: Data, size: int, unpack: Callable[[Nested], Batch]) -> Batch:
    batches = []
    needed = size
    for batch in batches_of(data) if is_data_set(data) else [data]:
        x, *rest = unpack(batch)
        x = tree.map_structure(lambda each: _array(each, data), x)
        arrays = Batch(x, *(_arrays(part, data) for part in rest))
        length = _length(arrays)
        arrays = tree.map_structure(lambda x, n=needed: None if x is None else x[:n], arrays)
        batches.append(arrays)
        needed -= min(length, needed)
        if needed <= 0:
            break
    if needed == size:
        raise ValueError(
            f"probe_data must have at least one sample. Received: probe_data={describe(data)}"
        )
    return tree.map_structure(lambda *parts: _joined(parts, data), *batches)


def _unpacked(batch: Nested, data: Data) -> Batch:
    return Batch(*parts_of(batch, data, "probe_data"))


def _arrays(part: Nested, data: Data) -> Nested:
    return tree.map_structure(lambda x: None if x is None else _array(x, data), part)


def _joined(parts: Sequence[np.ndarray | None], data: Data) -> np.ndarray | None:
    arrays = [part for part in parts if part is not None]
    if not arrays:
        return None
    shapes = sorted({array.shape[1:] for array in arrays})
    if len(shapes) > 1:
        raise ValueError(
            "All batches of probe_data must have the same shape after the samples axis: pad them "
            f"to one size, or choose a probe_size of at most one batch, {len(arrays[0])} here. "
            f"Received: probe_data={describe(data)} with batches of the shapes {shapes}"
        )
    return np.concatenate(arrays)


def _array(value: object, data: Data) -> np.ndarray:
    if not hasattr(value, "__array__") or getattr(value, "ndim", 0) == 0:
        raise TypeError(
            f"probe_data must be {ACCEPTED}{_remedy(value)}. Received: probe_data={describe(data)}"
        )
    is_ours = keras.ops.is_tensor(value) or isinstance(value, keras.Variable)
    array = backend.numpy_of(value) if is_ours else np.asarray(value)
    if array.dtype == object and not all(isinstance(x, str | bytes) for x in array.flat):
        kinds = sorted({type(x).__name__ for x in array.flat})
        raise TypeError(
            "probe_data must be numbers, or strings for a model that takes strings. Pad rows of "
            f"different lengths. Received: probe_data={describe(data)}, an array of {kinds}"
        )
    return array


def _remedy(value: object) -> str:
    """Return how to make ragged or sparse data dense, as the end of a sentence."""
    if hasattr(value, "to_tensor"):
        return ", padded to one size (to_tensor())"
    if hasattr(value, "toarray"):
        return ", made dense (toarray())"
    return ", made dense (tf.sparse.to_dense)" if hasattr(value, "dense_shape") else ""


def _length(batch: Batch) -> int:
    lengths = {len(array) for array in tree.flatten(batch) if array is not None}
    if not tree.flatten(batch.x):
        raise TypeError(f"probe_data must be {ACCEPTED}. Received: {batch.x!r}, without an array")
    if len(lengths) != 1:
        raise ValueError(
            "All arrays of probe_data must have the same number of samples. "
            f"Received: {sorted(lengths)}"
        )
    return lengths.pop()
