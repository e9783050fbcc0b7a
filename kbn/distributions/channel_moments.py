"""The moments of an activation's channels, computed on the host (NumPy) or on the device."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kbn.common.types import Tensor
from kbn.ops.merging_moments import merge, variance_about_mean


class ChannelMoments(NamedTuple):
    """Mean, variance and number of values per channel; float64 arrays of one shape, or tensors.

    Attributes:
        mean: mean of the finite values; 0 if there are none.
        variance: biased variance of the finite values.
        number: number of finite values.
    """

    mean: Tensor
    variance: Tensor
    number: Tensor

    @classmethod
    def of(cls, x: np.ndarray) -> "ChannelMoments":
        """Return the moments (n, C) of the columns of `x`, (n, R, C) float."""
        size = x.shape[-2]
        weights = np.full(size, 1 / max(size, 1))  # BLAS adds twice as fast as NumPy
        with np.errstate(over="ignore", invalid="ignore"):
            away = x.astype(np.float64)
            first = away[..., :1, :].copy()
            away -= first  # small deviations, so that cancellation below costs little accuracy
            offset = weights @ away
            away *= away
            variance = variance_about_mean(offset, weights @ away, np)
        mean = first.sum(axis=-2) + offset
        return cls(mean, variance, np.full(offset.shape, float(size))).mended(x)

    def mended(self, xs: Sequence[np.ndarray] | np.ndarray) -> "ChannelMoments":
        """Replace the moments of each of the n arrays `xs` that has a non-finite variance.

        The new moments, (C,), are those of its finite values.
        """
        finite = np.isfinite(self.variance).all(axis=-1)
        # One by one, so that the rounding of one result does not depend on the other arrays.
        for place in np.flatnonzero(~finite).tolist():
            for all_of, of_broken in zip(self, self._of_finite(xs[place]), strict=True):
                all_of[place] = of_broken
        return self

    @classmethod
    def _of_finite(cls, x: np.ndarray) -> "ChannelMoments":
        finite = np.isfinite(x)
        x = np.where(finite, x, np.nan)
        count = np.sum(finite, axis=-2, dtype=np.float64)
        number = np.maximum(count, 1)
        mean = np.nansum(x, axis=-2, dtype=np.float64) / number
        square = np.square(x - mean[..., None, :])
        return cls(mean, np.nansum(square, axis=-2) / number, count)

    def dead(self) -> Tensor:
        """Return per channel whether all its values are 0."""
        return (self.number > 0) & (self.mean == 0) & (self.variance == 0)

    def merged(self) -> "ChannelMoments":
        """Return the moments (...) of all channels together; channels are the last axis."""
        return ChannelMoments(*merge(*self, axis=-1, xp=np))
