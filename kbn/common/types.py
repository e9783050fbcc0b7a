"""Names for types without a class: tensors differ by backend, and data takes many forms."""

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of the backend that Keras uses, or an array."""

Nested: TypeAlias = Any
"""A nested structure (list, tuple, dict) of tensors or arrays, or a single tensor or array."""

Data: TypeAlias = Any
"""Data for `fit`: arrays, (x, y), dicts, a `tf.data.Dataset`, a `PyDataset` or an iterator."""

Size: TypeAlias = Any
"""A number of values: an int if the shape is static, else a scalar tensor."""

Config: TypeAlias = dict[str, Any]
"""The arguments of a Keras object, as `get_config` returns them."""

FunctionName: TypeAlias = str | Config | Callable[..., Any] | None
"""An initializer, a regularizer or a constraint: its name, its config, or the function itself."""

Logs: TypeAlias = Mapping[str, float] | None
"""Metrics that `fit` passes to callbacks."""

LogDir: TypeAlias = str | os.PathLike[str]
"""A local path, or an address of a file system that TensorBoard reads (`gs://…`)."""

LogDirs: TypeAlias = LogDir | Callable[[Any], LogDir]
"""A path, which may have fields such as `{trial}`, or a function from the model to a path."""
