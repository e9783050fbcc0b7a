"""Conversion to NumPy arrays."""

import keras
import ml_dtypes
import numpy as np
import torch

from kbn.common.types import Tensor

COUNTER = "int64"


def numpy_of(value: Tensor) -> np.ndarray:
    """Return a tensor, or a variable of Keras, as an array of its own.

    Without the copy, the array of a weight would change with every training step.
    """
    tensor = value.value if isinstance(value, keras.Variable) else value
    if not isinstance(tensor, torch.Tensor):
        return np.array(tensor)
    tensor = tensor.detach().cpu()
    if tensor.is_sparse:
        tensor = tensor.to_dense()
    if tensor.dtype == torch.bfloat16:  # NumPy has it from ml_dtypes alone
        return tensor.float().numpy().astype(ml_dtypes.bfloat16)
    return tensor.numpy().copy()
