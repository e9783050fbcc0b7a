"""The variables that kbn adds to those of Keras's layer, and the layer's running statistics."""

from typing import Any

import keras

from kbn.layers.running_statistics import Average, RenormRunningStatistics, RunningStatistics
from kbn.ops import renormalization

CLOCK = "renorm_step"
"""Name of the variable that counts the batches for a renorm schedule."""


def remembered(layer: keras.layers.BatchNormalization) -> tuple[str, ...]:
    """Return the names of the additional variables of the averages of mean and variance."""
    if layer.momentum is None:
        return "mean_count", "variance_count"
    return ("mean_debias", "variance_debias") if layer.zero_debias else ()


def own_shapes(layer: keras.layers.BatchNormalization) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the variables that kbn adds to Keras's, by name, in order."""
    shapes = {name: tuple(layer.moving_mean.shape) for name in remembered(layer)}
    clock: dict[str, tuple[int, ...]] = {CLOCK: ()}
    return shapes | (clock if renormalization.is_scheduled(layer.renorm_clipping) else {})


def running_statistics(
    layer: keras.layers.BatchNormalization, skipped: keras.Variable
) -> RunningStatistics:
    """Return the moving statistics with their update rules, by the current options.

    As in Keras, options may change after the layer was built.

    Args:
        layer: a built `kbn.BatchNormalization`.
        skipped: (C,) integer variable that counts the skipped updates.

    Raises:
        ValueError: if the options need variables that the layer was built without.
    """
    _check_variables(layer)
    seen = [getattr(layer, name) for name in remembered(layer)] or [None, None]
    spread = layer.moving_stddev if layer.renorm else layer.moving_variance
    mean, spread = (
        Average(variable, layer.momentum, memory)
        for variable, memory in zip((layer.moving_mean, spread), seen, strict=True)
    )
    options: dict[str, Any] = {
        "skipped": skipped,
        "unbiased": layer.unbiased_variance,
        "synchronized": layer.synchronized,
    }
    if not layer.renorm:
        return RunningStatistics(mean, spread, **options)
    return RenormRunningStatistics(
        mean,
        spread,
        Average(layer.renorm_mean, layer.renorm_momentum),
        Average(layer.renorm_stddev, layer.renorm_momentum),
        variance=layer.moving_variance,
        epsilon=layer.epsilon,
        clock=getattr(layer, CLOCK, None),
        **options,
    )


def _check_variables(layer: keras.layers.BatchNormalization) -> None:
    lacking = [name for name in own_shapes(layer) if not hasattr(layer, name)]
    if lacking or layer.renorm != hasattr(layer, "renorm_mean"):
        raise ValueError(
            "momentum=None, zero_debias, renorm and a renorm schedule need variables of their "
            "own, so they cannot be set after the layer is built. Received, after build: "
            f"momentum={layer.momentum}, zero_debias={layer.zero_debias}, "
            f"renorm={layer.renorm}, renorm_clipping={layer.renorm_clipping}"
        )
