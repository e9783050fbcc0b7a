"""Distances between two sketches of the same layer: per channel, then the mean over channels.

Channels without a finite value in either record take no part, nor do those without a spread to
measure by. Where that leaves none, a distance is 0 if nothing moved and inf if something did; it
is NaN only where no finite value is left at all.
"""

import numpy as np

from kbn.sketch import DistributionSketch


def wasserstein_normalised(now: DistributionSketch, reference: DistributionSketch) -> float:
    """Return mean over channels of W₁ / σ_ref.

    W₁ is the Wasserstein-1 distance, for n values each mean |a₍ᵢ₎ − b₍ᵢ₎|; σ_ref is the
    reference's standard deviation. Unchanged when both go through x → s·x + b. Channels that are
    constant in the reference have no scale and are left out.
    """
    moved = wasserstein(now.values, reference.values)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = moved / np.sqrt(reference.variance)
    return _mean(distance, moved, usable=~reference.constant)


def jeffreys_gaussian(now: DistributionSketch, reference: DistributionSketch) -> float:
    """Return mean over channels of the Jeffreys divergence of two Gaussians, in nats.

    J = (σ₁²+Δμ²)/(2σ₂²) + (σ₂²+Δμ²)/(2σ₁²) − 1, with the moments of each record. Channels that
    are constant in either record are left out.
    """
    square = np.square(now.mean - reference.mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (now.variance + square) / (2 * reference.variance)
        distance += (reference.variance + square) / (2 * now.variance) - 1
    known = (now.count > 0) & (reference.count > 0)
    moved = np.where(known, square + np.abs(now.variance - reference.variance), np.nan)
    return _mean(distance, moved, usable=~now.constant & ~reference.constant)


def wasserstein(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Wasserstein-1 distance of each column of `a` to that of `b`.

    Args:
        a: (n, C) values, ascending per column, NaN last and not counted.
        b: (m, C) values likewise.

    Returns:
        (C,) float64; NaN where a column has no value.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    count_a, count_b = ((~np.isnan(x)).sum(axis=0) for x in (a, b))
    if a.shape == b.shape and count_a.min(initial=len(a)) == len(a) == count_b.min(initial=len(a)):
        return np.abs(a - b).mean(axis=0)
    pairs = zip(a.T, b.T, count_a, count_b, strict=True)
    return np.array([_wasserstein_of(x[:n], y[:m]) for x, y, n, m in pairs])


def _wasserstein_of(a: np.ndarray, b: np.ndarray) -> float:
    """Return ∫|F⁻¹(u) − G⁻¹(u)| du of two ascending samples, which may differ in length."""
    if not a.size or not b.size:
        return float("nan")
    # Whole numbers of 1/(n·m), so that no rounding shifts a jump of one against the other's.
    jumps = np.union1d(np.arange(a.size + 1) * b.size, np.arange(b.size + 1) * a.size)
    gap = np.abs(a[jumps[:-1] // b.size] - b[jumps[:-1] // a.size])
    return float(np.sum(gap * np.diff(jumps)) / (a.size * b.size))


def _mean(distance: np.ndarray, moved: np.ndarray, usable: np.ndarray) -> float:
    """Average `distance` over the usable channels.

    Args:
        distance: (C,) what to average.
        moved: (C,) how far each channel moved on a scale of its own; NaN where that is unknown.
        usable: (C,) whether the channel has a spread to measure by.
    """
    known = ~np.isnan(moved)
    if not known.any():
        return float("nan")
    if not (known & usable).any():
        return float("inf") if np.any(moved[known] > 0) else 0.0
    return float(np.mean(distance[known & usable]))
