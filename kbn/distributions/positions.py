"""Which values of an activation a sketch keeps."""

from typing import NamedTuple

import numpy as np

# With fewer rows, distances per channel are coarse. So fewer channels of a wide layer are kept.
MIN_ROWS = 64


class Positions(NamedTuple):
    """The rows and columns of an activation, seen as (rows, channels), that a sketch keeps."""

    rows: np.ndarray
    columns: np.ndarray


def sample_positions(rows: int, columns: int, max_samples: int) -> Positions:
    """Choose at most `max_samples` evenly spread positions, always the same for a given shape.

    The positions are divided into ranges of equal length, and a generator with a fixed seed draws
    one position from each. A constant stride could match the image's width, and then take all
    values from one column of pixels.
    """
    kept_columns = min(columns, max(1, max_samples // max(1, min(rows, MIN_ROWS))))
    kept_rows = min(rows, max(1, max_samples // kept_columns))
    return Positions(spread(rows, kept_rows), spread(columns, kept_columns))


def spread(size: int, kept: int) -> np.ndarray:
    """Return `kept` of `size` positions, ascending, each drawn from a range of equal length."""
    if kept == size:
        return np.arange(size)
    edges = np.arange(kept + 1) * size // kept
    return np.random.default_rng(0).integers(edges[:-1], edges[1:])
