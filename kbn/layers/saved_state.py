"""Saving and loading: Keras's variables, and the variables that kbn adds.

Keras's variables are stored by number, as Keras stores them, so that kbn's layer and Keras's can
load each other's files. kbn's own variables are stored by name. Files of Keras's layer have none.
"""

from collections.abc import MutableMapping, Sequence
from typing import TypeAlias

import keras
import numpy as np

from kbn import backend
from kbn.common.types import Tensor

Store: TypeAlias = MutableMapping[str, Tensor]
"""The part of a saved file that belongs to one layer: values by name."""

RENORM_VARIABLES = 3  # moving_stddev, renorm_mean, renorm_stddev; Keras puts them last
# Values of variables that a file lacks. With 1, zero debiasing does not start over, which would
# overwrite the loaded statistics.
MISSING = {"mean_debias": 1.0, "variance_debias": 1.0, "renorm_step": 0.0}


class SavedState(keras.layers.BatchNormalization):
    """A layer that saves and loads its own variables in addition to those of Keras's layer."""

    _own_names: list[str]

    def save_own_variables(self, store: Store) -> None:
        """Write Keras's variables as Keras does, and kbn's own by name."""
        for number, variable in enumerate(self._keras_variables()):
            store[str(number)] = backend.numpy_of(variable)
        for variable in self._own_variables():
            store[variable.name] = backend.numpy_of(variable)

    def load_own_variables(self, store: Store) -> None:
        """Read the state from a file of kbn's or Keras's layer, with or without renorm.

        Missing values are derived. The statistics of `renorm=True` are taken from the moving
        statistics. The variables of `zero_debias=True` become 1, so that loaded statistics stay.

        Raises:
            ValueError: if variables do not fit, or if `momentum=None` and the file has no counts.
        """
        if not self.built:
            self._check_load_own_variables(store)
        self._assign(numbered(store), store)

    def set_weights(self, weights: Sequence[Tensor]) -> None:
        """Set the values of all `weights`, or only of those that Keras's layer has.

        Missing values are derived as in `load_own_variables`.
        """
        if len(weights) == len(self.weights):
            super().set_weights(weights)
        else:
            self._assign(list(weights), {})

    def _assign(self, values: list[Tensor], own: Store) -> None:
        variables = self._keras_variables()
        fitting = adapted(values, len(variables), self.renorm, self.epsilon)
        if fitting is None:
            raise ValueError(
                f"Layer {self.name!r} expects {len(variables)} variables of Keras's layer, "
                f"{[v.name for v in variables]}; the variables of renorm may be left out or added. "
                f"Received: {len(values)} variables"
            )
        fitting += [own_value(v, own, self.name) for v in self._own_variables()]
        check_shapes(self.weights, fitting, self.name)
        for variable, value in zip(self.weights, fitting, strict=True):
            variable.assign(value)

    def _add_state(self, name: str, shape: tuple[int, ...]) -> None:
        """Add a variable of kbn's own, after the variables of Keras's layer."""
        variable = self.add_weight(
            shape=shape, name=name, initializer="zeros", trainable=False, autocast=False
        )
        setattr(self, name, variable)  # checkpoints find variables by attribute
        self._own_names = [*self._own_names, name]

    def _keras_variables(self) -> list[keras.Variable]:
        return list(self.weights[: len(self.weights) - len(self._own_names)])

    def _own_variables(self) -> list[keras.Variable]:
        return [getattr(self, name) for name in self._own_names]


def numbered(store: Store) -> list[np.ndarray]:
    """Return the values of Keras's variables in `store`."""
    count = sum(name.isdigit() for name in store.keys())  # noqa: SIM118 - stores are no dicts
    return [np.asarray(store[str(number)]) for number in range(count)]


def adapted(values: list[Tensor], wanted: int, renorm: bool, epsilon: float) -> list[Tensor] | None:
    """Return `values` for a layer with `wanted` Keras variables, or None if they cannot fit.

    The moving statistics mean the same with and without renorm. So a layer with renorm can start
    from the statistics of a layer without it, and the other way round.
    """
    if renorm and len(values) == wanted - RENORM_VARIABLES:
        mean, variance = values[-2:]
        stddev = np.sqrt(np.asarray(variance) + epsilon)
        return [*values, stddev, mean, stddev]
    if not renorm and len(values) == wanted + RENORM_VARIABLES:
        return values[:wanted]
    return list(values) if len(values) == wanted else None


def own_value(variable: keras.Variable, store: Store, layer: str) -> Tensor:
    """Return the value in `store` of a variable of kbn's own, or its default if it is missing.

    Raises:
        ValueError: if the counts of `momentum=None` are missing. They have no default.
    """
    if variable.name in store.keys():  # noqa: SIM118 - stores are no dicts
        return store[variable.name]
    if variable.name not in MISSING:
        raise ValueError(
            f"The saved state of layer {layer!r} has no {variable.name}. With momentum=None, the "
            "average cannot continue without the number of values so far. Load the state into a "
            "layer with a momentum, or measure the statistics again with kbn.recalibrate."
        )
    return np.full(tuple(variable.shape), MISSING[variable.name])


def check_shapes(variables: Sequence[keras.Variable], values: Sequence[Tensor], layer: str) -> None:
    """Check all values before any is assigned.

    Raises:
        ValueError: if a value does not fit its variable; the message names the first one.
    """
    for variable, value in zip(variables, values, strict=True):
        if tuple(variable.shape) != tuple(np.shape(value)):
            raise ValueError(
                f"Variable {variable.name!r} of layer {layer!r} has shape {tuple(variable.shape)}. "
                f"Received: a value of shape {tuple(np.shape(value))}"
            )
