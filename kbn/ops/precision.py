"""At least float32: the precision in which kbn computes and keeps statistics."""

from typing import Any

from keras import backend, ops

from kbn.common.types import Tensor


def wide(dtype: Any) -> str:
    """Return "float64" for float64, else "float32".

    Not `keras.backend.result_type(dtype, "float32")`: off TensorFlow that makes float64 float32.
    """
    return "float64" if backend.standardize_dtype(dtype) == "float64" else "float32"


def widened(x: Tensor) -> Tensor:
    """Return `x` in at least float32."""
    return ops.cast(x, wide(x.dtype))
