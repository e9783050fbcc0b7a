"""Variables of a layer that are not weights."""

import keras


class HiddenState(keras.layers.Layer):
    """A layer with variables that are not weights. They are not part of a `state_dict` either."""
