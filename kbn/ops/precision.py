"""The precision in which kbn computes and keeps statistics: at least float32."""

from keras import backend, ops

from kbn.common.types import Tensor


def wide(dtype: str) -> str:
    """Return "float64" for float64, else "float32".

    `keras.backend.result_type(dtype, "float32")` would return "float32" for float64 on backends
    other than TensorFlow.
    """
    return "float64" if backend.standardize_dtype(dtype) == "float64" else "float32"


def widened(x: Tensor) -> Tensor:
    """Return `x` in at least float32."""
    return ops.cast(x, wide(x.dtype))
