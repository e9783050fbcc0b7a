"""Numbers over steps: one series, those of many places, and both laid into a matrix."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from kbn.records.tags import Place


class Series(NamedTuple):
    """One number over steps.

    Attributes:
        steps: (n,) int64, ascending.
        values: (n,) float64.
    """

    steps: np.ndarray
    values: np.ndarray


class Histograms(NamedTuple):
    """The histograms of one place over steps.

    Attributes:
        steps: (n,) int64, ascending.
        buckets: for each step (k, 3) float64 rows of (left, right, count).
    """

    steps: np.ndarray
    buckets: list[np.ndarray]


Places = Mapping[Place, Series]
"""A measure at every place that has it, in the order in which the model calls them."""

Measures = Mapping[str, Places]
"""Measures by name."""


def matrix(places: Places) -> tuple[np.ndarray, np.ndarray]:
    """Return all steps (n,) and the values (places, n) there, NaN if a place has none."""
    steps = np.unique(np.concatenate([of.steps for of in places.values()]))
    values = np.full((len(places), len(steps)), np.nan)
    for line, of in enumerate(places.values()):
        values[line, np.searchsorted(steps, of.steps)] = of.values
    return steps, values


def thinned(
    steps: np.ndarray, values: np.ndarray, most: int, still: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `most` columns: neighbors share one, which shows the farthest of them.

    Args:
        steps: (n,), ascending; of a shared column the first is kept.
        values: (places, n); NaN is passed over.
        most: how many columns are left.
        still: the value from which "far" counts.
    """
    if len(steps) <= most:
        return steps, values
    begins = np.arange(most) * len(steps) // most
    low, high = (pick.reduceat(values, begins, axis=1) for pick in (np.fmin, np.fmax))
    return steps[begins], np.where(np.abs(low - still) > np.abs(high - still), low, high)
