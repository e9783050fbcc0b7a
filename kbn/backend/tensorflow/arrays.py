"""Conversion to NumPy arrays."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kbn.common.types import Tensor

COUNTER = "int64"
_NOT_DENSE = tf.SparseTensor, tf.RaggedTensor, tf.IndexedSlices


def numpy_of(value: Tensor) -> np.ndarray:
    """Return a tensor, or a variable of Keras or of TensorFlow, as an array.

    NumPy warns of the array interface of variables, and of tensors in bfloat16, because it has no
    argument `copy`. `keras.ops.convert_to_numpy` uses it.
    """
    if isinstance(value, _NOT_DENSE):
        return np.asarray(ops.convert_to_numpy(value))
    tensor = value.value if isinstance(value, keras.Variable) else value
    return np.asarray(tf.convert_to_tensor(tensor).numpy())
