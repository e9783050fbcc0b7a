"""DistributionSketch: a bounded summary of one layer's activations, on the host, in NumPy.

`kbn.distributions.reduction` creates it from an activation on the device.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kbn.distributions.channel_moments import ChannelMoments

# TensorBoard's Distributions tab shows these percentiles (±½, ±1, ±1½ σ of a normal distribution),
# and the paper's figure shows the 15th, 50th and 85th. Each is a bucket edge, so both are exact.
# The other edges give the Histograms tab the shape of the distribution, including the tails.
BASIS_POINTS = (0, 668, 1587, 3085, 5000, 6915, 8413, 9332, 10_000)
HISTOGRAM_POINTS = tuple(
    sorted({*BASIS_POINTS, 1500, 8500, *range(500, 10_000, 500), 10, 50, 100, 9900, 9950, 9990})
)
_FRACTIONS = np.array(HISTOGRAM_POINTS) / 10_000
_SHARES = np.diff(_FRACTIONS)
_PLACES = {point: place for place, point in enumerate(HISTOGRAM_POINTS)}
# If std/|mean| is at most this, the differences of the values may be rounding errors of float32.
CONSTANT_RATIO = 1e-6


class Channels:
    """The channels of one activation, or of several with equal numbers of rows, side by side.

    Attributes:
        values: (R, C) float array, the kept values, ascending per channel. Values that are not
            finite are NaN, at the end.
        mean: (C,) float64, mean over all finite values of each channel.
        variance: (C,) float64, biased variance of all finite values of each channel.
        count: (C,) float64, number of finite values of each channel.
    """

    def __init__(self, values: np.ndarray, moments: ChannelMoments) -> None:
        self.values = values
        self.mean, self.variance, self.count = moments

    @staticmethod
    def side_by_side(several: Sequence["Channels"]) -> "Channels":
        """Return the channels of all, in this order. Processing them together takes less time.

        Args:
            several: channels with equal numbers of rows.
        """
        if len(several) == 1:
            return several[0]
        # Transposed, because the values of a channel are next to each other in memory.
        values = np.concatenate([one.values.T for one in several]).T
        moments = zip(*((one.mean, one.variance, one.count) for one in several), strict=True)
        return Channels(values, ChannelMoments(*map(np.concatenate, moments)))

    @functools.cached_property
    def complete(self) -> bool:
        """Whether all kept values are finite."""
        return not len(self.values) or not np.isnan(self.values[-1]).any()

    @functools.cached_property
    def constant(self) -> np.ndarray:
        """For each channel, (C,), whether its values are equal, except for rounding."""
        return np.sqrt(self.variance) <= CONSTANT_RATIO * np.abs(self.mean)

    def kurtosis_by_channel(self) -> np.ndarray:
        """Return m₄/m₂², (C,), of the kept values. It is 3 for a normal, NaN for a constant."""
        mean = _means if self.complete else _means_of_finite
        square = self.values.T.astype(np.float64)  # (C, R), in the order of memory
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            square -= mean(square)[:, None]
            square *= square
            second = mean(square)
            square *= square
            found = mean(square) / np.square(second)
        return np.where(self.constant | ~np.isfinite(found), np.nan, found)


class DistributionSketch(Channels):
    """A bounded summary of one activation: kept values per channel, and exact moments.

    Attributes:
        size: number of values of the activation.
        finite_count: number of finite values.
        non_finite_share: share of inf and NaN among all values.
        dead_share: share of channels whose values are all zero.
        zero_share: share of exact zeros among the kept values.
        saturated_share: share of kept values within 1 % of the activation's bounds; None if it has
            no bounds.
    """

    def __init__(
        self,
        kept: "Sorted",
        channels: ChannelMoments,
        pooled: ChannelMoments,
        *,
        size: int,
        dead_share: float,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        """Summarize the sorted values.

        Args:
            kept: the values that are kept.
            channels: (C,) moments of all values of the kept channels.
            pooled: () moments of all values of all channels.
            size: number of values of the activation.
            dead_share: share of channels whose values are all zero.
            bounds: as for `Reduction`.
        """
        super().__init__(kept.by_channel, channels)
        self.size, self.finite_count = size, int(pooled.number)
        self.non_finite_share = (size - self.finite_count) / size if size else 0.0
        self.dead_share = dead_share
        self._pooled, self._edges = kept.together, kept.edges
        self._pooled_moments = float(pooled.mean), float(pooled.variance)
        self.zero_share = kept.zero_share
        self.saturated_share = None if bounds is None else self._saturated(*bounds)

    def _saturated(self, low: float, high: float) -> float:
        margin = 0.01 * (high - low)
        return self._share(-np.inf, low + margin) + self._share(high - margin, np.inf)

    def _share(self, low: float, high: float) -> float:
        """Return the share of kept values in [low, high]."""
        found = self._pooled.searchsorted(high, "right") - self._pooled.searchsorted(low)
        return float(found) / self.values.size if self.values.size else 0.0

    def kurtosis(self) -> float:
        """Return the mean of `kurtosis_by_channel`, without NaN; NaN if all are NaN."""
        return mean_of_known(self.kurtosis_by_channel())

    def quantile(self, fractions: ArrayLike) -> np.ndarray:
        """Return quantiles of all kept finite values, linearly interpolated as NumPy does.

        Args:
            fractions: numbers in [0, 1].

        Returns:
            float64 array with the shape of `fractions`; NaN if no finite value was kept.
        """
        return _quantiles(self._pooled, np.asarray(fractions, np.float64))

    def percentile(self, percent: int) -> float:
        """Return the quantile of a percentage that is one of `HISTOGRAM_POINTS`."""
        return float(self._edges[_PLACES[100 * percent]])

    def histogram(self) -> np.ndarray:
        """Return (buckets, 3) float64 rows of (left, right, count), cut at `HISTOGRAM_POINTS`.

        Counts are fractional, so that the share below an edge is exactly the edge's quantile. Their
        sum is the number of finite values. If there are none, there are no buckets.
        """
        if not self._pooled.size:
            return np.zeros((0, 3))
        counts = _SHARES * self.finite_count
        return np.stack([self._edges[:-1], self._edges[1:], counts], axis=1)

    def pooled_mean(self) -> float:
        """Return the mean over all finite values of all channels; NaN if there are none."""
        return self._pooled_moments[0] if self.finite_count else float("nan")

    def pooled_std(self) -> float:
        """Return the biased standard deviation of the same values; NaN if there are none."""
        return self._pooled_moments[1] ** 0.5 if self.finite_count else float("nan")


class Sorted(NamedTuple):
    """The kept values of one activation, in order.

    Attributes:
        by_channel: as `Channels.values`.
        together: (n,) float array, the finite values of all channels, ascending.
        edges: float64 array, the quantiles of `together` at `HISTOGRAM_POINTS`.
        zero_share: share of exact zeros among the kept values.
    """

    by_channel: np.ndarray
    together: np.ndarray
    edges: np.ndarray
    zero_share: float


def sorted_values(values: Sequence[np.ndarray]) -> list[Sorted]:
    """Sort the kept values of several activations at once: (R, C) float arrays of one shape."""
    by_channel = np.stack([each.T for each in values])  # in this order, sorting is faster
    finite = np.isfinite(by_channel)
    complete = bool(finite.all())
    if not complete:
        by_channel[~finite] = np.nan
    by_channel.sort(axis=-1)
    zeros = np.count_nonzero(by_channel == 0, axis=(1, 2)) / max(by_channel[0].size, 1)
    all_together = np.sort(by_channel.reshape(len(values), -1), axis=-1)
    together, edges = list(all_together), list(_quantiles(all_together, _FRACTIONS))
    if not complete:
        counts = finite.sum(axis=(1, 2)).tolist()
        together = [one[:count] for one, count in zip(together, counts, strict=True)]
        edges = [_quantiles(one, _FRACTIONS) for one in together]
    channels = (each.T for each in by_channel)
    return list(map(Sorted, channels, together, edges, zeros.tolist()))


def _quantiles(ascending: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Return the quantiles, (..., *fractions.shape), of (..., n) values; NaN if n is 0."""
    last = ascending.shape[-1] - 1
    if last < 0:
        return np.full((*ascending.shape[:-1], *fractions.shape), np.nan)
    below = np.floor(fractions * last).astype(np.int64)
    low, high = (
        ascending[..., index].astype(np.float64) for index in (below, np.minimum(below + 1, last))
    )
    return low + (high - low) * (fractions * last - below)


def mean_of_known(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN if all are NaN."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def means_of_known(values: np.ndarray, spans: Sequence[slice]) -> list[float]:
    """Return `mean_of_known` of each part; the parts are consecutive and cover `values`."""
    if min(span.stop - span.start for span in spans) == 0:
        return [mean_of_known(values[span]) for span in spans]
    known, starts = ~np.isnan(values), [span.start for span in spans]
    with np.errstate(invalid="ignore"):
        totals = np.add.reduceat(np.where(known, values, 0), starts)
        return (totals / np.add.reduceat(known, starts, dtype=np.int64)).tolist()


def _means(x: np.ndarray) -> np.ndarray:
    return x @ np.full(x.shape[1], 1 / max(x.shape[1], 1))  # BLAS adds twice as fast as NumPy


def _means_of_finite(x: np.ndarray) -> np.ndarray:
    return np.nansum(x, axis=1) / np.sum(~np.isnan(x), axis=1)
