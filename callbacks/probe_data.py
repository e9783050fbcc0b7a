"""The fixed batch on which activations are measured, taken once from whatever the user has."""

from typing import Any

import keras
import numpy as np
from keras import tree

from kbn.batches import batches_of, describe, inputs_of, is_data_set

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
    for batch in batches_of(data) if is_data_set(data) else [data]:
        arrays = tree.map_structure(lambda x: _array(x, data), inputs_of(batch))
        arrays = tree.map_structure(lambda x, n=needed: x[:n], arrays)
        batches.append(arrays)
        needed -= _length(arrays)
        if needed <= 0:
            break
    if needed == size:
        raise ValueError(
            f"probe_data must hold at least one sample. Received: probe_data={describe(data)}"
        )
    return tree.map_structure(lambda *parts: np.concatenate(parts), *batches)


def _array(value: Any, data: Any) -> np.ndarray:
    if not hasattr(value, "__array__") or getattr(value, "ndim", 0) == 0:
        raise TypeError(f"probe_data must be {ACCEPTED}. Received: probe_data={describe(data)}")
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
