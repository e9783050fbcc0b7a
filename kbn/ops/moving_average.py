"""How moving statistics follow the batches: pure update rules and the gate in front of them."""

from typing import Any, NamedTuple

from keras import ops

from kbn.common.types import Tensor
from kbn.ops.merging import or_one
from kbn.ops.moments import Moments

# Of weighted values, one alone has a count of 1 but for rounding.
MORE_THAN_ONE = 1.0001


class Contribution(NamedTuple):
    """In which channels a batch, or G in sequence, updates a moving average, and by how much.

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
    """What one training step adds to a moving average, per channel; 0 if it adds nothing.

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

    A channel with a single value has none: its entry is 0, or NaN if the value is not finite, and
    `updatable` excludes it.
    """
    if batch.unbiased is not None:
        return batch.unbiased
    if isinstance(batch.count, float):
        many = batch.count > MORE_THAN_ONE
        return batch.variance * (batch.count / (batch.count - 1.0) if many else 0.0)
    many = batch.count > MORE_THAN_ONE
    factor = batch.count / ops.where(many, batch.count - 1.0, ops.ones_like(batch.count))
    return batch.variance * ops.where(many, factor, ops.zeros_like(factor))


def updatable(batch: Moments, kept_variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return per channel whether a batch can update the moving mean, and the moving variance.

    Empty, inf and NaN channels, and those whose variance overflows, update neither. A single value
    updates the mean alone.

    Args:
        batch: the batch's moments.
        kept_variance: the value that the moving variance would take from them.
    """
    # A value that is not finite makes the variance so too, and so does a sum that overflows.
    finite = ops.isfinite(kept_variance)
    if isinstance(batch.count, float) and batch.count > MORE_THAN_ONE:
        return finite, finite
    values, many = batch.count > 0, batch.count > MORE_THAN_ONE
    return ops.logical_and(finite, values), ops.logical_and(finite, many)


def contribution(flags: Tensor, count: Any, momentum: float | None, dtype: str) -> Contribution:
    """Return how much batches with these `flags` contribute to an average.

    In a sequence with momentum, batch g of the n usable ones has the weight
    (1 − momentum)·momentumᵃ, if a of them come after it, and the old average momentumⁿ (Hoffer,
    Hubara & Soudry 2017, Algorithm 1).

    Args:
        flags: (C,) bool of one batch, (G, C) of G in sequence.
        count: broadcastable to `flags`, the number of values per channel.
        momentum: weight of the old value in [0, 1], or None for the average by count.
        dtype: that of the average.
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
    """Return the one update that equals the batch, or the sequence; `value` is as its `flags`."""
    value = ops.where(contribution.flags, value, ops.zeros_like(value))
    if contribution.weight is not None:
        value = _mean(value, contribution.weight)
    return Update(value, contribution.rate, contribution.count)


def agreed(updates: Update) -> Update:
    """Return the one update of all replicas, each weighted by its count; `updates` are (R, C)."""
    return Update(
        _mean(updates.value, updates.count * updates.rate),
        _mean(updates.rate, updates.count),
        ops.sum(updates.count, 0),
    )


def exponential(average: Tensor, update: Update) -> Tensor:
    """Return average·momentum + value·(1 − momentum), Keras's convention."""
    return average * (1.0 - update.rate) + update.value * update.rate


def debiased(average: Tensor, update: Update, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden/(1 − momentumᵗ) and 1 − momentumᵗ after one more update.

    `hidden` is the exponential average that starts at zero, t the number of updates (Kingma & Ba
    2015, §3). It need not be kept: it is average·seen.

    Args:
        average: the debiased average so far.
        update: the new value.
        seen: 1 − momentumᵗ so far; 1 for an average whose start is long forgotten.
    """
    seen = seen * (1.0 - update.rate) + update.rate
    share = update.rate / or_one(seen, ops)
    return average * (1.0 - share) + update.value * share, seen


def cumulative(average: Tensor, update: Update, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the average of all values so far, each weighted by its count, and their count.

    Args:
        average: the average of what came before; of no weight while nothing did.
        update: the new value.
        seen: the number of values so far.
    """
    seen = seen + update.count
    share = update.count / or_one(seen, ops)
    return average * (1.0 - share) + update.value * share, seen


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    # Weights of sum 1, so that no sum of large values overflows.
    return ops.sum(values * (weights / or_one(ops.sum(weights, 0), ops)), 0)
