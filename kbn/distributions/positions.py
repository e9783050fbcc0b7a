"""Which values of an activation a sketch keeps."""

from typing import NamedTuple

import numpy as np

# With fewer rows, distances by channel are coarse. Of wide layers, fewer channels are kept instead.
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
    return Positions(spread(rows, kept_rows), spread(columns, kept_columns))


def spread(size: int, kept: int) -> np.ndarray:
    """Return `kept` ascending positions of `size`, drawn from equally long strata."""
    if kept == size:
        return np.arange(size)
    edges = np.arange(kept + 1) * size // kept
    return np.random.default_rng(0).integers(edges[:-1], edges[1:])
