"""Distances between two sketches of the same layer: per channel, then the mean or the worst.

Channels without a finite value in either record take no part, nor, where a measure needs a spread
to measure by, those without one. Where that leaves none, a distance is 0 if nothing moved and inf
if something did; it is NaN only where no finite value is left at all.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from kbn.distributions.sketch import Channels

BINS = 10


class ByChannel(NamedTuple):
    """A distance per channel, all (C,).

    Attributes:
        distance: what was asked for.
        moved: how far each channel moved on a scale of its own; NaN where that is unknown.
        usable: whether the channel has a spread to measure by.
    """

    distance: np.ndarray
    moved: np.ndarray
    usable: np.ndarray

    def part(self, span: slice) -> "ByChannel":
        """Return those of some channels."""
        return ByChannel(*(each[span] for each in self))

    def means_and_worsts(self, spans: Sequence[slice]) -> list[tuple[float, float]]:
        """Return `mean_and_worst` of several parts that follow each other, all channels in one."""
        sizes = [span.stop - span.start for span in spans]
        if not self.usable.all() or np.isnan(self.moved).any() or min(sizes) == 0:
            return [self.part(span).mean_and_worst() for span in spans]
        starts = [span.start for span in spans]
        means = np.add.reduceat(self.distance, starts) / sizes
        worst = np.maximum.reduceat(self.distance, starts)
        return list(zip(means.tolist(), worst.tolist(), strict=True))

    def mean_and_worst(self) -> tuple[float, float]:
        """Return the mean over the usable channels, and the greatest distance of them."""
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
        """Return the greatest distance of the usable channels."""
        return self.mean_and_worst()[1]


Compare = Callable[[Channels, Channels], ByChannel]


class Distance(NamedTuple):
    """The catalogue's row of a distance.

    Attributes:
        name: as users give it, and as in tags; `<name>_worst` is that of the worst channel.
        function: takes the sketches of a record and of its reference.
        meaning: the beginning of a sentence, which the catalogue ends.
        unit: of its values; empty if they have none.
        symbol: of the unit, as it stands after a number.
        by_default: whether `CovariateShift` records it if no measures are chosen.
        scale: of the colors that show its values.
    """

    name: str
    function: Compare
    meaning: str
    unit: str = ""
    symbol: str = ""
    by_default: bool = False
    scale: Literal["linear", "logarithmic"] = "logarithmic"


DISTANCES: dict[str, Distance] = {}
"""By name, in the order of this module, in which the dashboard shows them too."""


def distance(
    name: str, meaning: str, unit: str = "", symbol: str = "", *, by_default: bool = False
) -> Callable[[Compare], Compare]:
    """Add the function below to `DISTANCES`, with its row."""

    def add(function: Compare) -> Compare:
        DISTANCES[name] = Distance(name, function, meaning, unit, symbol, by_default)
        return function

    return add


@distance(
    "wasserstein",
    "Wasserstein-1 distance to the reference record, in standard deviations of the reference",
    "σ of the reference",
    "σ",
    by_default=True,
)
def wasserstein_normalised(now: Channels, reference: Channels) -> ByChannel:
    """Return W₁ / σ_ref.

    W₁ is the Wasserstein-1 distance, for n values each mean |a₍ᵢ₎ − b₍ᵢ₎|; σ_ref is the
    reference's standard deviation. Unchanged when both go through x → s·x + b. Channels that are
    constant in the reference have no scale and are left out.
    """
    moved = wasserstein(now.values, reference.values)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = moved / np.sqrt(reference.variance)
    return ByChannel(distance, moved, usable=~reference.constant)


@distance(
    "jeffreys",
    "Jeffreys divergence to the reference record in nats, both taken as Gaussian",
    "nats",
    "nats",
    by_default=True,
)
def jeffreys_gaussian(now: Channels, reference: Channels) -> ByChannel:
    """Return the Jeffreys divergence of two Gaussians, in nats.

    J = (σ₁²+Δμ²)/(2σ₂²) + (σ₂²+Δμ²)/(2σ₁²) − 1, with the moments of each record. Channels that
    are constant in either record are left out.
    """
    square = np.square(now.mean - reference.mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (now.variance + square) / (2 * reference.variance)
        distance += (reference.variance + square) / (2 * now.variance) - 1
    known = (now.count > 0) & (reference.count > 0)
    moved = np.where(known, square + np.abs(now.variance - reference.variance), np.nan)
    return ByChannel(distance, moved, usable=~now.constant & ~reference.constant)


@distance(
    "wasserstein_gaussian",
    "Wasserstein-2 distance to the reference record in the unit of the activation, both taken as "
    "Gaussian",
    "unit of the activation",
)
def wasserstein_gaussian(now: Channels, reference: Channels) -> ByChannel:
    """Return W₂ of two Gaussians, √(Δμ² + Δσ²), in the unit of the activation."""
    shift = now.mean - reference.mean
    spread = np.sqrt(now.variance) - np.sqrt(reference.variance)
    known = (now.count > 0) & (reference.count > 0)
    distance = np.where(known, np.hypot(shift, spread), np.nan)
    return ByChannel(distance, distance, usable=known)


@distance(
    "jensen_shannon",
    "Jensen-Shannon divergence to the reference record, in bits, 0 to 1, over ten bins of equal "
    "share of both records",
    "bits",
    "bits",
)
def jensen_shannon(now: Channels, reference: Channels) -> ByChannel:
    """Return the Jensen-Shannon divergence in bits, in [0, 1].

    Over ten bins that hold equal shares of both records together. 1: they have no bin in common.
    """

    def of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        edges = _inner_quantiles(np.sort(np.concatenate([a, b]), axis=0))
        return jensen_shannon_of(_shares(a, edges), _shares(b, edges))

    return _each(of, now, reference)


@distance(
    "psi",
    "Population stability index against the reference record, over the reference's deciles",
)
def population_stability(now: Channels, reference: Channels) -> ByChannel:
    """Return the population stability index Σ (p − q) ln(p/q) over the reference's deciles.

    A bin without a value counts as half a value, so that the index stays finite. Channels that
    are constant in the reference have no deciles and are left out.
    """

    def of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        edges = _inner_quantiles(b)
        p, q = _shares(a, edges), _shares(b, edges)
        nowhere = (p == 0) & (q == 0)  # between edges that coincide
        p, q = np.maximum(p, 0.5 / len(a)), np.maximum(q, 0.5 / len(b))
        return population_stability_of(np.where(nowhere, 1, p), np.where(nowhere, 1, q))

    by_channel = _each(of, now, reference)
    return by_channel._replace(
        moved=wasserstein(now.values, reference.values), usable=~reference.constant
    )


@distance(
    "kolmogorov_smirnov",
    "Kolmogorov-Smirnov distance to the reference record, 0 to 1",
)
def kolmogorov_smirnov(now: Channels, reference: Channels) -> ByChannel:
    """Return sup |F − G| of the two distribution functions, in [0, 1]."""

    def of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        points, gap = _gap(a, b)
        # Where values repeat, only the last of them has seen all of its value.
        last = np.append(np.diff(points, axis=0) > 0, np.ones((1, points.shape[1]), bool), axis=0)
        return np.abs(np.where(last, gap, 0)).max(axis=0)

    return _each(of, now, reference)


@distance(
    "energy",
    "Squared energy distance to the reference record, in the unit of the activation",
    "unit of the activation",
)
def energy(now: Channels, reference: Channels) -> ByChannel:
    """Return the squared energy distance 2 ∫ (F − G)², in the unit of the activation."""

    def of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        points, gap = _gap(a, b)
        return 2 * np.sum(np.square(gap[:-1]) * np.diff(points, axis=0), axis=0)

    return _each(of, now, reference)


DEFAULTS = tuple(row.name for row in DISTANCES.values() if row.by_default)
"""What `CovariateShift` records if no measures are chosen."""


def jensen_shannon_of(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return ½ KL(p‖m) + ½ KL(q‖m) in bits, m = (p + q)/2, of distributions along axis 0."""

    def divergence(of: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = of * np.log2(2 * of / (p + q))
        return np.sum(np.where(of > 0, terms, 0), axis=0)

    return (divergence(p) + divergence(q)) / 2


def population_stability_of(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return Σ (p − q) ln(p/q) of two distributions along axis 0, without a zero."""
    return np.sum((p - q) * np.log(p / q), axis=0)


def wasserstein(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Wasserstein-1 distance of each column of `a` to that of `b`.

    Args:
        a: (n, C) values, ascending per column, NaN last and not counted.
        b: (m, C) values likewise.

    Returns:
        (C,) float64; NaN where a column has no value.
    """
    if a.shape == b.shape and _complete(a) and _complete(b):
        # Ascending values next to each other in memory: a matrix product adds them fastest.
        gap = np.subtract(a.T, b.T, dtype=np.float64)
        np.abs(gap, out=gap)
        return gap @ np.full(len(a), 1 / max(len(a), 1)) if len(a) else np.full(len(gap), np.nan)
    a, b = a.astype(np.float64), b.astype(np.float64)
    pairs = zip(_columns(a), _columns(b), strict=True)
    return np.array([_wasserstein_of(x, y) for x, y in pairs])


def _wasserstein_of(a: np.ndarray, b: np.ndarray) -> float:
    """Return ∫|F⁻¹(u) − G⁻¹(u)| du of two ascending samples, which may differ in length."""
    if not a.size or not b.size:
        return float("nan")
    # Whole numbers of 1/(n·m), so that no rounding shifts a jump of one against the other's.
    jumps = np.union1d(np.arange(a.size + 1) * b.size, np.arange(b.size + 1) * a.size)
    gap = np.abs(a[jumps[:-1] // b.size] - b[jumps[:-1] // a.size])
    return float(np.sum(gap * np.diff(jumps)) / (a.size * b.size))


def _each(
    distance: Callable[[np.ndarray, np.ndarray], np.ndarray],
    now: Channels,
    reference: Channels,
) -> ByChannel:
    """Take `distance` over all channels at once or, where some lack values, one by one.

    Args:
        distance: takes (n, C) and (m, C) float64, ascending per channel and finite, to (C,).
        now: one sketch.
        reference: the other one.
    """
    a, b = (sketch.values.astype(np.float64) for sketch in (now, reference))
    if len(a) and len(b) and _complete(a) and _complete(b):
        found = distance(a, b)
    else:
        pairs = zip(_columns(a), _columns(b), strict=True)
        found = np.array([
            distance(x[:, None], y[:, None])[0] if x.size and y.size else np.nan for x, y in pairs
        ])  # fmt: skip
    return ByChannel(found, found, usable=~np.isnan(found))


def _complete(values: np.ndarray) -> bool:
    return not len(values) or not np.isnan(values[-1]).any()


def _columns(values: np.ndarray) -> list[np.ndarray]:
    counts = (~np.isnan(values)).sum(axis=0)
    return [column[:count] for column, count in zip(values.T, counts, strict=True)]


def _inner_quantiles(ascending: np.ndarray) -> np.ndarray:
    """Return the edges (BINS − 1, C) between bins of equal share of (n, C)."""
    place = np.arange(1, BINS) / BINS * (len(ascending) - 1)
    below = place.astype(int)
    low, high = ascending[below], ascending[np.minimum(below + 1, len(ascending) - 1)]
    return low + (high - low) * (place - below)[:, None]


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the share (BINS, C) of the values (n, C) in each bin, its upper edge included."""
    below = [np.sum(values <= edge, axis=0) for edge in edges]
    none, every = np.zeros(values.shape[1]), np.full(values.shape[1], len(values))
    return np.diff([none, *below, every], axis=0) / len(values)


def _gap(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values (n + m, C) of both, ascending, and F − G behind each of them."""
    both = np.concatenate([a, b])
    order = np.argsort(both, axis=0, kind="stable")
    # Whole numbers of 1/(n·m), so that equal shares cancel out exactly.
    steps = np.concatenate([np.full(len(a), len(b)), np.full(len(b), -len(a))])
    gap = np.cumsum(steps[order], axis=0) / (len(a) * len(b))
    return np.take_along_axis(both, order, axis=0), gap
