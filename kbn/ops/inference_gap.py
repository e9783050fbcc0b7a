"""The gap between moving statistics and a batch's, and the updates until it closes (NumPy)."""

import math
from typing import NamedTuple

import numpy as np

SETTLED = 0.05
"""Moving statistics are settled if both gaps of every channel are at most this."""


class MeanAndVariance(NamedTuple):
    """Mean and variance per channel, (C,) float64 arrays.

    Attributes:
        mean: μ.
        variance: σ² + ε.
    """

    mean: np.ndarray
    variance: np.ndarray


class Momentum(NamedTuple):
    """The update rule of a moving average.

    Attributes:
        momentum: weight of the old value in an update; None for the average weighted by count.
        seen: 1 − momentumᵗ for a debiased average after t updates; the number of values so far if
            momentum is None; otherwise 1. (C,) array or float.
        batch: number of values per update; only used if momentum is None.
    """

    momentum: float | None
    seen: np.ndarray | float = 1.0
    batch: float = 1.0


def mean_gap(batch: MeanAndVariance, moving: MeanAndVariance) -> np.ndarray:
    """Return z = |μ_B − μ̂| / √(σ̂² + ε), (C,)."""
    return np.abs(batch.mean - moving.mean) / np.sqrt(moving.variance)


def variance_log_ratio(batch: MeanAndVariance, moving: MeanAndVariance) -> np.ndarray:
    """Return r = ½ ln((σ_B² + ε)/(σ̂² + ε)), (C,)."""
    return 0.5 * np.log(batch.variance / moving.variance)


def updates_to_settle(batch: MeanAndVariance, moving: MeanAndVariance, momentum: Momentum) -> float:
    """Return after how many updates by batches like this one no gap is above `SETTLED`.

    After n updates, an average is value + (old − value)·s. Here s is the weight that the old value
    still has: momentumⁿ for an exponential average. The result is 0 if all channels are settled,
    NaN if a statistic is not finite, and inf if a gap never closes.
    """
    if not all(np.isfinite(each).all() for each in (*batch, *moving)):
        return math.nan
    updates = _updates_until(_share_left_when_settled(batch, moving), momentum)
    return float(np.max(np.ceil(updates), initial=0.0))


def _share_left_when_settled(batch: MeanAndVariance, moving: MeanAndVariance) -> np.ndarray:
    """Return the largest s, (C,) in [0, 1], at which both gaps are settled, by bisection."""

    def settled(share: np.ndarray) -> np.ndarray:
        then = MeanAndVariance(*(b + (m - b) * share for b, m in zip(batch, moving, strict=True)))
        near = np.abs(variance_log_ratio(batch, then)) <= SETTLED
        return (mean_gap(batch, then) <= SETTLED) & near

    low, high = np.zeros_like(batch.mean), np.ones_like(batch.mean)
    low[settled(high)] = 1.0
    for _ in range(60):
        middle = (low + high) / 2
        fits = settled(middle)
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return low


def _updates_until(share: np.ndarray, momentum: Momentum) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        if momentum.momentum is None:  # s = seen/(seen + n·batch)
            return np.where(share < 1, (1 / share - 1) * momentum.seen / momentum.batch, 0.0)
        # s = q·seen/(1 − q·(1 − seen)) with q = momentumⁿ, for any debiased average.
        q = share / (momentum.seen + share * (1 - momentum.seen))
        if momentum.momentum == 0:
            return np.where(q < 1, 1.0, 0.0)
        return np.where(q < 1, np.abs(np.log(q) / np.log(momentum.momentum)), 0.0)
