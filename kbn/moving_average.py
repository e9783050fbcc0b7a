"""How moving statistics follow the batches: pure update rules and the gate in front of them."""

from typing import Any, NamedTuple

from keras import ops

from kbn.moments import Moments, or_one

Tensor = Any

# Of weighted values, one alone has a count of 1 but for rounding.
MORE_THAN_ONE = 1.0001


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

    A channel with a single value has none: its entry is 0 and `tells_variance` says not to use it.
    """
    many = batch.count > MORE_THAN_ONE
    freedom = ops.where(many, batch.count - 1.0, ops.ones_like(batch.count))
    return ops.where(many, batch.variance * (batch.count / freedom), ops.zeros_like(batch.variance))


def tells_mean(batch: Moments) -> Tensor:
    """Say per channel whether the batch has values and only finite ones."""
    finite = ops.logical_and(ops.isfinite(batch.mean), ops.isfinite(batch.variance))
    return ops.logical_and(finite, batch.count > 0)


def tells_variance(batch: Moments) -> Tensor:
    """Say per channel whether the batch tells a variance: one value alone does not."""
    return ops.logical_and(tells_mean(batch), batch.count > MORE_THAN_ONE)


def one_batch(value: Tensor, tells: Tensor, count: Tensor, momentum: float | None) -> Step:
    """Return the step that a single batch makes.

    Args:
        value: (C,) float, the batch's statistic.
        tells: (C,) bool, the channels in which it may be used.
        count: (C,) float, the number of values behind it.
        momentum: weight of the old value in [0, 1], or None for the average by count.
    """
    zeros = ops.zeros_like(value)
    rate = 1.0 if momentum is None else 1.0 - momentum
    return Step(
        ops.where(tells, value, zeros),
        ops.where(tells, ops.convert_to_tensor(rate, value.dtype), zeros),
        ops.where(tells, count, zeros),
    )


def batch_sequence(value: Tensor, tells: Tensor, count: Tensor, momentum: float | None) -> Step:
    """Return the one step equal to those of G batches after each other; arguments are (G, C).

    With momentum, batch g of the n that tell has the weight (1 − momentum)·momentumᵃ, where a of
    them come after it, and the old average momentumⁿ (Hoffer, Hubara & Soudry 2017, Algorithm 1).
    """
    value = ops.where(tells, value, ops.zeros_like(value))
    told, count = ops.cast(tells, value.dtype), ops.where(tells, count, ops.zeros_like(value))
    if momentum is None:
        weight = count
        rate = ops.cast(ops.sum(told, 0) > 0, value.dtype)
    else:
        after = ops.sum(told, 0) - ops.cumsum(told, 0)
        weight = told * ops.power(ops.convert_to_tensor(momentum, value.dtype), after)
        rate = (1.0 - momentum) * ops.sum(weight, 0)
    return Step(_mean(value, weight), rate, ops.sum(count, 0))


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
