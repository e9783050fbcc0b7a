"""The precision in which kbn computes and keeps statistics: at least float32."""

from collections.abc import Iterable

from keras import backend, ops

from kbn.common.types import Tensor


def wide(dtype: str) -> str:
    """Return "float64" for float64, else "float32".

    `keras.backend.result_type(dtype, "float32")` would return "float32" for float64 on backends
    other than TensorFlow.
    """
    return "float64" if backend.standardize_dtype(dtype) == "float64" else "float32"


def widest(dtypes: Iterable[str]) -> str:
    """Return "float64" if one of `dtypes` is, else "float32"."""
    return "float64" if "float64" in map(wide, dtypes) else "float32"


def widened(x: Tensor) -> Tensor:
    """Return `x` in at least float32."""
    return ops.cast(x, wide(x.dtype))


def at_least(x: Tensor, low: Tensor | float) -> Tensor:
    """Return `x`, or `low` where `x` is below it, in the dtype of `x`. NaN stays NaN.

    On backends other than TensorFlow, `keras.ops.maximum` returns float32 for float64.
    """
    low = ops.convert_to_tensor(low, x.dtype)
    return ops.where(x < low, low, x)


def at_most(x: Tensor, high: Tensor | float) -> Tensor:
    """Return `x`, or `high` where `x` is above it, in the dtype of `x`. NaN stays NaN."""
    high = ops.convert_to_tensor(high, x.dtype)
    return ops.where(x > high, high, x)
