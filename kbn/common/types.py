"""Names for what has no class of its own: tensors differ by backend, and data is whatever fits."""

from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of the backend that Keras computes with."""

Nested: TypeAlias = Any
"""A structure (list, tuple, dict, to any depth) of tensors or arrays; one alone is one too."""

Data: TypeAlias = Any
"""Whatever `fit` takes: arrays, (x, y), dicts, a `tf.data.Dataset`, a `PyDataset`, an iterator."""
