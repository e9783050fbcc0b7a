"""Distances between two sketches of the same layer: per channel, then the mean or the worst.

To add a distance, add a function with its `@distance` row. All other code uses the row.

Channels without a finite value in one of the records are left out. If a distance is measured
relative to a spread, constant channels are left out too. If no channel remains, a distance is 0 if
nothing moved and inf if something moved. It is NaN only if no channel has a finite value.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from kbn.distributions.by_channel import ByChannel
from kbn.distributions.samples import (
    columns,
    complete,
    gap_of_distributions,
    inner_quantiles,
    jensen_shannon_of,
    population_stability_of,
    shares,
    wasserstein,
)
from kbn.distributions.sketch import Channels

Compare = Callable[[Channels, Channels], ByChannel]
Scale = Literal["linear", "logarithmic"]


class Distance(NamedTuple):
    """The catalogue's row of a distance.

    Attributes:
        name: name in arguments and tags; `<name>_worst` is the distance of the worst channel.
        function: function of the sketches of a record and of its reference.
        meaning: the beginning of a sentence, which the catalogue completes.
        unit: unit of the values; empty if they have none.
        symbol: symbol of the unit, for use after a number.
        by_default: whether `CovariateShift` records it if no measures are chosen.
        scale: scale of the colors that show the values.
    """

    name: str
    function: Compare
    meaning: str
    unit: str = ""
    symbol: str = ""
    by_default: bool = False
    scale: Scale = "logarithmic"


DISTANCES: dict[str, Distance] = {}
"""Distances by name, in the order of this module. The dashboard shows them in this order."""


def distance(
    name: str,
    meaning: str,
    unit: str = "",
    symbol: str = "",
    *,
    by_default: bool = False,
    scale: Scale = "logarithmic",
) -> Callable[[Compare], Compare]:
    """Return a decorator that adds a function to `DISTANCES`, with its row."""

    def add(function: Compare) -> Compare:
        DISTANCES[name] = Distance(name, function, meaning, unit, symbol, by_default, scale)
        return function

    return add


@distance(
    "wasserstein",
    "Wasserstein-1 distance to the reference record, in standard deviations of the reference",
    "σ of the reference",
    "σ",
    by_default=True,
)
def wasserstein_normalized(now: Channels, reference: Channels) -> ByChannel:
    """Return W₁ / σ_ref.

    W₁ is the Wasserstein-1 distance; for n values each, it is mean |a₍ᵢ₎ − b₍ᵢ₎|. σ_ref is the
    reference's standard deviation. The result does not change if x → s·x + b is applied to both.
    Channels that are constant in the reference have no scale and are left out.
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

    The ten bins have equal shares of both records together. The result is 1 if the records have
    no bin in common.
    """

    def of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        edges = inner_quantiles(np.sort(np.concatenate([a, b]), axis=0))
        return jensen_shannon_of(shares(a, edges), shares(b, edges))

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
        edges = inner_quantiles(b)
        p, q = shares(a, edges), shares(b, edges)
        nowhere = (p == 0) & (q == 0)  # bins between two equal edges
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
        points, gap = gap_of_distributions(a, b)
        # Of several equal values, only at the last one have both functions counted all of them.
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
        points, gap = gap_of_distributions(a, b)
        return 2 * np.sum(np.square(gap[:-1]) * np.diff(points, axis=0), axis=0)

    return _each(of, now, reference)


def _each(
    distance: Callable[[np.ndarray, np.ndarray], np.ndarray],
    now: Channels,
    reference: Channels,
) -> ByChannel:
    """Compute `distance` for all channels at once or, if some lack values, one by one.

    Args:
        distance: function of (n, C) and (m, C) float64, ascending per channel and finite, to (C,).
        now: the sketch of the record.
        reference: the sketch of its reference.
    """
    a, b = (sketch.values.astype(np.float64) for sketch in (now, reference))
    if len(a) and len(b) and complete(a) and complete(b):
        found = distance(a, b)
    else:
        pairs = zip(columns(a), columns(b), strict=True)
        found = np.array([
            distance(x[:, None], y[:, None])[0] if x.size and y.size else np.nan for x, y in pairs
        ])  # fmt: skip
    return ByChannel(found, found, usable=~np.isnan(found))


DEFAULTS = tuple(row.name for row in DISTANCES.values() if row.by_default)
"""Names of the distances that `CovariateShift` records if no measures are chosen."""
