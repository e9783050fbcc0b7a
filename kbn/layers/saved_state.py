"""What a layer's saved state must hold, and what follows where an older or plainer one lacks it.

Keras's variables are stored by number, as Keras stores them, so that files move both ways; what
kbn adds is stored by name, and is the first thing a file of Keras's layer does not have.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

RENORM_VARIABLES = 3  # moving_stddev, renorm_mean, renorm_stddev; Keras puts them last
# Loaded statistics count as settled: zero debiasing must not start over and overwrite them.
MISSING = {"mean_debias": 1.0, "variance_debias": 1.0, "renorm_step": 0.0}


def save(keras_variables: Sequence[Any], own_variables: Sequence[Any], store: Any) -> None:
    """Write the variables into `store`."""
    for number, variable in enumerate(keras_variables):
        store[str(number)] = variable
    for variable in own_variables:
        store[variable.name] = variable


def numbered(store: Any) -> list[np.ndarray]:
    """Return the values of Keras's variables in `store`."""
    count = sum(name.isdigit() for name in store.keys())  # noqa: SIM118 - stores are no dicts
    return [np.asarray(store[str(number)]) for number in range(count)]


def adapted(values: list[Any], wanted: int, renorm: bool, epsilon: float) -> list[Any] | None:
    """Return `values` for a layer of `wanted` Keras variables, or None where they cannot fit.

    A layer with renorm begins with the statistics that one without it ended with, and the other
    way round: the moving statistics mean the same in both.
    """
    if renorm and len(values) == wanted - RENORM_VARIABLES:
        mean, variance = values[-2:]
        stddev = np.sqrt(np.asarray(variance) + epsilon)
        return [*values, stddev, mean, stddev]
    if not renorm and len(values) == wanted + RENORM_VARIABLES:
        return values[:wanted]
    return list(values) if len(values) == wanted else None


def own_value(variable: Any, store: Any, layer: str) -> Any:
    """Return what `store` holds for a variable of kbn's own, or what follows where it does not.

    Raises:
        ValueError: for the counts of `momentum=None`, which cannot be guessed.
    """
    if variable.name in store.keys():  # noqa: SIM118 - stores are no dicts
        return store[variable.name]
    if variable.name not in MISSING:
        raise ValueError(
            f"The saved state of layer {layer!r} holds no {variable.name}: with momentum=None the "
            "average cannot go on without the number of values it was taken over. Load it into a "
            "layer with a momentum, or measure the statistics anew with kbn.recalibrate."
        )
    return np.full(tuple(variable.shape), MISSING[variable.name])


def check_shapes(variables: Sequence[Any], values: Sequence[Any], layer: str) -> None:
    """Check all values before any is assigned.

    Raises:
        ValueError: with the first variable that its value does not fit.
    """
    for variable, value in zip(variables, values, strict=True):
        if tuple(variable.shape) != tuple(np.shape(value)):
            raise ValueError(
                f"Variable {variable.name!r} of layer {layer!r} has shape {tuple(variable.shape)}. "
                f"Received: a value of shape {tuple(np.shape(value))}"
            )
