"""Numbers over steps: series, histograms, and the matrix of many series."""

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
    """Return all steps, (n,), and the values there, (places, n); NaN if a place has none."""
    steps = np.unique(np.concatenate([of.steps for of in places.values()]))
    values = np.full((len(places), len(steps)), np.nan)
    for line, of in enumerate(places.values()):
        values[line, np.searchsorted(steps, of.steps)] = of.values
    return steps, values


def thinned(
    steps: np.ndarray, values: np.ndarray, most: int, still: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `most` columns. Neighbors share a column, which has the farthest value.

    Args:
        steps: (n,), ascending; the first step of a shared column is kept.
        values: (places, n); NaN is ignored.
        most: the largest number of columns to return.
        still: the value that means no movement; the farthest value is farthest from it.
    """
    if len(steps) <= most:
        return steps, values
    begins = np.arange(most) * len(steps) // most
    low, high = (pick.reduceat(values, begins, axis=1) for pick in (np.fmin, np.fmax))
    return steps[begins], np.where(np.abs(low - still) > np.abs(high - still), low, high)
