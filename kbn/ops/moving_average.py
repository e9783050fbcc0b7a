"""The update rules of moving statistics, and the check of which channels may be updated."""

from typing import NamedTuple

from keras import ops

from kbn.common.types import Size, Tensor
from kbn.ops.merging_moments import MORE_THAN_ONE, bessels_correction, or_one
from kbn.ops.moments import Moments


class Contribution(NamedTuple):
    """The contribution of one batch, or of a sequence of G batches, to a moving average.

    Attributes:
        flags: (C,) or (G, C) bool, the channels in which the batch's statistic may be used.
        weight: (G, C) float, the weight of each batch of a sequence; None for one batch.
        rate: (C,) float in [0, 1], as in `Update`.
        count: (C,) float, as in `Update`.
    """

    flags: Tensor
    weight: Tensor | None
    rate: Tensor
    count: Tensor


class Update(NamedTuple):
    """The update of a moving average by one training step, per channel; 0 if there is none.

    Attributes:
        value: (C,) float, the new value.
        rate: (C,) float in [0, 1], the weight of `value` in an exponential average.
        count: (C,) float, the number of values that `value` was computed from.
    """

    value: Tensor
    rate: Tensor
    count: Tensor


def unbiased_variance(batch: Moments) -> Tensor:
    """Return m/(m−1)·σ_B², the unbiased estimate of the variance (Ioffe & Szegedy 2015, §3.1).

    For a channel with a single value it is not defined. The result is then 0, or NaN if the value
    is not finite, and `updatable` excludes the channel.
    """
    if batch.unbiased is not None:
        return batch.unbiased
    return batch.variance * bessels_correction(batch.count, ops)


def updatable(batch: Moments, kept_variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return, per channel, whether a batch can update the moving mean and the moving variance.

    Channels that are empty, inf or NaN, or whose variance overflows, update neither. A single value
    updates only the mean.

    Args:
        batch: the batch's moments.
        kept_variance: the batch's value for the moving variance, with or without Bessel's
            correction.
    """
    # If a value is not finite or a sum overflows, the variance is not finite.
    finite = ops.isfinite(kept_variance)
    if isinstance(batch.count, float) and batch.count > MORE_THAN_ONE:
        return finite, finite
    values, many = batch.count > 0, batch.count > MORE_THAN_ONE
    return ops.logical_and(finite, values), ops.logical_and(finite, many)


def contribution(flags: Tensor, count: Size, momentum: float | None, dtype: str) -> Contribution:
    """Return how much batches with these `flags` contribute to an average.

    In a sequence with momentum, a usable batch has the weight (1 − momentum)·momentumᵏ if k usable
    batches come after it. The old average has the weight momentumⁿ for n usable batches (Hoffer,
    Hubara & Soudry 2017, Algorithm 1).

    Args:
        flags: (C,) bool for one batch, or (G, C) bool for G batches in sequence.
        count: the number of values per channel; it broadcasts to `flags`.
        momentum: weight of the old value in [0, 1], or None for the average weighted by count.
        dtype: dtype of the average.
    """
    count = ops.where(flags, ops.cast(count, dtype), ops.zeros((), dtype))
    if len(flags.shape) == 1:
        rate = 1.0 if momentum is None else 1.0 - momentum
        rates = ops.where(flags, ops.convert_to_tensor(rate, dtype), ops.zeros((), dtype))
        return Contribution(flags, None, rates, count)
    one = ops.cast(flags, dtype)
    if momentum is None:
        weight, rate = count, ops.cast(ops.any(flags, 0), dtype)
    else:
        after = ops.sum(one, 0) - ops.cumsum(one, 0)
        weight = one * ops.power(ops.convert_to_tensor(momentum, dtype), after)
        rate = (1.0 - momentum) * ops.sum(weight, 0)
    return Contribution(flags, weight, rate, ops.sum(count, 0))


def update(value: Tensor, contribution: Contribution) -> Update:
    """Return one update for the batch or the sequence; `value` has the shape of the flags."""
    value = ops.where(contribution.flags, value, ops.zeros_like(value))
    if contribution.weight is not None:
        value = _mean(value, contribution.weight)
    return Update(value, contribution.rate, contribution.count)


def agreed(updates: Update) -> Update:
    """Return one update for all replicas, weighted by count; `updates` has shape (R, C)."""
    return Update(
        _mean(updates.value, updates.count * updates.rate),
        _mean(updates.rate, updates.count),
        ops.sum(updates.count, 0),
    )


def exponential(average: Tensor, update: Update) -> Tensor:
    """Return average·momentum + value·(1 − momentum), in Keras's convention."""
    return average * (1.0 - update.rate) + update.value * update.rate


def debiased(average: Tensor, update: Update, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden/(1 − momentumᵗ) and 1 − momentumᵗ after one more update.

    `hidden` is the exponential average that starts at zero, and t is the number of updates (Kingma
    & Ba 2015, §3). It is not stored, because it equals average·seen.

    Args:
        average: the debiased average so far.
        update: the new value.
        seen: 1 − momentumᵗ so far; 1 if the start of the average has no weight any more.
    """
    seen = seen * (1.0 - update.rate) + update.rate
    share = update.rate / or_one(seen, ops)
    return average * (1.0 - share) + update.value * share, seen


def cumulative(average: Tensor, update: Update, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the average of all values so far, each weighted by its count, and their count.

    Args:
        average: the average so far; it has no weight if `seen` is 0.
        update: the new value.
        seen: the number of values so far.
    """
    seen = seen + update.count
    share = update.count / or_one(seen, ops)
    return average * (1.0 - share) + update.value * share, seen


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    # Normalize the weights to sum 1, so that a sum of large values does not overflow.
    return ops.sum(values * (weights / or_one(ops.sum(weights, 0), ops)), 0)
