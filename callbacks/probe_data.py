"""The fixed batch on which activations are measured, taken once from whatever the user has."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import keras
import numpy as np
from keras import tree

ACCEPTED = "an array, (x, y), a dict of arrays, a tf.data.Dataset or a keras.utils.PyDataset"


def first_samples(data: Any, size: int) -> Any:
    """Return the inputs of the first `size` samples of `data`, as NumPy arrays.

    As in `fit`, a tuple means (x, y) or (x, y, sample_weight) and only x is kept; a list means
    several inputs. A data set yields batches and is read just as far as needed.

    Raises:
        TypeError: where `data` is none of what is accepted.
        ValueError: where it has no sample, or its arrays differ in length.
    """
    batches = []
    needed = size
    for batch in _batches(data):
        arrays = tree.map_structure(lambda x: _array(x, data), _inputs(batch))
        arrays = tree.map_structure(lambda x, n=needed: x[:n], arrays)
        batches.append(arrays)
        needed -= _length(arrays)
        if needed <= 0:
            break
    if needed == size:
        raise ValueError(f"probe_data must hold at least one sample. Received: {_describe(data)}")
    return tree.map_structure(lambda *parts: np.concatenate(parts), *batches)


def _batches(data: Any) -> Iterator[Any]:
    if isinstance(data, keras.utils.PyDataset):
        indices = count() if data.num_batches is None else range(data.num_batches)
        return (data[index] for index in indices)
    if hasattr(data, "element_spec"):  # a tf.data.Dataset, without naming TensorFlow
        return iter(data)
    return iter([data])


def _inputs(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple) and batch else batch


def _array(value: Any, data: Any) -> np.ndarray:
    if not hasattr(value, "__array__") or getattr(value, "ndim", 0) == 0:
        raise TypeError(f"probe_data must be {ACCEPTED}. Received: {_describe(data)}")
    return keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else np.asarray(value)


def _length(arrays: Any) -> int:
    lengths = {len(array) for array in tree.flatten(arrays)}
    if not lengths:
        raise TypeError(f"probe_data must be {ACCEPTED}. Received: {arrays!r}, without an array")
    if len(lengths) != 1:
        raise ValueError(
            "All inputs of probe_data must have the same number of samples. "
            f"Received: {sorted(lengths)}"
        )
    return lengths.pop()


def _describe(data: Any) -> str:
    shape = getattr(data, "shape", None)
    what = repr(data)[:60] if shape is None else f"shape {tuple(shape)}"
    return f"probe_data={type(data).__name__} ({what})"
