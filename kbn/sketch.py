"""DistributionSketch: a bounded summary of one layer's activations, on the host, in NumPy.

`kbn.reduction` makes it of an activation on the device.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

# TensorBoard's Distributions tab reads these percentiles (±½, ±1, ±1½ σ of a normal), and the
# paper's figure 15/50/85: a bucket edge on each makes both exact. The others give the Histograms
# tab its shape, tails included.
BASIS_POINTS = (0, 668, 1587, 3085, 5000, 6915, 8413, 9332, 10_000)
HISTOGRAM_POINTS = tuple(
    sorted({*BASIS_POINTS, 1500, 8500, *range(500, 10_000, 500), 10, 50, 100, 9900, 9950, 9990})
)
# A spread this small beside the mean is what float32 rounding leaves of a constant.
CONSTANT_RATIO = 1e-6


class Moments(NamedTuple):
    """Moments of some values; float64 arrays of one shape, or tensors.

    Attributes:
        mean: mean of the finite ones, 0 where there is none.
        variance: their biased variance.
        number: how many there are.
    """

    mean: Any
    variance: Any
    number: Any

    @classmethod
    def of(cls, x: np.ndarray) -> "Moments":
        """Return the moments (C,) of the columns of `x`, (n, C) float."""
        weights = np.full(len(x), 1 / max(len(x), 1))  # BLAS adds twice as fast as NumPy
        with np.errstate(over="ignore", invalid="ignore"):
            away = (x - x[:1]).astype(np.float64)  # so that little cancels below
            offset = weights @ away
            away *= away
            variance = np.maximum(weights @ away - offset * offset, 0)
        if not np.isfinite(variance).all():
            finite = np.isfinite(x)
            return cls._of_finite(np.where(finite, x, np.nan), finite)
        number = np.full(x.shape[1], float(len(x)))
        return cls(x[:1].sum(axis=0) + offset, variance, number)

    @classmethod
    def _of_finite(cls, x: np.ndarray, finite: np.ndarray) -> "Moments":
        count = np.sum(finite, axis=0, dtype=np.float64)
        number = np.maximum(count, 1)
        mean = np.nansum(x, axis=0, dtype=np.float64) / number
        return cls(mean, np.nansum(np.square(x - mean), axis=0) / number, count)

    def merged(self) -> "Moments":
        """Return the moments of all the values together."""
        total = self.number.sum()
        share = self.number / max(total, 1)
        mean = share @ self.mean
        return Moments(mean, share @ (self.variance + np.square(self.mean - mean)), total)


class DistributionSketch:
    """A bounded summary of one activation: kept values per channel, and exact moments.

    Attributes:
        values: (R, C) float array, kept values, ascending per channel, non-finite ones last as NaN.
        mean: (C,) float64, mean over all finite values of each kept channel.
        variance: (C,) float64, their biased variance.
        count: (C,) float64, their number.
        size: how many values the activation has.
        finite_count: how many of them are finite.
        non_finite_share: share of inf and NaN among them.
        dead_share: share of channels that are zero throughout.
        zero_share: share of exact zeros among the kept values.
        saturated_share: share of kept values within 1 % of the activation's bounds; None without
            bounds.
    """

    def __init__(
        self,
        values: np.ndarray,
        channels: Moments,
        pooled: Moments,
        *,
        size: int,
        dead_share: float,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        """Sort the values.

        Args:
            values: (R, C) float array, kept values of the kept channels.
            channels: (C,) moments of all values of the kept channels.
            pooled: () moments of all values of all channels.
            size: how many values the activation has.
            dead_share: share of its channels that are zero throughout.
            bounds: least and greatest value that the activation can have, where it has both.
        """
        values = np.array(values.T, order="C")  # sorts by channel faster
        self.complete = bool(np.isfinite(values).all())
        if not self.complete:
            values[~np.isfinite(values)] = np.nan
        values.sort(axis=1)
        self.values = values.T
        self.mean, self.variance, self.count = channels
        self.size, self.finite_count = size, int(pooled.number)
        self.non_finite_share = (size - self.finite_count) / size if size else 0.0
        self.dead_share = dead_share
        flat = values.reshape(-1)
        self._pooled = np.sort(flat if self.complete else flat[~np.isnan(flat)])
        self._pooled_moments = float(pooled.mean), float(pooled.variance)
        self.zero_share = self._share(0, 0)
        self.saturated_share = None if bounds is None else self._saturated(*bounds)

    @classmethod
    def of(cls, x: Any, channel_axis: int = -1, max_samples: int = 2**13) -> "DistributionSketch":
        """Sketch an array at once, outside any trace."""
        from keras import ops

        from kbn.reduction import Reduction

        x = ops.convert_to_tensor(x)
        reduction = Reduction(x.shape, channel_axis, max_samples)
        reduced = reduction.on_device(x)
        return reduction.on_host({k: ops.convert_to_numpy(each) for k, each in reduced.items()})

    def _saturated(self, low: float, high: float) -> float:
        margin = 0.01 * (high - low)
        return self._share(-np.inf, low + margin) + self._share(high - margin, np.inf)

    def _share(self, low: float, high: float) -> float:
        """Return the share of kept values in [low, high]."""
        found = np.searchsorted(self._pooled, high, "right") - np.searchsorted(self._pooled, low)
        return float(found) / self.values.size if self.values.size else 0.0

    @functools.cached_property
    def constant(self) -> np.ndarray:
        """Say per channel (C,) whether its values do not differ, or only by rounding."""
        return np.sqrt(self.variance) <= CONSTANT_RATIO * np.abs(self.mean)

    def kurtosis(self) -> float:
        """Return the mean over channels of m₄/m₂² of their kept values; a normal has 3.

        Channels whose values do not differ are left out; NaN where that leaves none.
        """
        if not self.complete:
            return self._kurtosis_of_finite()
        square = self.values.T.astype(np.float64)  # (C, R), as they lie in memory
        weights = np.full(len(self.values), 1 / max(len(self.values), 1))
        square -= (square @ weights)[:, None]
        square *= square
        second = square @ weights
        square *= square
        with np.errstate(divide="ignore", invalid="ignore"):
            by_channel = (square @ weights) / np.square(second)
        by_channel = by_channel[~self.constant & np.isfinite(by_channel)]
        return float(by_channel.mean()) if by_channel.size else float("nan")

    def _kurtosis_of_finite(self) -> float:
        count = np.sum(~np.isnan(self.values), axis=0)
        kept = self.values[:, (count > 0) & ~self.constant].astype(np.float64)
        square = np.square(kept - np.nanmean(kept, axis=0))
        second, fourth = np.nanmean(square, axis=0), np.nanmean(square**2, axis=0)
        spread = second > 0
        by_channel = fourth[spread] / np.square(second[spread])
        return float(by_channel.mean()) if by_channel.size else float("nan")

    def quantile(self, fractions: Any) -> np.ndarray:
        """Return quantiles of all kept finite values, linearly interpolated as NumPy does.

        Args:
            fractions: numbers in [0, 1].

        Returns:
            float64 array of their shape; NaN where no finite value was kept.
        """
        fractions = np.asarray(fractions, np.float64)
        if not self._pooled.size:
            return np.full(fractions.shape, np.nan)
        last = self._pooled.size - 1
        below = np.floor(fractions * last).astype(np.int64)
        low, high = (
            self._pooled[index].astype(np.float64) for index in (below, np.minimum(below + 1, last))
        )
        return low + (high - low) * (fractions * last - below)

    def histogram(self) -> np.ndarray:
        """Return (buckets, 3) float64 rows of (left, right, count), cut at `HISTOGRAM_POINTS`.

        Counts are fractional, so that the share below an edge is exactly the edge's quantile;
        they add up to the number of finite values, of which there may be none.
        """
        if not self._pooled.size:
            return np.zeros((0, 3))
        points = np.asarray(HISTOGRAM_POINTS) / 10_000
        edges = self.quantile(points)
        return np.stack([edges[:-1], edges[1:], np.diff(points) * self.finite_count], axis=1)

    def pooled_mean(self) -> float:
        """Return the mean over all finite values of all channels, NaN where there is none."""
        return self._pooled_moments[0] if self.finite_count else float("nan")

    def pooled_std(self) -> float:
        """Return their standard deviation (biased), NaN where there is none."""
        return self._pooled_moments[1] ** 0.5 if self.finite_count else float("nan")
