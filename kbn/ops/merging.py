"""Moments out of moments: of parts together, and about a mean from those about a pivot.

The code is the same for tensors and for NumPy arrays: `xp` is `keras.ops` or `numpy`. Keras is not
imported, since the dashboard does without it.
"""

from types import ModuleType

from kbn.common.types import Tensor


def merge(
    mean: Tensor, variance: Tensor, weight: Tensor, *, axis: int, xp: ModuleType
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, biased variance and weight of all parts along `axis` together.

    Chan, Golub & LeVeque 1983, eq. 2.1, for any number of parts. Parts of weight 0 must have finite
    moments; without any weight, mean and variance are 0. Parts of equal means merge exactly.

    Args:
        mean: float array or tensor of any shape, the mean of each part.
        variance: of that shape, the biased variances.
        weight: of that shape, Σw of each part, its number of values if there are no weights.
        axis: the axis of the parts, which is dropped.
        xp: the library that the arguments belong to.
    """
    total = xp.sum(weight, axis)
    share = weight / xp.expand_dims(or_one(total, xp), axis)
    # Around one of them, so that little cancels.
    around = xp.take(mean, 0, axis)
    apart = mean - xp.expand_dims(around, axis)
    offset = xp.sum(share * apart, axis)
    square = variance + xp.square(apart - xp.expand_dims(offset, axis))
    whole = xp.where(total > 0, around + offset, xp.zeros_like(offset))
    return whole, xp.sum(share * square, axis), total


def variance_about_mean(offset: Tensor, square: Tensor, xp: ModuleType) -> Tensor:
    """Return the biased variance, given moments about a pivot close to the mean.

    The shifted algorithm of Chan, Golub & LeVeque 1983. NaN stays NaN.

    Args:
        offset: the mean of x − pivot.
        square: the mean of (x − pivot)².
        xp: the library that the arguments belong to.
    """
    variance = square - xp.square(offset)
    return xp.where(variance < 0, xp.zeros_like(variance), variance)


def or_one(divisor: Tensor, xp: ModuleType) -> Tensor:
    """Return a divisor for sums that are 0 if `divisor` is."""
    return xp.where(divisor > 0, divisor, xp.ones_like(divisor))
