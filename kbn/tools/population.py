"""InferenceStatistics of a whole data set out of those of its batches, in float64 NumPy."""

from typing import NamedTuple

import numpy as np

from kbn.ops.moments import Part


class InferenceStatistics(NamedTuple):
    """What inference normalizes with; all (C,) float64.

    Attributes:
        mean: the mean.
        variance: the variance.
        mean_count: the number of values behind the mean; 0 where there was none.
        variance_count: the number of values behind the variance; 0 where none told one.
    """

    mean: np.ndarray
    variance: np.ndarray
    mean_count: np.ndarray
    variance_count: np.ndarray


class Population:
    """Mean and variance of all values, however they are cut into batches.

    Batches are merged one after the other by weight (Chan, Golub & LeVeque 1983, eq. 2.1).
    """

    def __init__(self) -> None:
        self._weight: np.ndarray | float = 0.0
        self._squared_weight: np.ndarray | float = 0.0
        self._mean: np.ndarray | float = 0.0
        self._squares: np.ndarray | float = 0.0

    def add(self, batch: Part) -> None:
        """Add a batch; its arrays are (C,)."""
        before, self._weight = self._weight, self._weight + batch.weight
        share = batch.weight / _or_one(self._weight)
        distance = batch.pivot + batch.offset - self._mean
        with np.errstate(invalid="ignore"):  # inf and NaN go on as NaN, and are told in the end
            self._mean = self._mean + distance * share
            self._squares = self._squares + batch.weight * batch.variance
            self._squares = self._squares + np.square(distance) * before * share
        self._squared_weight = self._squared_weight + batch.squared_weight

    def statistics(self, unbiased: bool) -> InferenceStatistics:
        """Return the statistics, with the sample variance or that of the values as they are."""
        count = np.asarray(np.square(self._weight) / _or_one(self._squared_weight))
        variance = np.asarray(self._squares / _or_one(self._weight))
        if unbiased:
            variance = variance * count / _or_one(count - 1)
        return InferenceStatistics(
            np.asarray(self._mean), variance, count, np.where(count > 1, count, 0)
        )


class BatchAverage:
    """The mean over batches of μ_B and of m/(m−1)·σ_B², weighted by m (Algorithm 2, step 10)."""

    def __init__(self) -> None:
        self._mean: np.ndarray | float = 0.0
        self._variance: np.ndarray | float = 0.0
        self._count: np.ndarray | float = 0.0
        self._variance_count: np.ndarray | float = 0.0

    def add(self, batch: Part) -> None:
        """Add a batch; its arrays are (C,)."""
        m = np.square(batch.weight) / _or_one(batch.squared_weight)
        unbiased = batch.variance * m / _or_one(m - 1)
        self._mean = self._mean + m * (batch.pivot + batch.offset)
        self._count = self._count + m
        several = m > 1
        self._variance = self._variance + np.where(several, m * unbiased, 0)
        self._variance_count = self._variance_count + np.where(several, m, 0)

    def statistics(self) -> InferenceStatistics:
        """Return the statistics; the paper's variance is unbiased."""
        return InferenceStatistics(
            np.asarray(self._mean / _or_one(self._count)),
            np.asarray(self._variance / _or_one(self._variance_count)),
            np.asarray(self._count),
            np.asarray(self._variance_count),
        )


def _or_one(divisor: np.ndarray | float) -> np.ndarray:
    return np.where(np.asarray(divisor) > 0, divisor, 1.0)
