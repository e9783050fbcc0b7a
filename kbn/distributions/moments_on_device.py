"""The moments of an activation's channels, computed on the device, inside a trace.

They are computed block by block, so that a very large activation is never copied as a whole.
"""

import keras
from keras import ops

from kbn import backend
from kbn.common.types import Size, Tensor
from kbn.distributions.channel_moments import ChannelMoments
from kbn.distributions.positions import spread
from kbn.ops.merging_moments import merge, variance_about_mean
from kbn.ops.moments import by_kernel
from kbn.ops.precision import at_least, widened

# Number of values in a block. A float32 temporary of a block takes 8 MB. Smaller blocks take more
# time and save little memory.
BLOCK = 2**21
PIVOT_ROWS = 32


def device_moments(x: Tensor) -> ChannelMoments:
    """Return the moments of `x`, (outer, channels, inner), as (C,) tensors."""
    outer, columns, inner = x.shape
    size = max(1, BLOCK // max(columns * inner, 1))
    if outer <= size:
        return _moments_of_block(x)
    turns = (outer - 1) // size  # so that the remainder has at least one row

    def add(turn: Tensor, so_far: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        block = ops.slice(x, (turn * size, 0, 0), (size, columns, inner))
        return tuple(_merged(ChannelMoments(*so_far), _moments_of_block(block)))

    first = tuple(_moments_of_block(x[turns * size :]))
    return ChannelMoments(*ops.fori_loop(0, turns, add, first))


def _moments_of_block(x: Tensor) -> ChannelMoments:
    def among_finite() -> list[Tensor]:
        kept = widened(x)
        finite = ops.isfinite(kept)
        count = ops.sum(ops.cast(finite, "float64"), axis=(0, 2))
        number = at_least(count, 1)
        mean = _total(ops.where(finite, kept, ops.zeros_like(kept))) / number
        kept = ops.where(finite, kept - ops.cast(mean, kept.dtype)[:, None], ops.zeros_like(kept))
        return [*_about(mean, kept, number), count]

    count = ops.full((x.shape[1],), x.shape[0] * x.shape[2], "float64")
    mean, variance = _fast_moments(x)
    # If the variances are finite, so are all values, and they need not be checked one by one.
    all_finite = ops.isfinite(ops.sum(variance))
    return ChannelMoments(*ops.cond(all_finite, lambda: [mean, variance, count], among_finite))


def _fast_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, (C,) float64; NaN or inf if not all values are finite."""
    if has_kernel(x):
        return moments_by_kernel(x)  # exact, and reads x once
    x = widened(x)
    rows = spread(x.shape[0], min(x.shape[0], PIVOT_ROWS))
    pivot = ops.mean(ops.take(x, rows, axis=0), axis=(0, 2))
    number = max(x.shape[0] * x.shape[2], 1)
    return _about(ops.cast(pivot, "float64"), x - pivot[:, None], number)


def _about(pivot: Tensor, deviation: Tensor, number: Size) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, (C,) float64, of `number` values, given x − `pivot`."""
    offset, square = _total(deviation) / number, _total(ops.square(deviation)) / number
    return pivot + offset, variance_about_mean(offset, square, ops)


def has_kernel(x: Tensor) -> bool:
    """Return whether a kernel of the backend computes exact moments of `x` in one pass."""
    kernel = backend.kernel(keras.backend.standardize_dtype(x.dtype))
    return kernel.obstacle is None and kernel.exact


def moments_by_kernel(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, (C,) float64, of `x`, (outer, channels, inner)."""
    columns = x.shape[1]
    x = ops.reshape(x, (-1, columns)) if x.shape[2] == 1 else x
    ones, zeros = ops.ones((columns,)), ops.zeros((columns,))
    _, moments = by_kernel(x, 1, ones, zeros, epsilon=1e-3)
    return ops.cast(moments.mean, "float64"), ops.cast(moments.variance, "float64")


def _total(x: Tensor) -> Tensor:
    return ops.cast(ops.sum(x, axis=(0, 2)), "float64")


def _merged(one: ChannelMoments, other: ChannelMoments) -> ChannelMoments:
    pairs = (ops.stack(pair) for pair in zip(one, other, strict=True))
    return pooled_moments(ChannelMoments(*pairs))


def pooled_moments(moments: ChannelMoments) -> ChannelMoments:
    """Return the moments () of all channels together; they are 0 if no value is finite."""
    return ChannelMoments(*merge(*moments, axis=0, xp=ops))
