"""What leaves the device of an activation: tensors whose size has a bound.

Runs inside the compiled probe; `kbn.sketch` holds the result on the host.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from kbn.moments import Moments, center

Tensor = Any

# Fewer rows than this per channel would make channel-wise distances coarse; wide layers give up
# channels instead.
MIN_ROWS = 64


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
    x = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
    by_channel = _rows_by_channels(x, channel_axis)
    rows, columns = (int(size) for size in by_channel.shape)
    kept = sample_positions(rows, columns, max_samples)
    finite = ops.isfinite(by_channel)
    moments = center(ops.where(finite, by_channel, 0.0), [0], finite).moments
    per_channel = {"mean": moments.mean, "variance": moments.variance, "count": moments.count}
    return {
        "values": _take(_take(by_channel, kept.rows, axis=0), kept.columns, axis=1),
        **{name: _take(x, kept.columns, axis=0) for name, x in per_channel.items()},
        **_pooled(moments),
        "size": ops.convert_to_tensor(rows * columns, dtype="int64"),
        "non_finite": ops.sum(ops.cast(ops.logical_not(finite), "int64")),
        "zeros": ops.sum(ops.cast(x == 0, "int64")),
    }


def _take(x: Tensor, positions: np.ndarray, axis: int) -> Tensor:
    return x if len(positions) == x.shape[axis] else ops.take(x, positions, axis=axis)


def _pooled(channels: Moments) -> dict[str, Tensor]:
    """Merge the moments of all channels; 0 where there is no finite value."""
    total = ops.maximum(ops.sum(channels.count), 1)
    mean = ops.sum(channels.mean * channels.count) / total
    square = channels.variance + ops.square(channels.mean - mean)
    return {"pooled_mean": mean, "pooled_variance": ops.sum(square * channels.count) / total}


def _rows_by_channels(x: Tensor, channel_axis: int) -> Tensor:
    rank = len(x.shape)
    if rank < 2 or not -rank <= channel_axis < rank:
        return ops.reshape(x, (-1, 1))
    if channel_axis % rank != rank - 1:
        x = ops.moveaxis(x, channel_axis, -1)
    return ops.reshape(x, (-1, x.shape[-1]))
