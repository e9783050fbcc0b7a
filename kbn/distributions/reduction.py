"""Reduce an activation to its sketch; the device returns tensors of bounded size.

A small activation is returned unchanged, which takes few operations in the compiled probe. A large
one is reduced to a sample of its values and the moments of its channels.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from keras import ops

from kbn import backend
from kbn.common.types import Tensor
from kbn.distributions.channel_moments import ChannelMoments
from kbn.distributions.moments_on_device import (
    device_moments,
    has_kernel,
    moments_by_kernel,
    pooled_moments,
)
from kbn.distributions.positions import sample_positions
from kbn.distributions.sketch import DistributionSketch, sorted_values
from kbn.ops.precision import widened

WHOLE = 2**16
"""Number of values of the largest activation that the device returns unchanged."""
WHOLE_AT_ONCE = 2**18  # number of values in activations that are summarized together
CHANNEL_NAMES = ChannelMoments._fields
POOLED_NAMES = tuple(f"pooled_{name}" for name in CHANNEL_NAMES)


class _SummedUp(NamedTuple):
    """A summary of one activation.

    Attributes:
        values: (R, C'), the kept values.
        channels: (C',) moments of the kept channels.
        pooled: () moments of all channels together.
        dead: number of dead channels.
    """

    values: np.ndarray
    channels: ChannelMoments
    pooled: ChannelMoments
    dead: int


class Reduction:
    """Turns activations of one shape into sketches.

    Args:
        shape: the shape of the activation; all sizes are known.
        channel_axis: the axis of its channels; all others are pooled.
        max_samples: the largest number of values that a sketch keeps.
        bounds: the smallest and the largest possible value of the activation; None if it is not
            bounded on both sides.
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
        """Return the tensors of bounded size that `on_host` needs. Call this inside a trace."""
        with backend.in_double():
            return self._reduced(x)

    def _reduced(self, x: Tensor) -> dict[str, Tensor]:
        x = ops.reshape(x, self._planes)
        if math.prod(self._planes) <= WHOLE:
            return {"whole": widened(x), **self._moments_of_whole(x)}
        moments = device_moments(x)
        kept = (ops.take(each, self._kept.columns, axis=0) for each in moments)
        return {
            "values": self._take(x),
            **dict(zip(CHANNEL_NAMES, kept, strict=True)),
            **dict(zip(POOLED_NAMES, pooled_moments(moments), strict=True)),
            "dead": ops.sum(ops.cast(moments.dead(), "int32")),
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
        """Return mean and variance if a kernel computes them; otherwise the host computes them."""
        if not math.prod(self._planes) or not has_kernel(x):
            return {}
        mean, variance = moments_by_kernel(x)
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
        """Summarize several activations that the device returned unchanged, at once."""
        xs = [one["whole"].transpose(0, 2, 1).reshape(self._rows, self._columns) for one in reduced]
        all_channels = _moments_on_host(reduced, xs)
        dead = np.sum(all_channels.dead(), axis=1).tolist()
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
    channels = ChannelMoments(*(reduced[name] for name in CHANNEL_NAMES))
    pooled = ChannelMoments(*(reduced[name] for name in POOLED_NAMES))
    return _SummedUp(reduced["values"], channels, pooled, int(reduced["dead"]))


def _planes(shape: tuple[int, ...], channel_axis: int) -> tuple[int, int, int]:
    """Return a shape (outer, channels, inner) to which a reshape needs no copy."""
    rank = len(shape)
    if rank < 2 or not -rank <= channel_axis < rank:
        return math.prod(shape), 1, 1
    axis = channel_axis % rank
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def sketched(x: Tensor, channel_axis: int = -1, max_samples: int = 2**13) -> DistributionSketch:
    """Return the sketch of an array or tensor outside a trace; arguments as for `Reduction`."""
    with backend.in_double():
        x = ops.convert_to_tensor(x)
    reduction = Reduction(x.shape, channel_axis, max_samples)
    reduced = reduction.on_device(x)
    (found,) = reduction.on_host([{name: backend.numpy_of(each) for name, each in reduced.items()}])
    return found
