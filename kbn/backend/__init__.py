"""The functions that kbn needs from the array library, in addition to `keras.ops`.

The backend is chosen once, by `keras.backend.backend()`. `interface.py` documents each function.
"""

import importlib
from typing import Any, cast

import keras

from kbn.backend import portable
from kbn.backend.interface import (
    Backend,
    Compiled,
    Kernel,
    Mapping,
    MissingCapabilityError,
)

__all__ = [
    "COUNTER",
    "Compiled",
    "HiddenState",
    "Kernel",
    "Mapping",
    "MissingCapabilityError",
    "carried_mask",
    "compile_for",
    "compile_for_batches",
    "current_trace",
    "differentiable",
    "gather",
    "in_double",
    "is_chief",
    "iterations",
    "kernel",
    "normalize",
    "normalize_batch",
    "numpy_of",
    "several_replicas",
    "shared",
    "sum_terms",
    "undisturbed",
    "value_and_gradients",
]
SUPPORTED = ("tensorflow", "jax", "torch")


def load(name: str) -> Backend:
    """Return the backend `name`, or the portable backend if kbn does not support `name`."""
    module: Any = importlib.import_module(f"kbn.backend.{name}") if name in SUPPORTED else portable
    return cast(Backend, module)


_backend = load(keras.backend.backend())
COUNTER = _backend.COUNTER
HiddenState = _backend.HiddenState
carried_mask = _backend.carried_mask
compile_for = _backend.compile_for
compile_for_batches = _backend.compile_for_batches
current_trace = _backend.current_trace
differentiable = _backend.differentiable
gather = _backend.gather
in_double = _backend.in_double
is_chief = _backend.is_chief
iterations = _backend.iterations
kernel = _backend.kernel
normalize = _backend.normalize
normalize_batch = _backend.normalize_batch
numpy_of = _backend.numpy_of
several_replicas = _backend.several_replicas
shared = _backend.shared
sum_terms = _backend.sum_terms
undisturbed = _backend.undisturbed
value_and_gradients = _backend.value_and_gradients
