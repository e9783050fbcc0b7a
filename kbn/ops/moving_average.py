"""How moving statistics follow the batches: pure update rules and the gate in front of them."""

from typing import Any, NamedTuple

from keras import ops

from kbn.ops.moments import Moments, or_one

Tensor = Any

# Of weighted values, one alone has a count of 1 but for rounding.
MORE_THAN_ONE = 1.0001


class Told(NamedTuple):
    """Where a batch, or G in sequence, tells a moving average something, and how much it counts.

    Attributes:
        flags: (C,) or (G, C) bool, the channels in which the batch's statistic may be used.
        weight: (G, C) float, what each batch of a sequence contributes; None for one batch.
        rate: (C,) float in [0, 1], as in `Step`.
        count: (C,) float, as in `Step`.
    """

    flags: Tensor
    weight: Tensor | None
    rate: Tensor
    count: Tensor


class Step(NamedTuple):
    """What one training step has to tell a moving average, per channel.

    Attributes:
        value: (C,) float, the new value; 0 where nothing is told.
        rate: (C,) float in [0, 1], its weight in an exponential average; 0 where nothing is told.
        count: (C,) float, how many values of the batch are behind it; 0 where nothing is told.
    """

    value: Tensor
    rate: Tensor
    count: Tensor


def unbiased_variance(batch: Moments) -> Tensor:
    """Return m/(m−1)·σ_B², the unbiased estimate of the variance (Ioffe & Szegedy 2015, §3.1).

    A channel with a single value has none: its entry is 0, or NaN where the value is not finite,
    and `tells` says not to use it.
    """
    if batch.unbiased is not None:
        return batch.unbiased
    if isinstance(batch.count, float):
        many = batch.count > MORE_THAN_ONE
        return batch.variance * (batch.count / (batch.count - 1.0) if many else 0.0)
    many = batch.count > MORE_THAN_ONE
    factor = batch.count / ops.where(many, batch.count - 1.0, ops.ones_like(batch.count))
    return batch.variance * ops.where(many, factor, ops.zeros_like(factor))


def tells(batch: Moments, kept_variance: Tensor) -> tuple[Tensor, Tensor]:
    """Say per channel whether the batch tells a mean, and whether it tells a variance.

    Empty, inf and NaN channels, and those whose variance overflows, tell neither; single values
    tell no variance.

    Args:
        batch: the batch's moments.
        kept_variance: what the moving variance would take from them.
    """
    # A value that is not finite makes the variance so too, and so does a sum that overflows.
    finite = ops.isfinite(kept_variance)
    if isinstance(batch.count, float) and batch.count > MORE_THAN_ONE:
        return finite, finite
    values, many = batch.count > 0, batch.count > MORE_THAN_ONE
    return ops.logical_and(finite, values), ops.logical_and(finite, many)


def told(flags: Tensor, count: Any, momentum: float | None, dtype: str) -> Told:
    """Return what `flags` mean for an average.

    In a sequence with momentum, batch g of the n that tell has the weight
    (1 − momentum)·momentumᵃ, where a of them come after it, and the old average momentumⁿ (Hoffer,
    Hubara & Soudry 2017, Algorithm 1).

    Args:
        flags: (C,) bool of one batch, (G, C) of G in sequence.
        count: broadcastable to `flags`, the number of values behind each.
        momentum: weight of the old value in [0, 1], or None for the average by count.
        dtype: that of the average.
    """
    count = ops.where(flags, ops.cast(count, dtype), ops.zeros((), dtype))
    if len(flags.shape) == 1:
        rate = 1.0 if momentum is None else 1.0 - momentum
        rates = ops.where(flags, ops.convert_to_tensor(rate, dtype), ops.zeros((), dtype))
        return Told(flags, None, rates, count)
    one = ops.cast(flags, dtype)
    if momentum is None:
        weight, rate = count, ops.cast(ops.any(flags, 0), dtype)
    else:
        after = ops.sum(one, 0) - ops.cumsum(one, 0)
        weight = one * ops.power(ops.convert_to_tensor(momentum, dtype), after)
        rate = (1.0 - momentum) * ops.sum(weight, 0)
    return Told(flags, weight, rate, ops.sum(count, 0))


def step(value: Tensor, told: Told) -> Step:
    """Return the one step equal to what the batch, or the sequence, tells; shapes as `told`'s."""
    value = ops.where(told.flags, value, ops.zeros_like(value))
    return Step(value if told.weight is None else _mean(value, told.weight), told.rate, told.count)


def agreed(steps: Step) -> Step:
    """Return the one step for all replicas, each weighted by its count; `steps` hold (R, C)."""
    return Step(
        _mean(steps.value, steps.count * steps.rate),
        _mean(steps.rate, steps.count),
        ops.sum(steps.count, 0),
    )


def exponential(average: Tensor, step: Step) -> Tensor:
    """Return average·momentum + value·(1 − momentum), Keras's convention."""
    return average * (1.0 - step.rate) + step.value * step.rate


def debiased(average: Tensor, step: Step, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden/(1 − momentumᵗ) and 1 − momentumᵗ after one more step.

    `hidden` is the exponential average that starts at zero, t the number of steps (Kingma & Ba
    2015, §3). It need not be kept: it is average·seen.

    Args:
        average: the debiased average so far.
        step: the new value.
        seen: 1 − momentumᵗ so far; 1 for an average whose start is long forgotten.
    """
    seen = seen * (1.0 - step.rate) + step.rate
    share = step.rate / or_one(seen)
    return average * (1.0 - share) + step.value * share, seen


def cumulative(average: Tensor, step: Step, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the average of all values so far, each weighted by its count, and their count.

    Args:
        average: the average of what came before; of no weight while nothing did.
        step: the new value.
        seen: the number of values so far.
    """
    seen = seen + step.count
    share = step.count / or_one(seen)
    return average * (1.0 - share) + step.value * share, seen


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    # Weights of sum 1, so that no sum of large values overflows.
    return ops.sum(values * (weights / or_one(ops.sum(weights, 0))), 0)
