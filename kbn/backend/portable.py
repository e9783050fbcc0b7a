"""A backend out of `keras.ops` alone: the layer's portable path. The rest raises."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from kbn.backend.interface import Kernel, missing
from kbn.common.types import Tensor

_BESIDE = "Running a model beside training", "kbn.callbacks and kbn.recalibrate"
compile_for = compile_for_batches = undisturbed = current_trace = missing(*_BESIDE)
value_and_gradients = shared = iterations = is_chief = missing(*_BESIDE)
normalize = normalize_batch = missing("A fused kernel", "fused=True")
gather = missing("Merging over replicas", "synchronized=True")


def differentiable(
    forward: Callable[..., tuple[Tensor, ...]], backward: Callable[..., tuple[Tensor, ...]]
) -> Callable[..., tuple[Tensor, ...]]:
    """Return `forward` with `backward` as its gradient, as far as Keras's function goes."""

    @ops.custom_gradient
    def function(*arguments: Tensor) -> Any:
        return forward(*arguments), lambda *cotangents: backward(arguments, *cotangents)

    return function


def several_replicas() -> bool:
    """Return False."""
    return False


def kernel(dtype: str) -> Kernel:
    """Return that there is none."""
    return Kernel(f"kbn uses no fused kernel on Keras's {keras.backend.backend()} backend")


def sum_terms(
    terms: Callable[..., tuple[Tensor, Tensor]],
    activations: Sequence[Tensor],
    pivot: Tensor,
    axes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return the sums over `axes`, kept as 1, of the two `terms(*activations, pivot)`."""
    first, second = terms(*activations, pivot)
    return ops.sum(first, axes, keepdims=True), ops.sum(second, axes, keepdims=True)


class ExportedState:
    """Nothing is exported but what Keras exports."""
