"""Distances per channel, and their mean and maximum over the usable channels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class ByChannel(NamedTuple):
    """A distance per channel, all (C,).

    Attributes:
        distance: the distance itself.
        moved: greater than 0 if the channel moved, else 0; NaN if this is unknown.
        usable: whether the distance is defined; a constant channel may have no spread to scale by.
    """

    distance: np.ndarray
    moved: np.ndarray
    usable: np.ndarray

    def part(self, span: slice) -> "ByChannel":
        """Return the distances of some channels."""
        return ByChannel(*(each[span] for each in self))

    def means_and_worsts(self, spans: Sequence[slice]) -> list[tuple[float, float]]:
        """Return `mean_and_worst` of each part; parts are consecutive and cover all channels."""
        sizes = [span.stop - span.start for span in spans]
        if not self.usable.all() or np.isnan(self.moved).any() or min(sizes) == 0:
            return [self.part(span).mean_and_worst() for span in spans]
        starts = [span.start for span in spans]
        means = np.add.reduceat(self.distance, starts) / sizes
        worst = np.maximum.reduceat(self.distance, starts)
        return list(zip(means.tolist(), worst.tolist(), strict=True))

    def mean_and_worst(self) -> tuple[float, float]:
        """Return the mean and the maximum over the usable channels."""
        known = ~np.isnan(self.moved)
        measured = self.distance[known & self.usable]
        if measured.size:
            return float(measured.mean()), float(measured.max())
        if not known.any():
            return float("nan"), float("nan")
        either = float("inf") if np.any(self.moved[known] > 0) else 0.0
        return either, either

    def mean(self) -> float:
        """Return the mean over the usable channels."""
        return self.mean_and_worst()[0]

    def worst(self) -> float:
        """Return the maximum over the usable channels."""
        return self.mean_and_worst()[1]
