"""Statistics of a whole data set, computed from those of its batches in float64 NumPy."""

from typing import NamedTuple

import numpy as np

from kbn.ops.merging_moments import (
    MORE_THAN_ONE,
    bessels_correction,
    effective_count,
    merge,
    or_one,
)
from kbn.ops.moments import Part


class InferenceStatistics(NamedTuple):
    """Statistics for inference; all (C,) float64.

    Attributes:
        mean: the mean.
        variance: the variance.
        mean_count: number of values in the mean; 0 if there were none.
        variance_count: number of values in the variance; 0 if there were none.
    """

    mean: np.ndarray
    variance: np.ndarray
    mean_count: np.ndarray
    variance_count: np.ndarray


class Population:
    """Mean and variance of all values, independent of how they are cut into batches.

    Batches are merged one after the other, by weight.
    """

    def __init__(self) -> None:
        self._merged: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._squared_weight: np.ndarray | float = 0.0

    def add(self, batch: Part) -> None:
        """Add a batch; its arrays are (C,)."""
        part = (batch.pivot + batch.offset, batch.variance, np.asarray(batch.weight))
        if self._merged is not None:
            pairs = [np.stack(pair) for pair in zip(self._merged, part, strict=True)]
            with np.errstate(invalid="ignore"):  # inf and NaN stay, and are reported at the end
                part = merge(*pairs, axis=0, xp=np)
        self._merged = part
        self._squared_weight = self._squared_weight + batch.squared_weight

    def statistics(self, unbiased: bool) -> InferenceStatistics:
        """Return the statistics, with the variance over N − 1 if `unbiased`, else over N."""
        mean, variance, weight = self._merged or (np.zeros(()),) * 3
        count = np.asarray(effective_count(weight, np.asarray(self._squared_weight), np))
        if unbiased:
            variance = variance * bessels_correction(count, np)
        return InferenceStatistics(mean, variance, count, np.where(count > MORE_THAN_ONE, count, 0))


class BatchAverage:
    """The mean over batches of μ_B and of m/(m−1)·σ_B², weighted by m (Algorithm 2, step 10)."""

    def __init__(self) -> None:
        self._mean: np.ndarray | float = 0.0
        self._variance: np.ndarray | float = 0.0
        self._count: np.ndarray | float = 0.0
        self._variance_count: np.ndarray | float = 0.0

    def add(self, batch: Part) -> None:
        """Add a batch; its arrays are (C,)."""
        m = effective_count(batch.weight, batch.squared_weight, np)
        unbiased = batch.variance * bessels_correction(m, np)
        self._mean = self._mean + m * (batch.pivot + batch.offset)
        self._count = self._count + m
        several = m > MORE_THAN_ONE
        self._variance = self._variance + np.where(several, m * unbiased, 0)
        self._variance_count = self._variance_count + np.where(several, m, 0)

    def statistics(self) -> InferenceStatistics:
        """Return the statistics. As in the paper, the variance is unbiased."""
        return InferenceStatistics(
            np.asarray(self._mean / or_one(np.asarray(self._count), np)),
            np.asarray(self._variance / or_one(np.asarray(self._variance_count), np)),
            np.asarray(self._count),
            np.asarray(self._variance_count),
        )
