"""Merge the moments of parts, and compute variances and counts from sums.

The code is the same for tensors and NumPy arrays: `xp` is `keras.ops` or `numpy`. Keras is not
imported, because the dashboard must work without it.
"""

from types import ModuleType

from kbn.common.types import Tensor

# With weights, the count of a single value is 1 up to rounding.
MORE_THAN_ONE = 1.0001


def merge(
    mean: Tensor, variance: Tensor, weight: Tensor, *, axis: int, xp: ModuleType
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean, biased variance and weight of all parts along `axis` together.

    This is eq. 2.1 of Chan, Golub & LeVeque 1983 for any number of parts. Parts with weight 0 must
    have finite moments. If all weights are 0, mean and variance are 0. Parts with equal means merge
    exactly.

    Args:
        mean: float array or tensor of any shape, the mean of each part.
        variance: the biased variance of each part, of the same shape.
        weight: Σw of each part, of the same shape; without weights, its number of values.
        axis: the axis of the parts, which is removed.
        xp: the library that the arguments belong to.
    """
    total = xp.sum(weight, axis)
    share = weight / xp.expand_dims(or_one(total, xp), axis)
    # Compute around one of the means, so that cancellation costs little accuracy.
    around = xp.take(mean, 0, axis)
    apart = mean - xp.expand_dims(around, axis)
    offset = xp.sum(share * apart, axis)
    square = variance + xp.square(apart - xp.expand_dims(offset, axis))
    whole = xp.where(total > 0, around + offset, xp.zeros_like(offset))
    return whole, xp.sum(share * square, axis), total


def variance_about_mean(offset: Tensor, square: Tensor, xp: ModuleType) -> Tensor:
    """Return the biased variance, given moments about a pivot close to the mean.

    This is the shifted algorithm of Chan, Golub & LeVeque 1983. NaN stays NaN.

    Args:
        offset: the mean of x − pivot.
        square: the mean of (x − pivot)².
        xp: the library that the arguments belong to.
    """
    variance = square - xp.square(offset)
    return xp.where(variance < 0, xp.zeros_like(variance), variance)


def effective_count(weight: Tensor, squared_weight: Tensor, xp: ModuleType) -> Tensor:
    """Return (Σw)²/Σw², the effective number of values (Kish 1965); 0 without any weight.

    Args:
        weight: Σw.
        squared_weight: Σw².
        xp: the library of the arguments.
    """
    return xp.square(weight) / or_one(squared_weight, xp)


def bessels_correction(count: Tensor | float, xp: ModuleType) -> Tensor:
    """Return m/(m−1), or 0 if m is not above 1.

    Args:
        count: m, the number of values. The correction of a Python float is one too.
        xp: the library of `count`, if it is a tensor or an array.
    """
    if isinstance(count, float):
        return count / (count - 1.0) if count > MORE_THAN_ONE else 0.0
    many = count > MORE_THAN_ONE
    factor = count / xp.where(many, count - 1.0, xp.ones_like(count))
    return xp.where(many, factor, xp.zeros_like(factor))


def or_one(divisor: Tensor, xp: ModuleType) -> Tensor:
    """Return `divisor` with 1 in place of 0, for sums that are 0 there too."""
    return xp.where(divisor > 0, divisor, xp.ones_like(divisor))
