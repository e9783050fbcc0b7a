"""A backend made of `keras.ops`, for the layer's portable path. Its other functions raise."""

import contextlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops, tree
from keras.src.backend.common.masking import get_keras_mask

from kbn.backend.interface import Kernel, missing
from kbn.common.types import Nested, Tensor

COUNTER = "int32"
_RUNS = "Running a model outside the training step", "kbn.callbacks and kbn.recalibrate"
compile_for = compile_for_batches = undisturbed = current_trace = missing(*_RUNS)
value_and_gradients = shared = iterations = is_chief = missing(*_RUNS)
normalize = normalize_batch = missing("A fused kernel", "fused=True")
gather = missing("Merging over replicas", "synchronized=True")


def differentiable(
    forward: Callable[..., tuple[Tensor, ...]], backward: Callable[..., tuple[Tensor, ...]]
) -> Callable[..., tuple[Tensor, ...]]:
    """Return `forward` with `backward` as its gradient, by `keras.ops.custom_gradient`."""

    @ops.custom_gradient
    def function(*arguments: Tensor) -> Tensor:
        def gradient(*cotangents: Nested) -> tuple[Tensor, ...]:
            # TensorFlow passes one argument per output, JAX one tuple for all.
            return backward(arguments, *tree.flatten(cotangents))

        return forward(*arguments), gradient

    return function


def numpy_of(value: Tensor) -> np.ndarray:
    """Return a tensor or a variable as an array."""
    return np.asarray(ops.convert_to_numpy(value))


def in_double() -> contextlib.AbstractContextManager[object]:
    """Return a context that does nothing."""
    return contextlib.nullcontext()


def carried_mask(x: Tensor) -> Tensor | None:
    """Return the mask that the tensor `x` carries, such as from `Masking`, or None."""
    return get_keras_mask(x)


def several_replicas() -> bool:
    """Return False: this backend does not distribute training."""
    return False


def kernel(dtype: str) -> Kernel:
    """Return a `Kernel` that says that there is none."""
    return Kernel(f"kbn uses no fused kernel on Keras's {keras.backend.backend()} backend")


def sum_terms(
    terms: Callable[..., tuple[Tensor, Tensor]],
    activations: Sequence[Tensor],
    pivot: Tensor,
    axes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return the sums of both results of `terms(*activations, pivot)`; `axes` get size 1."""
    first, second = terms(*activations, pivot)
    return ops.sum(first, axes, keepdims=True), ops.sum(second, axes, keepdims=True)


class HiddenState:
    """A base class for layers that adds nothing to what Keras exports."""
