"""How moving statistics follow the batches: pure update rules and the gate in front of them."""

from typing import Any

from keras import ops

from kbn.moments import Moments

Tensor = Any


def unbiased_variance(batch: Moments) -> Tensor:
    """Return m/(m−1)·σ_B², the unbiased estimate of the variance (Ioffe & Szegedy 2015, §3.1).

    A channel with a single value has none: its entry is 0 and `tells_variance` says not to use it.
    """
    ones = ops.ones_like(batch.count)
    return batch.variance * (batch.count / ops.maximum(batch.count - ones, ones))


def tells_mean(batch: Moments) -> Tensor:
    """Say per channel whether the batch has values and only finite ones."""
    finite = ops.logical_and(ops.isfinite(batch.mean), ops.isfinite(batch.variance))
    return ops.logical_and(finite, batch.count > 0)


def tells_variance(batch: Moments) -> Tensor:
    """Say per channel whether the batch tells a variance: one value alone does not."""
    return ops.logical_and(tells_mean(batch), batch.count > 1)


def exponential(average: Tensor, value: Tensor, momentum: float) -> Tensor:
    """Return average·momentum + value·(1 − momentum), Keras's convention."""
    return average * momentum + value * (1.0 - momentum)


def cumulative(average: Tensor, value: Tensor, count: Tensor, seen: Tensor) -> Tensor:
    """Return the average of all values so far, each weighted by its count.

    Args:
        average: the average of what came before; of no weight while nothing did.
        value: the new value.
        count: the weight of `value`.
        seen: the sum of all weights, that of `value` included.
    """
    return average + (value - average) * (count / ops.maximum(seen, ops.ones_like(seen)))
