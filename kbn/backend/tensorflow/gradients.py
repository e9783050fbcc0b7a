"""Custom gradients for kbn's sums, and the gradients of a model's loss."""

from collections.abc import Callable

import tensorflow as tf

from kbn.common.types import Tensor


def differentiable(
    forward: Callable[..., tuple[Tensor, ...]], backward: Callable[..., tuple[Tensor, ...]]
) -> Callable[..., tuple[Tensor, ...]]:
    """Return `forward` with `backward` as its gradient."""

    @tf.custom_gradient
    def function(*arguments: Tensor) -> Tensor:
        return forward(*arguments), lambda *cotangents: backward(arguments, *cotangents)

    return function


def value_and_gradients(
    function: Callable[[list[Tensor]], Tensor], values: list[Tensor], scale: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return `function(values)`, a scalar, and its gradient for each value."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        value = function(values)
        scaled = value * tf.cast(scale, value.dtype)
    gradients = tape.gradient(scaled, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    # The gradient of an embedding's table is sparse (`tf.IndexedSlices`).
    dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
    return value, [gradient / tf.cast(scale, gradient.dtype) for gradient in dense]
