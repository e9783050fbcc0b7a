"""Type names for values that have no common class, such as the tensors of different backends."""

from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of the backend that Keras uses."""

Nested: TypeAlias = Any
"""A nested structure (list, tuple, dict) of tensors or arrays, or a single tensor or array."""

Data: TypeAlias = Any
"""Data for `fit`: arrays, (x, y), dicts, a `tf.data.Dataset`, a `PyDataset` or an iterator."""
