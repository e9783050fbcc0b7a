"""Comparisons of samples: quantiles, shares, distribution functions of sorted columns (NumPy)."""

import numpy as np

BINS = 10


def jensen_shannon_of(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return ½ KL(p‖m) + ½ KL(q‖m) in bits, m = (p + q)/2, of distributions along axis 0."""

    def divergence(of: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = of * np.log2(2 * of / (p + q))
        return np.sum(np.where(of > 0, terms, 0), axis=0)

    return (divergence(p) + divergence(q)) / 2


def population_stability_of(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return Σ (p − q) ln(p/q) of two distributions along axis 0. No share may be 0."""
    return np.sum((p - q) * np.log(p / q), axis=0)


def wasserstein(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Wasserstein-1 distance between each column of `a` and that of `b`.

    Args:
        a: (n, C) values, ascending per column. NaN comes last and is not counted.
        b: (m, C) values, in the same form.

    Returns:
        (C,) float64; NaN if a column has no value.
    """
    if a.shape == b.shape and complete(a) and complete(b):
        # The values of a column are next to each other in memory, so a matrix product is fastest.
        gap = np.subtract(a.T, b.T, dtype=np.float64)
        np.abs(gap, out=gap)
        return gap @ np.full(len(a), 1 / max(len(a), 1)) if len(a) else np.full(len(gap), np.nan)
    a, b = a.astype(np.float64), b.astype(np.float64)
    pairs = zip(columns(a), columns(b), strict=True)
    return np.array([_wasserstein_of(x, y) for x, y in pairs])


def _wasserstein_of(a: np.ndarray, b: np.ndarray) -> float:
    """Return ∫|F⁻¹(u) − G⁻¹(u)| du of two ascending samples, which may differ in length."""
    if not a.size or not b.size:
        return float("nan")
    # Integer multiples of 1/(n·m), so that rounding does not shift the jumps of the two samples.
    jumps = np.union1d(np.arange(a.size + 1) * b.size, np.arange(b.size + 1) * a.size)
    gap = np.abs(a[jumps[:-1] // b.size] - b[jumps[:-1] // a.size])
    return float(np.sum(gap * np.diff(jumps)) / (a.size * b.size))


def complete(values: np.ndarray) -> bool:
    """Return whether no column of (n, C) has NaN, which would be last."""
    return not len(values) or not np.isnan(values[-1]).any()


def columns(values: np.ndarray) -> list[np.ndarray]:
    """Return the values of each column of (n, C), without NaN."""
    counts = (~np.isnan(values)).sum(axis=0)
    return [column[:count] for column, count in zip(values.T, counts, strict=True)]


def inner_quantiles(ascending: np.ndarray) -> np.ndarray:
    """Return the edges, (BINS − 1, C), between bins with equal shares of (n, C) values."""
    place = np.arange(1, BINS) / BINS * (len(ascending) - 1)
    below = place.astype(int)
    low, high = ascending[below], ascending[np.minimum(below + 1, len(ascending) - 1)]
    return low + (high - low) * (place - below)[:, None]


def shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the share, (BINS, C), of the values, (n, C), in each bin with its upper edge."""
    below = [np.sum(values <= edge, axis=0) for edge in edges]
    none, every = np.zeros(values.shape[1]), np.full(values.shape[1], len(values))
    return np.diff([none, *below, every], axis=0) / len(values)


def gap_of_distributions(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of both, (n + m, C) ascending, and F − G just above each value."""
    both = np.concatenate([a, b])
    order = np.argsort(both, axis=0, kind="stable")
    # Integer multiples of 1/(n·m), so that equal shares cancel exactly.
    steps = np.concatenate([np.full(len(a), len(b)), np.full(len(b), -len(a))])
    gap = np.cumsum(steps[order], axis=0) / (len(a) * len(b))
    return np.take_along_axis(both, order, axis=0), gap
