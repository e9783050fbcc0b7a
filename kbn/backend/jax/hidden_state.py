"""Variables of a layer that are not weights."""

from collections.abc import Mapping

import keras


class HiddenState(keras.layers.Layer):
    """A layer with variables that are not weights.

    Training on JAX is a function from the values of all variables to new ones, so a variable that
    is not in `variables` does not change. Files contain only `weights`.
    """

    def _hidden_variables(self) -> Mapping[str, keras.Variable]:
        """Return the variables that are not weights, by name."""
        raise NotImplementedError

    @property
    def variables(self) -> list[keras.Variable]:
        """All variables, the hidden ones last."""
        return [*super().variables, *self._hidden_variables().values()]
