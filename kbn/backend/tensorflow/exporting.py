"""What a SavedModel holds of a layer beside its weights."""

from collections.abc import Mapping
from typing import Any

import keras


class ExportedState(keras.layers.Layer):
    """A layer some of whose variables are no weights.

    A training function that is exported updates them, and TensorFlow cannot save a variable that
    no object owns. A checkpoint holds the weights alone, as one of Keras's layer does.
    """

    def _hidden_variables(self) -> Mapping[str, keras.Variable]:
        """Return these variables by name."""
        raise NotImplementedError

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        children = super()._trackable_children(save_type, **kwargs)
        if save_type == "savedmodel":
            hidden = self._hidden_variables().items()
            children.update({name: variable.value for name, variable in hidden})
        return children
