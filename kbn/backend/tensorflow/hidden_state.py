"""Variables of a layer that a SavedModel needs in addition to the weights."""

from collections.abc import Mapping
from typing import Any

import keras


class HiddenState(keras.layers.Layer):
    """A layer with variables that are not weights.

    An exported training function updates them, and TensorFlow cannot save a variable that no
    object owns. A checkpoint contains only the weights, as a checkpoint of Keras's layer does.
    """

    def _hidden_variables(self) -> Mapping[str, keras.Variable]:
        """Return the variables that are not weights, by name."""
        raise NotImplementedError

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        children = super()._trackable_children(save_type, **kwargs)
        if save_type == "savedmodel":
            hidden = self._hidden_variables().items()
            children.update({name: variable.value for name, variable in hidden})
        return children
