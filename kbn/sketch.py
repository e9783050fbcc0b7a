"""DistributionSketch: a bounded summary of one layer's activations, on the host, in NumPy.

`kbn.reduction.reduce_activation` makes on the device what it is built from.
"""

from collections.abc import Mapping
from typing import Any

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


class DistributionSketch:
    """A bounded summary of one activation: kept values per channel, and exact counts and moments.

    Attributes:
        values: (R, C) float array, kept values, ascending per channel, non-finite ones last as NaN.
        mean: (C,) float64, mean over all finite values of each kept channel.
        variance: (C,) float64, their biased variance.
        count: (C,) float64, their number.
        size: how many values the activation has.
        non_finite_share: share of inf and NaN among them.
        zero_share: share of exact zeros among them.
    """

    def __init__(self, reduced: Mapping[str, Any]) -> None:
        """Take over what `kbn.reduction.reduce_activation` returned, as NumPy arrays."""
        values = np.asarray(reduced["values"])
        self.values = np.sort(np.where(np.isfinite(values), values, np.nan), axis=0)
        self.mean, self.variance, self.count = (
            np.asarray(reduced[name], np.float64) for name in ("mean", "variance", "count")
        )
        self._pooled_moments = float(reduced["pooled_mean"]), float(reduced["pooled_variance"])
        self.size = int(reduced["size"])
        self.non_finite_share = _share(reduced["non_finite"], self.size)
        self.zero_share = _share(reduced["zeros"], self.size)
        flat = self.values.reshape(-1)
        self._pooled = np.sort(flat[~np.isnan(flat)]).astype(np.float64)

    @classmethod
    def of(cls, x: Any, channel_axis: int = -1, max_samples: int = 2**14) -> "DistributionSketch":
        """Sketch an array at once, outside any trace."""
        from keras import ops

        from kbn.reduction import reduce_activation

        reduced = reduce_activation(ops.convert_to_tensor(x), channel_axis, max_samples)
        return cls({name: ops.convert_to_numpy(tensor) for name, tensor in reduced.items()})

    @property
    def finite_count(self) -> int:
        """How many values of the whole activation are finite."""
        return self.size - round(self.non_finite_share * self.size)

    @property
    def constant(self) -> np.ndarray:
        """Say per channel (C,) whether its values do not differ, or only by rounding."""
        return np.sqrt(self.variance) <= CONSTANT_RATIO * np.abs(self.mean)

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
        low, high = self._pooled[below], self._pooled[np.minimum(below + 1, last)]
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


def _share(part: Any, whole: int) -> float:
    return int(part) / whole if whole else 0.0
