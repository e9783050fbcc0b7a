"""DistributionSketch: a bounded summary of one layer's activations.

`reduce_activation` runs on the device, inside the compiled probe, and returns tensors whose size
has a bound; `DistributionSketch` holds them on the host and answers questions about them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from kbn.moments import Moments

Tensor = Any

# TensorBoard's Distributions tab reads these percentiles (±½, ±1, ±1½ σ of a normal), and the
# paper's figure 15/50/85: a bucket edge on each makes both exact. The others give the Histograms
# tab its shape, tails included.
BASIS_POINTS = (0, 668, 1587, 3085, 5000, 6915, 8413, 9332, 10_000)
HISTOGRAM_POINTS = tuple(
    sorted({*BASIS_POINTS, 1500, 8500, *range(500, 10_000, 500), 10, 50, 100, 9900, 9950, 9990})
)
# Fewer rows than this per channel would make channel-wise distances coarse; wide layers give up
# channels instead.
MIN_ROWS = 64
# A spread this small beside the mean is what float32 rounding leaves of a constant.
CONSTANT_RATIO = 1e-6


class Positions(NamedTuple):
    """The rows and columns of an activation, seen as (rows, channels), that a sketch keeps."""

    rows: np.ndarray
    columns: np.ndarray


def sample_positions(rows: int, columns: int, max_samples: int) -> Positions:
    """Choose at most `max_samples` evenly spread positions, always the same for a given shape.

    One position is drawn in each of equally long strata, by a fixed generator: a constant stride
    could fall in step with the image's width and see a single column of pixels.
    """
    kept_columns = min(columns, max(1, max_samples // max(1, min(rows, MIN_ROWS))))
    kept_rows = min(rows, max(1, max_samples // kept_columns))
    return Positions(_spread(rows, kept_rows), _spread(columns, kept_columns))


def _spread(size: int, kept: int) -> np.ndarray:
    if kept == size:
        return np.arange(size)
    edges = np.arange(kept + 1) * size // kept
    return np.random.default_rng(0).integers(edges[:-1], edges[1:])


def reduce_activation(x: Tensor, channel_axis: int, max_samples: int) -> dict[str, Tensor]:
    """Reduce an activation to tensors of bounded size, inside a trace.

    Args:
        x: tensor of static shape and any dtype.
        channel_axis: the axis of its channels; all others are pooled.
        max_samples: the most values that are kept.

    Returns:
        `values` (R, C') the kept values; `mean`, `variance`, `count` (C',) over all finite values
        of the kept channels; `pooled_mean`, `pooled_variance` () over all finite values of all
        channels; `size`, `non_finite`, `zeros` () over all values.
    """
    from keras import backend, ops

    from kbn.moments import batch_moments

    x = ops.cast(x, backend.result_type(x.dtype, "float32"))
    by_channel = _rows_by_channels(x, channel_axis)
    rows, columns = (int(size) for size in by_channel.shape)
    kept = sample_positions(rows, columns, max_samples)
    finite = ops.isfinite(by_channel)
    moments = batch_moments(by_channel, [0], where=finite)
    return {
        "values": _take(_take(by_channel, kept.rows, axis=0), kept.columns, axis=1),
        **{name: _take(x, kept.columns, axis=0) for name, x in moments._asdict().items()},
        **_pooled(moments),
        "size": ops.convert_to_tensor(rows * columns, dtype="int64"),
        "non_finite": ops.sum(ops.cast(ops.logical_not(finite), "int64")),
        "zeros": ops.sum(ops.cast(x == 0, "int64")),
    }


def _take(x: Tensor, positions: np.ndarray, axis: int) -> Tensor:
    from keras import ops

    return x if len(positions) == x.shape[axis] else ops.take(x, positions, axis=axis)


def _pooled(channels: "Moments") -> dict[str, Tensor]:
    """Merge the moments of all channels; 0 where there is no finite value."""
    from keras import ops

    total = ops.maximum(ops.sum(channels.count), 1)
    mean = ops.sum(channels.mean * channels.count) / total
    square = channels.variance + ops.square(channels.mean - mean)
    return {"pooled_mean": mean, "pooled_variance": ops.sum(square * channels.count) / total}


def _rows_by_channels(x: Tensor, channel_axis: int) -> Tensor:
    from keras import ops

    rank = len(x.shape)
    if rank < 2 or not -rank <= channel_axis < rank:
        return ops.reshape(x, (-1, 1))
    if channel_axis % rank != rank - 1:
        x = ops.moveaxis(x, channel_axis, -1)
    return ops.reshape(x, (-1, x.shape[-1]))


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
        """Take over what `reduce_activation` returned, as NumPy arrays."""
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
