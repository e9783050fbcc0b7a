"""Batch renormalization (Ioffe 2017): training corrects a batch towards moving statistics."""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import keras
from keras import ops

from kbn.common import checks
from kbn.common.types import Config, Tensor
from kbn.ops.precision import at_least, at_most

LIMITS = ("rmax", "rmin", "dmax")
Limit: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule | None
Clipping: TypeAlias = Mapping[str, Limit]
"""The limits of the correction, by name (see `LIMITS`); None does not clip."""


class Correction(NamedTuple):
    """The correction x̂·r + d of the normalized batch x̂; r and d are constants for gradients."""

    r: Tensor
    d: Tensor


def correction(
    mean: Tensor,
    stddev: Tensor,
    renorm_mean: Tensor,
    renorm_stddev: Tensor,
    limits: Mapping[str, Tensor | float],
) -> Correction:
    """Return r = σ_B/σ and d = (μ_B − μ)/σ, clipped (Ioffe 2017, Algorithm 1).

    Args:
        mean: (…, C) float, μ_B.
        stddev: (…, C) float, σ_B = √(variance + epsilon).
        renorm_mean: (C,) float, μ.
        renorm_stddev: (C,) positive float, σ.
        limits: `rmin`, `rmax` and `dmax`, numbers or scalar tensors; a missing one does not clip.
    """
    r, d = stddev / renorm_stddev, (mean - renorm_mean) / renorm_stddev
    if "rmin" in limits:
        r = at_least(r, limits["rmin"])
    if "rmax" in limits:
        r = at_most(r, limits["rmax"])
    if "dmax" in limits:
        d = at_least(at_most(d, limits["dmax"]), -limits["dmax"])
    return Correction(ops.stop_gradient(r), ops.stop_gradient(d))


def limits_at(clipping: Clipping, step: Tensor | None) -> dict[str, Tensor | float]:
    """Return the limits at `step`: the values of schedules, and the numbers unchanged."""
    return {
        name: limit(step) if callable(limit) else limit
        for name, limit in clipping.items()
        if limit is not None
    }


def is_scheduled(clipping: Clipping | None) -> bool:
    """Return whether a limit follows a schedule."""
    return any(map(callable, (clipping or {}).values()))


def checked_clipping(renorm: bool, clipping: object) -> Clipping | None:
    """Check `renorm_clipping` and return it, with schedules created from their configs.

    If it is None, return {} with `renorm` and None without.
    """
    if clipping is None:
        return {} if renorm else None
    if not isinstance(clipping, Mapping):
        raise TypeError(f"renorm_clipping must be a dict. Received: renorm_clipping={clipping!r}")
    if not renorm:
        raise ValueError(
            "renorm_clipping needs renorm=True. "
            f"Received: renorm=False, renorm_clipping={clipping!r}"
        )
    if set(clipping) - set(LIMITS):
        raise ValueError(
            f"renorm_clipping may have the keys {', '.join(map(repr, LIMITS))}. "
            f"Received: renorm_clipping={clipping!r}"
        )
    made = {name: _limit(name, limit) for name, limit in clipping.items()}
    rmin, rmax = made.get("rmin"), made.get("rmax")
    plain = isinstance(rmin, float) and isinstance(rmax, float)
    if plain and rmax < rmin:  # type: ignore[operator]
        raise ValueError(
            "rmax must be at least rmin in renorm_clipping. "
            f"Received: rmax={clipping['rmax']!r}, rmin={clipping['rmin']!r}"
        )
    return made


def _limit(name: str, limit: object) -> Limit:
    if isinstance(limit, dict):  # the form of a schedule in a config
        limit = keras.saving.deserialize_keras_object(limit)
    if limit is None or isinstance(limit, keras.optimizers.schedules.LearningRateSchedule):
        return limit
    allowed = "a number of at least 0, a LearningRateSchedule or None"
    return checks.number(f"renorm_clipping[{name!r}]", limit, allowed, low=0)


def config_of(clipping: Clipping | None) -> Config | None:
    """Return `clipping` in the form for a config."""
    if clipping is None:
        return None
    return {
        name: keras.saving.serialize_keras_object(limit) if callable(limit) else limit
        for name, limit in clipping.items()
    }
