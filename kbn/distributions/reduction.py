"""From an activation to its sketch: what leaves the device has a bound, whatever comes in.

A small activation leaves as it is: few operations in the compiled probe. Of a large one, a sample
and sums leave. Those are taken block by block, so that no copy of a very large one is made.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from kbn import backend
from kbn.common.types import Tensor
from kbn.distributions.sketch import ChannelMoments, DistributionSketch, sorted_values
from kbn.ops.merging import merge, variance_about_mean
from kbn.ops.moments import by_kernel
from kbn.ops.precision import widened

# Fewer rows than this per channel would make channel-wise distances coarse; wide layers give up
# channels instead.
MIN_ROWS = 64
WHOLE = 2**16
"""Values of the largest activation that leaves the device as it is."""
WHOLE_AT_ONCE = 2**18  # values of activations that are summed up together
# Values of a block: some temporaries of 8 MB. A turn of a loop costs more than it saves.
BLOCK = 2**21
PIVOT_ROWS = 32


class Positions(NamedTuple):
    """The rows and columns of an activation, seen as (rows, channels), that a sketch keeps."""

    rows: np.ndarray
    columns: np.ndarray


class _SummedUp(NamedTuple):
    """Kept values (R, C'), moments of their channels (C',) and of all, and how many are dead."""

    values: np.ndarray
    channels: ChannelMoments
    pooled: ChannelMoments
    dead: int


class Reduction:
    """How activations of one shape become sketches.

    Args:
        shape: of the activation, known whole.
        channel_axis: the axis of its channels; all others are pooled.
        max_samples: the most values that a sketch keeps.
        bounds: least and greatest value that the activation can have, if it has both.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channel_axis: int,
        max_samples: int,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        self._planes = _planes(tuple(map(int, shape)), channel_axis)
        outer, self._columns, inner = self._planes
        self._rows = outer * inner
        self._kept = sample_positions(self._rows, self._columns, max_samples)
        self._bounds = bounds

    def on_device(self, x: Tensor) -> dict[str, Tensor]:
        """Return tensors of bounded size that hold what `on_host` needs; inside a trace."""
        x = ops.reshape(x, self._planes)
        if math.prod(self._planes) <= WHOLE:
            return {"whole": widened(x), **self._moments_of_whole(x)}
        moments = _moments(x)
        mean, variance, number = moments
        return {
            "values": self._take(x),
            **{
                name: ops.take(each, self._kept.columns, axis=0)
                for name, each in moments._asdict().items()
            },
            **_pooled(moments),
            "dead": ops.sum(ops.cast((number > 0) & (mean == 0) & (variance == 0), "int32")),
        }

    def on_host(self, reduced: Sequence[Mapping[str, np.ndarray]]) -> list[DistributionSketch]:
        """Return the sketches of several activations of this shape."""
        if not reduced or "whole" not in reduced[0]:
            return self._sketches([_as_it_left(one) for one in reduced])
        at_once = max(1, WHOLE_AT_ONCE // max(self._rows * self._columns, 1))
        return [
            sketch
            for first in range(0, len(reduced), at_once)
            for sketch in self._sketches(self._summed_up(reduced[first : first + at_once]))
        ]

    def _moments_of_whole(self, x: Tensor) -> dict[str, Tensor]:
        """Return mean and variance if a kernel has them at once; else the host finds them."""
        if not math.prod(self._planes) or not _has_kernel(x):
            return {}
        mean, variance = _moments_by_kernel(x)
        return {"mean": mean, "variance": variance}

    def _sketches(self, found: Sequence[_SummedUp]) -> list[DistributionSketch]:
        ordered = sorted_values([one.values for one in found])
        return [
            DistributionSketch(
                kept,
                one.channels,
                one.pooled,
                size=self._rows * self._columns,
                dead_share=one.dead / self._columns if self._columns else 0.0,
                bounds=self._bounds,
            )
            for kept, one in zip(ordered, found, strict=True)
        ]

    def _summed_up(self, reduced: Sequence[Mapping[str, np.ndarray]]) -> list[_SummedUp]:
        """Sum up several activations that left the device whole, at once."""
        xs = [one["whole"].transpose(0, 2, 1).reshape(self._rows, self._columns) for one in reduced]
        all_channels = _moments_on_host(reduced, xs)
        mean, variance, number = all_channels
        dead = np.sum((number > 0) & (mean == 0) & (variance == 0), axis=1).tolist()
        rows, columns = self._kept
        xs = xs if len(rows) == self._rows else [x[rows] for x in xs]
        xs = xs if len(columns) == self._columns else [x[:, columns] for x in xs]
        channels, pooled = (
            [ChannelMoments(*of_one) for of_one in zip(*moments, strict=True)]
            for moments in ((each[:, columns] for each in all_channels), all_channels.merged())
        )
        return list(map(_SummedUp, xs, channels, pooled, dead))

    def _take(self, x: Tensor) -> Tensor:
        """Return the kept values (R, C') of `x`, (outer, channels, inner)."""
        (_, columns, inner), kept = self._planes, self._kept
        row = (kept.rows // inner * columns * inner + kept.rows % inner)[:, None]
        return widened(ops.take(ops.reshape(x, (-1,)), row + kept.columns * inner, axis=0))


def _moments_on_host(
    reduced: Sequence[Mapping[str, np.ndarray]], xs: Sequence[np.ndarray]
) -> ChannelMoments:
    """Return the moments (n, C) of the columns of `xs`, n arrays (rows, C)."""
    if "mean" not in reduced[0]:
        return ChannelMoments.of(np.stack(xs))
    mean, variance = (np.stack([one[name] for one in reduced]) for name in ("mean", "variance"))
    return ChannelMoments(mean, variance, np.full(mean.shape, float(len(xs[0])))).mended(xs)


def _as_it_left(reduced: Mapping[str, np.ndarray]) -> _SummedUp:
    channels = ChannelMoments(*(reduced[name] for name in ChannelMoments._fields))
    pooled = ChannelMoments(*(reduced[f"pooled_{name}"] for name in ChannelMoments._fields))
    return _SummedUp(reduced["values"], channels, pooled, int(reduced["dead"]))


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


def _planes(shape: tuple[int, ...], channel_axis: int) -> tuple[int, int, int]:
    """Return (outer, channels, inner), as which an activation can be seen without copying it."""
    rank = len(shape)
    if rank < 2 or not -rank <= channel_axis < rank:
        return math.prod(shape), 1, 1
    axis = channel_axis % rank
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def _moments(x: Tensor) -> ChannelMoments:
    """Return the moments (C,) of `x`, (outer, channels, inner), in tensors."""
    outer, columns, inner = x.shape
    size = max(1, BLOCK // max(columns * inner, 1))
    if outer <= size:
        return _moments_of_block(x)
    turns = (outer - 1) // size  # no rest without a row

    def add(turn: Tensor, so_far: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        block = ops.slice(x, (turn * size, 0, 0), (size, columns, inner))
        return tuple(_merged(ChannelMoments(*so_far), _moments_of_block(block)))

    first = tuple(_moments_of_block(x[turns * size :]))
    return ChannelMoments(*ops.fori_loop(0, turns, add, first))


def _moments_of_block(x: Tensor) -> ChannelMoments:
    def among_finite() -> list[Tensor]:
        kept = widened(x)
        finite = ops.isfinite(kept)
        count = ops.sum(ops.cast(finite, "float64"), axis=(0, 2))
        number = ops.maximum(count, 1)
        mean = _total(ops.where(finite, kept, ops.zeros_like(kept))) / number
        kept = ops.where(finite, kept - ops.cast(mean, kept.dtype)[:, None], ops.zeros_like(kept))
        offset, square = _total(kept) / number, _total(ops.square(kept)) / number
        return [mean + offset, variance_about_mean(offset, square, ops), count]

    count = ops.full((x.shape[1],), x.shape[0] * x.shape[2], "float64")
    mean, variance = _fast_moments(x)
    # Most activations are finite. Their moments show it, without a look at every value.
    all_finite = ops.isfinite(ops.sum(variance))
    return ChannelMoments(*ops.cond(all_finite, lambda: [mean, variance, count], among_finite))


def _fast_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, (C,) float64, of finite values; else NaN or inf."""
    if _has_kernel(x):
        return _moments_by_kernel(x)  # one reading, and exact
    x = widened(x)
    rows = _spread(x.shape[0], min(x.shape[0], PIVOT_ROWS))
    pivot = ops.mean(ops.take(x, rows, axis=0), axis=(0, 2))
    difference, number = x - pivot[:, None], max(x.shape[0] * x.shape[2], 1)
    offset, square = _total(difference) / number, _total(ops.square(difference)) / number
    return ops.cast(pivot, "float64") + offset, variance_about_mean(offset, square, ops)


def _has_kernel(x: Tensor) -> bool:
    kernel = backend.kernel(keras.backend.standardize_dtype(x.dtype))
    return kernel.obstacle is None and kernel.exact


def _moments_by_kernel(x: Tensor) -> tuple[Tensor, Tensor]:
    columns = x.shape[1]
    x = ops.reshape(x, (-1, columns)) if x.shape[2] == 1 else x
    ones, zeros = ops.ones((columns,)), ops.zeros((columns,))
    _, moments = by_kernel(x, 1, ones, zeros, epsilon=1e-3)
    return ops.cast(moments.mean, "float64"), ops.cast(moments.variance, "float64")


def _total(x: Tensor) -> Tensor:
    return ops.cast(ops.sum(x, axis=(0, 2)), "float64")


def _merged(one: ChannelMoments, other: ChannelMoments) -> ChannelMoments:
    pairs = (ops.stack(pair) for pair in zip(one, other, strict=True))
    return ChannelMoments(*merge(*pairs, axis=0, xp=ops))


def _pooled(moments: ChannelMoments) -> dict[str, Tensor]:
    """Merge the moments of all channels; 0 without a finite value."""
    pooled = ChannelMoments(*merge(*moments, axis=0, xp=ops))
    return {f"pooled_{name}": value for name, value in pooled._asdict().items()}


def sketched(x: Tensor, channel_axis: int = -1, max_samples: int = 2**13) -> DistributionSketch:
    """Return the sketch of an array or a tensor outside a trace; arguments as for `Reduction`."""
    x = ops.convert_to_tensor(x)
    reduction = Reduction(x.shape, channel_axis, max_samples)
    reduced = reduction.on_device(x)
    (found,) = reduction.on_host(
        [{name: ops.convert_to_numpy(each) for name, each in reduced.items()}]
    )
    return found
