"""What one batch says about each channel: mean, biased variance and count of values."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from keras import ops

Tensor = Any


class Moments(NamedTuple):
    """Moments of one batch, per channel.

    Attributes:
        mean: (C,) float, the mean μ_B.
        variance: (C,) float, the biased variance σ_B² = mean((x − μ_B)²).
        count: (C,) or () float, the number m of values behind each channel.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor


def batch_moments(x: Tensor, axes: Sequence[int], where: Tensor | None = None) -> Moments:
    """Compute the moments of `x` over `axes`.

    Two passes, the second corrected by the mean that rounding left behind (Chan, Golub & LeVeque
    1983, eq. 1.7): at mean/std = 10⁴ in float32 the result is still exact to a few ulp. Where no
    value is left, mean and variance are 0 and the count says so.

    Args:
        x: float32 or float64 tensor of any shape.
        axes: the axes to reduce, all but the channel axis.
        where: bool tensor broadcastable to `x`; False values take no part, not even as NaN.
    """

    def total(values: Tensor, keepdims: bool = False) -> Tensor:
        kept = values if where is None else ops.where(where, values, ops.zeros_like(values))
        return ops.sum(kept, axes, keepdims=keepdims)

    count = _count(x, axes, where)
    divisor = ops.maximum(count, ops.ones_like(count))
    wide = divisor if where is None else ops.reshape(divisor, _kept_shape(x, axes))
    mean = total(x, keepdims=True) / wide
    # Zeroed here too, so that no gradient runs through masked NaN.
    deviation = x - mean if where is None else ops.where(where, x - mean, ops.zeros_like(x))
    # Zero but for rounding, whatever `x`: so is its gradient, of any order.
    remainder = ops.stop_gradient(total(deviation) / divisor)
    square = total(ops.square(deviation)) / divisor
    variance = ops.maximum(square - ops.square(remainder), ops.zeros_like(square))
    return Moments(ops.squeeze(mean, tuple(axes)) + remainder, variance, count)


def _count(x: Tensor, axes: Sequence[int], where: Tensor | None) -> Tensor:
    if where is None:
        sizes = ops.convert_to_tensor([ops.shape(x)[axis] for axis in axes] or [1])
        return ops.cast(ops.prod(sizes), x.dtype)
    everywhere = ops.broadcast_to(where, ops.shape(x))
    return ops.sum(ops.cast(everywhere, x.dtype), axes)


def _kept_shape(x: Tensor, axes: Sequence[int]) -> list[int]:
    return [1 if axis in axes else x.shape[axis] for axis in range(len(x.shape))]
