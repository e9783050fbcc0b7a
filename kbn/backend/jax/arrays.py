"""Conversion to NumPy arrays, and precision."""

from contextlib import AbstractContextManager

import jax
import keras
import numpy as np

from kbn.common.types import Tensor

# Without `jax.enable_x64`, JAX has no int64.
COUNTER = "int32"


def numpy_of(value: Tensor) -> np.ndarray:
    """Return a tensor, or a variable of Keras, as an array of its own."""
    tensor = value.value if isinstance(value, keras.Variable) else value
    return np.array(tensor)


def in_double() -> AbstractContextManager[object]:
    """Return a context in which float64 is float64, also inside a trace."""
    return jax.enable_x64(True)
