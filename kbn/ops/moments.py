"""Moments of a batch per channel: mean, biased variance and number of values.

One function handles every kind of batch: plain, masked, weighted, cut into ghost batches, or
spread over replicas. The sums over the activation are in `channel_sums`. `by_kernel` uses the
backend's own kernel.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from keras import ops

from kbn import backend
from kbn.common.types import Size, Tensor
from kbn.ops import channel_sums
from kbn.ops.masks import is_mask, where_kept
from kbn.ops.merging_moments import effective_count, merge, or_one, variance_about_mean
from kbn.ops.precision import at_least, wide

Gather = Callable[[Tensor], Tensor]


class Moments(NamedTuple):
    """Moments of one batch, per channel.

    Attributes:
        mean: (C,) float, the mean μ_B.
        variance: (C,) float, the biased variance σ_B² = mean((x − μ_B)²).
        count: the number m of values per channel: (C,) float. If it is the same for all channels,
            () float, or a Python float if the shape of the batch is known. With weights, it is the
            effective number (Σw)²/Σw² (Kish 1965), for which m/(m−1)·σ_B² is unbiased.
        unbiased: (C,) float, m/(m−1)·σ_B², if a kernel already computed it. If m is 1, it is σ_B²:
            0, or NaN if the value is not finite.
    """

    mean: Tensor
    variance: Tensor
    count: Size
    unbiased: Tensor | None = None


class Centered(NamedTuple):
    """A batch with a pivot close to its mean, so that a large mean costs no accuracy.

    Attributes:
        x: the batch. If further results are computed from it, their gradient and that of the
            moments are added in one pass.
        pivot: the pivot; reduced axes are kept with size 1.
        offset: mean − pivot, of the same shape. So (x − pivot) − offset is x − mean.
        moments: the moments, without the reduced axes.
    """

    x: Tensor
    pivot: Tensor
    offset: Tensor
    moments: Moments


class Part(NamedTuple):
    """Moments per channel of one replica's part of a batch, or of one batch of a data set.

    Attributes:
        weight: Σw; without weights, the number of values.
        squared_weight: Σw².
        pivot: a constant close to the mean.
        offset: mean − pivot.
        variance: the biased variance.
    """

    weight: Tensor
    squared_weight: Tensor
    pivot: Tensor
    offset: Tensor
    variance: Tensor


def center(
    x: Tensor, axes: Sequence[int], weights: Tensor | None = None, gather: Gather | None = None
) -> Centered:
    """Choose a pivot for `x` and compute the moments over `axes`.

    This is the shifted algorithm of Chan, Golub & LeVeque 1983. The pivot is a constant for
    gradients, and the mean of x − pivot corrects it. At mean/std = 10⁴ in float32, x − pivot is
    still exact to a few ulp. Without any value, mean, variance and count are 0.

    Args:
        x: float tensor of any shape; its moments are computed in at least float32.
        axes: the axes to reduce. The channel axis remains, possibly after an axis of groups.
        weights: None, a bool mask, or float weights in [0, 1]. They have the rank of `x` and
            broadcast to it. Values with False or weight 0 are not used, but must be finite.
        gather: function from this replica's (k, C) to all replicas' (R, k, C); None if there is
            only one replica.
    """
    axes = tuple(axes)
    x, part = local_part(x, axes, weights)
    pivot, offset, variance, count = (
        (part.pivot, part.offset, part.variance, _effective_count(part))
        if gather is None
        else _merged(part, gather)
    )
    mean = ops.squeeze(pivot + offset, axes)
    if gather is None and weights is None:
        count = count_of(x, axes)
    else:
        count = ops.broadcast_to(ops.squeeze(count, axes), ops.shape(mean))
    moments = Moments(mean, ops.squeeze(variance, axes), count)
    return Centered(x, part.pivot, offset - (part.pivot - pivot), moments)


def by_kernel(
    x: Tensor, axis: int, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Moments]:
    """Return γ·(x − μ_B)/√(σ_B² + ε) + β and the batch's moments, by the backend's kernel.

    The arguments are those of `kbn.backend.normalize_batch`.
    """
    outputs, mean, unbiased = backend.normalize_batch(x, axis, gamma, beta, epsilon)
    count = count_of(x, [i for i in range(len(x.shape)) if i != axis])
    return outputs, Moments(mean, unbiased * _biased_share(count), count, unbiased=unbiased)


def _biased_share(count: Size) -> Size:
    """Return (m−1)/m, or 0 if m is 0."""
    if isinstance(count, float):
        return max(count - 1.0, 0.0) / max(count, 1.0)
    return at_least(count - 1.0, 0.0) / at_least(count, 1.0)


def count_of(x: Tensor, axes: Sequence[int]) -> Size:
    """Return the number of values along `axes`: a Python float if known, else a () float."""
    size = _size(x, axes)
    return float(size) if isinstance(size, int) else ops.cast(size, wide(x.dtype))


def local_part(x: Tensor, axes: tuple[int, ...], weights: Tensor | None) -> tuple[Tensor, Part]:
    """Return the batch, as in `Centered`, and the moments of this replica's part.

    `weights` is as in `center`.
    """
    dtype = wide(x.dtype)
    weight, squared_weight = _weight(x, axes, weights, dtype)
    divisor = or_one(weight, ops)
    if weights is None:
        pivot = ops.stop_gradient(_mean_of_sample(x, axes, dtype))
        x, first, second = channel_sums.shifted(x, pivot, axes)
    else:
        x = ops.cast(x, dtype)
        pivot = ops.stop_gradient(_total(x, weights, axes) / divisor)
        values = x - pivot
        first = _total(values, weights, axes)
        second = _total(ops.square(values), weights, axes)
    offset = first / divisor
    variance = variance_about_mean(offset, second / divisor, ops)
    return x, Part(weight, squared_weight, pivot, offset, variance)


def _mean_of_sample(x: Tensor, axes: tuple[int, ...], dtype: str) -> Tensor:
    """Return the mean of about 32 values per channel, spread over the batch if its size is known.

    By the Cauchy-Schwarz inequality, it is always within √(m/32) standard deviations of the mean.
    """
    each = {1: 32, 2: 6, 3: 4}.get(len(axes), 3)
    where = [slice(None)] * len(x.shape)
    for axis in axes:
        step = max((x.shape[axis] or 0) // each, 1)
        where[axis] = slice(0, each * step, step)
    sample = ops.cast(x[tuple(where)], dtype)
    return ops.sum(sample, axes, keepdims=True) / _float(_at_least_one(_size(sample, axes)), dtype)


def _total(values: Tensor, weights: Tensor, axes: tuple[int, ...]) -> Tensor:
    kept = where_kept(weights, values, ops.zeros_like(values))
    return ops.sum(kept if is_mask(weights) else kept * weights, axes, keepdims=True)


def _merged(part: Part, gather: Gather) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return pivot, offset, variance and count of the merged parts of all replicas."""
    shape = ops.shape(part.pivot)
    rows = ops.stack([ops.reshape(ops.broadcast_to(row, shape), (-1,)) for row in part])
    parts = Part(*ops.unstack(gather(rows), axis=1))  # each (R, C)
    shares = parts.weight / or_one(ops.sum(parts.weight, 0), ops)
    pivot = ops.sum(shares * parts.pivot, 0)
    means = (parts.pivot - pivot) + parts.offset
    offset, variance, weight = merge(means, parts.variance, parts.weight, axis=0, xp=ops)
    whole = Part(weight, ops.sum(parts.squared_weight, 0), pivot, offset, variance)
    results = (pivot, offset, variance, _effective_count(whole))
    return tuple(ops.reshape(result, shape) for result in results)


def _weight(
    x: Tensor, axes: tuple[int, ...], weights: Tensor | None, dtype: str
) -> tuple[Tensor, Tensor]:
    """Return Σw and Σw² over `axes`, without broadcasting the weights to the shape of `x`."""
    size = _size(x, axes)
    if weights is None:
        everything = ops.reshape(_float(size, dtype), [1] * len(x.shape))
        return everything, everything
    repeats = _float(size // _at_least_one(_size(weights, axes)), dtype)
    weights, mask = ops.cast(weights, dtype), is_mask(weights)
    weight = ops.sum(weights, axes, keepdims=True) * repeats
    return weight, weight if mask else ops.sum(ops.square(weights), axes, keepdims=True) * repeats


def _effective_count(part: Part) -> Tensor:
    if part.squared_weight is part.weight:
        return part.weight
    return effective_count(part.weight, part.squared_weight, ops)


def _float(size: Size, dtype: str) -> Tensor:
    if isinstance(size, int):
        return ops.convert_to_tensor(float(size), dtype)
    return ops.cast(size, dtype)


def _at_least_one(size: Size) -> Size:
    return max(size, 1) if isinstance(size, int) else ops.maximum(size, ops.ones_like(size))


def _size(x: Tensor, axes: Sequence[int]) -> Size:
    """Return the number of values along `axes`: an int if known, else a () int64."""
    size = math.prod(x.shape[axis] for axis in axes if x.shape[axis] is not None)
    unknown = [ops.cast(ops.shape(x)[axis], "int64") for axis in axes if x.shape[axis] is None]
    return math.prod(unknown, start=size)
