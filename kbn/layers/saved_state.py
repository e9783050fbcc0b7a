"""The state beyond Keras's: variables of kbn's own, and what a saved file must hold of them.

Keras's variables are stored by number, as Keras stores them, so that files move both ways. What
kbn adds is stored by name; a file of Keras's layer has none of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

RENORM_VARIABLES = 3  # moving_stddev, renorm_mean, renorm_stddev; Keras puts them last
# Loaded statistics count as settled: zero debiasing must not start over and overwrite them.
MISSING = {"mean_debias": 1.0, "variance_debias": 1.0, "renorm_step": 0.0}


class SavedState(keras.layers.BatchNormalization):
    """A layer with variables of its own after those of Keras's layer, saved and loaded."""

    _own_names: list[str]

    def save_own_variables(self, store: Any) -> None:
        """Write Keras's variables as Keras does, and kbn's own by name."""
        for number, variable in enumerate(self._keras_variables()):
            store[str(number)] = variable
        for variable in self._own_variables():
            store[variable.name] = variable

    def load_own_variables(self, store: Any) -> None:
        """Read the state from a file of kbn's or Keras's layer, with or without renorm.

        What the file lacks follows from what it holds: the statistics of `renorm=True` from the
        moving ones, and with `zero_debias=True` loaded statistics count as settled.

        Raises:
            ValueError: if variables do not fit, or `momentum=None` finds no counts.
        """
        if not self.built:
            self._check_load_own_variables(store)
        self._assign(numbered(store), store)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the values of all `weights`, or of those that Keras's layer has.

        What is not given follows from the rest, as if a file was loaded.
        """
        if len(weights) == len(self.weights):
            super().set_weights(weights)
        else:
            self._assign(list(weights), {})

    def _assign(self, values: list[Any], own: Mapping[str, Any]) -> None:
        variables = self._keras_variables()
        fitting = adapted(values, len(variables), self.renorm, self.epsilon)
        if fitting is None:
            raise ValueError(
                f"Layer {self.name!r} expects {len(variables)} variables of Keras's layer, "
                f"{[v.name for v in variables]}, or those with or without renorm's. "
                f"Received: {len(values)} variables"
            )
        fitting += [own_value(v, own, self.name) for v in self._own_variables()]
        check_shapes(self.weights, fitting, self.name)
        for variable, value in zip(self.weights, fitting, strict=True):
            variable.assign(value)

    def _add_state(self, name: str, shape: tuple[int, ...]) -> None:
        """Add a variable that Keras's layer does not have, after those that it has."""
        variable = self.add_weight(
            shape=shape, name=name, initializer="zeros", trainable=False, autocast=False
        )
        setattr(self, name, variable)  # an attribute: checkpoints look for those
        self._own_names = [*self._own_names, name]

    def _keras_variables(self) -> list[keras.Variable]:
        return list(self.weights[: len(self.weights) - len(self._own_names)])

    def _own_variables(self) -> list[keras.Variable]:
        return [getattr(self, name) for name in self._own_names]


def numbered(store: Any) -> list[np.ndarray]:
    """Return the values of Keras's variables in `store`."""
    count = sum(name.isdigit() for name in store.keys())  # noqa: SIM118 - stores are no dicts
    return [np.asarray(store[str(number)]) for number in range(count)]


def adapted(values: list[Any], wanted: int, renorm: bool, epsilon: float) -> list[Any] | None:
    """Return `values` for a layer of `wanted` Keras variables, or None if they cannot fit.

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


def own_value(variable: keras.Variable, store: Mapping[str, Any], layer: str) -> Any:
    """Return what `store` holds for a variable of kbn's own, or what follows if it holds nothing.

    Raises:
        ValueError: for the counts of `momentum=None`, which cannot be guessed.
    """
    if variable.name in store.keys():  # noqa: SIM118 - stores are no dicts
        return store[variable.name]
    if variable.name not in MISSING:
        raise ValueError(
            f"The saved state of layer {layer!r} holds no {variable.name}. With momentum=None the "
            "average cannot continue without the number of values it was taken over. Load the "
            "state into a layer with a momentum, or measure the statistics anew with "
            "kbn.recalibrate."
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
