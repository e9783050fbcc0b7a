"""What one batch says about each channel: mean, biased variance and count of values.

One routine for every kind of batch: plain, masked, weighted, cut into virtual batches, spread
over replicas. The loops over the activation are in `channel_sums`; `by_kernel` asks the backend.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keras import ops

from kbn import backend
from kbn.common.types import Tensor
from kbn.ops import channel_sums
from kbn.ops.masks import is_mask, where_kept
from kbn.ops.merging import merge, or_one, variance_about_mean
from kbn.ops.precision import wide

Gather = Callable[[Tensor], Tensor]


class Moments(NamedTuple):
    """Moments of one batch, per channel.

    Attributes:
        mean: (C,) float, the mean μ_B.
        variance: (C,) float, the biased variance σ_B² = mean((x − μ_B)²).
        count: the number m of values of each channel: (C,) float; or, if all channels have as many,
            () float, or a Python float if it is known before the batch is. With weights, the
            effective number (Σw)²/Σw² (Kish 1965), so that m/(m−1)·σ_B² is unbiased for them too.
        unbiased: (C,) float, m/(m−1)·σ_B², if it was computed on the way. If m is 1 it is σ_B²: 0,
            or NaN if the value is not finite.
    """

    mean: Tensor
    variance: Tensor
    count: Any
    unbiased: Tensor | None = None


class Centered(NamedTuple):
    """A batch as seen from a pivot close to its mean, at which a large mean costs no accuracy.

    Attributes:
        x: the batch. The gradient of what is computed from it is added in the same pass as that of
            the moments.
        pivot: the pivot, with the reduced axes kept as 1.
        offset: mean − pivot, likewise. So (x − pivot) − offset is x − mean.
        moments: the moments, reduced axes dropped.
    """

    x: Tensor
    pivot: Tensor
    offset: Tensor
    moments: Moments


class Part(NamedTuple):
    """One replica's share of a batch, or one batch's of a data set, per channel.

    Attributes:
        weight: Σw, the number of values if there are no weights.
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
    """Find a pivot for `x` over `axes` and compute its moments.

    The pivot is a constant for gradients; the mean of what is left corrects it (the shifted
    algorithm of Chan, Golub & LeVeque 1983). At mean/std = 10⁴ in float32, what is left is
    still exact to a few ulp. Without any value, mean, variance and count are 0.

    Args:
        x: float tensor of any shape; its moments are computed in float32 at least.
        axes: the axes to reduce; the channel axis is left, alone or after one of groups.
        weights: None, a bool mask, or float weights in [0, 1], of the rank of `x` and
            broadcastable to it. Values of weight 0 or False take no part, but must be finite.
        gather: takes this replica's (k, C) to all replicas' (R, k, C); None if there is one.
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

    Arguments as for `kbn.backend.normalize_batch`.
    """
    outputs, mean, unbiased = backend.normalize_batch(x, axis, gamma, beta, epsilon)
    count = count_of(x, [i for i in range(len(x.shape)) if i != axis])
    return outputs, Moments(mean, unbiased * _biased_share(count), count, unbiased=unbiased)


def _biased_share(count: Any) -> Any:
    """Return (m−1)/m; 0 without any value."""
    if isinstance(count, float):
        return max(count - 1.0, 0.0) / max(count, 1.0)
    return ops.maximum(count - 1.0, 0.0) / ops.maximum(count, 1.0)


def count_of(x: Tensor, axes: Sequence[int]) -> Any:
    """Return the number of values along `axes`: a Python float if known, else a () float."""
    size = _size(x, axes)
    return float(size) if isinstance(size, int) else ops.cast(size, wide(x.dtype))


def local_part(x: Tensor, axes: tuple[int, ...], weights: Tensor | None) -> tuple[Tensor, Part]:
    """Return the batch, as in `Centered`, and this replica's share of its moments.

    `weights` as for `center`.
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
    """Return the mean of some 32 values of each channel, spread over a batch of known size.

    By Cauchy and Schwarz it is within √(m/32) standard deviations of the mean, whatever they are.
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
    """Return pivot, offset, variance and count of all replicas' parts together."""
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
    """Return Σw and Σw² over `axes`, without blowing the weights up to the shape of `x`."""
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
    return ops.square(part.weight) / or_one(part.squared_weight, ops)


def _float(size: Any, dtype: str) -> Tensor:
    if isinstance(size, int):
        return ops.convert_to_tensor(float(size), dtype)
    return ops.cast(size, dtype)


def _at_least_one(size: Any) -> Any:
    return max(size, 1) if isinstance(size, int) else ops.maximum(size, ops.ones_like(size))


def _size(x: Tensor, axes: Sequence[int]) -> Any:
    """Return the number of values along `axes`: an int if known, else a () int64."""
    size = math.prod(x.shape[axis] for axis in axes if x.shape[axis] is not None)
    unknown = [ops.cast(ops.shape(x)[axis], "int64") for axis in axes if x.shape[axis] is None]
    return math.prod(unknown, start=size)
