"""How far a layer's moving statistics are from a batch's, and how long they need: in NumPy."""

import math
from typing import Any, NamedTuple

import numpy as np

SETTLED = 0.05
"""MeanAndVariance count as settled where both gaps of every channel are at most this."""


class MeanAndVariance(NamedTuple):
    """Per channel, (C,) float64 arrays.

    Attributes:
        mean: μ.
        variance: σ² + ε.
    """

    mean: np.ndarray
    variance: np.ndarray


class Momentum(NamedTuple):
    """How a moving average forgets.

    Attributes:
        momentum: weight of the old value in an update; None for the average by count.
        seen: 1 − momentumᵗ of a debiased average after t updates, else 1; where momentum is None,
            how many values were seen. (C,) array or float.
        batch: how many values an update brings; asked for where momentum is None.
    """

    momentum: float | None
    seen: Any = 1.0
    batch: float = 1.0


def mean_gap(batch: MeanAndVariance, moving: MeanAndVariance) -> np.ndarray:
    """Return z = |μ_B − μ̂| / √(σ̂² + ε), (C,)."""
    return np.abs(batch.mean - moving.mean) / np.sqrt(moving.variance)


def variance_log_ratio(batch: MeanAndVariance, moving: MeanAndVariance) -> np.ndarray:
    """Return r = ½ ln((σ_B² + ε)/(σ̂² + ε)), (C,)."""
    return 0.5 * np.log(batch.variance / moving.variance)


def updates_to_settle(batch: MeanAndVariance, moving: MeanAndVariance, momentum: Momentum) -> float:
    """Return how many updates by batches like this one leave no gap above `SETTLED`.

    After n updates an average is value + (old − value)·s, s the share of the old that is left:
    momentumⁿ of an exponential average. 0 where all channels are settled, NaN where a statistic is
    not finite, inf where it would never be.
    """
    if not all(np.isfinite(each).all() for each in (*batch, *moving)):
        return math.nan
    updates = _updates_until(_share_left_when_settled(batch, moving), momentum)
    return float(np.max(np.ceil(updates), initial=0.0))


def _share_left_when_settled(batch: MeanAndVariance, moving: MeanAndVariance) -> np.ndarray:
    """Return the largest share (C,) in [0, 1] at which both gaps are small, by bisection."""

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
        if momentum.momentum is None:  # of the old, seen/(seen + n·batch) is left
            return np.where(share < 1, (1 / share - 1) * momentum.seen / momentum.batch, 0.0)
        # Debiased, q·seen/(1 − q·(1 − seen)) is left where q = momentumⁿ.
        q = share / (momentum.seen + share * (1 - momentum.seen))
        if momentum.momentum == 0:
            return np.where(q < 1, 1.0, 0.0)
        return np.where(q < 1, np.abs(np.log(q) / np.log(momentum.momentum)), 0.0)
