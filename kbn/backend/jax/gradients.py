"""Custom gradients for kbn's sums, and the gradients of a model's loss."""

from collections.abc import Callable

import jax

from kbn.common.types import Tensor

Cotangents = tuple[Tensor, ...]


def differentiable(
    forward: Callable[..., tuple[Tensor, ...]], backward: Callable[..., tuple[Tensor, ...]]
) -> Callable[..., tuple[Tensor, ...]]:
    """Return `forward` with `backward` as its gradient. JAX has no forward mode for it."""
    function = jax.custom_vjp(forward)

    def run(*arguments: Tensor) -> tuple[Cotangents, tuple[Tensor, ...]]:
        # Not `forward`: then the gradient of the gradient would ignore what `forward` computes.
        return function(*arguments), arguments

    def gradient(arguments: tuple[Tensor, ...], cotangents: Cotangents) -> Cotangents:
        return backward(arguments, *cotangents)

    function.defvjp(run, gradient)
    return function


def value_and_gradients(
    function: Callable[[list[Tensor]], Tensor], values: list[Tensor], scale: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return `function(values)`, a scalar, and its gradient for each value."""

    def scaled(values: list[Tensor]) -> tuple[Tensor, Tensor]:
        value = function(values)
        return value * scale.astype(value.dtype), value

    gradients, value = jax.grad(scaled, has_aux=True)(values)
    return value, [gradient / scale.astype(gradient.dtype) for gradient in gradients]
