"""Passes over an activation: two sums per channel, and the map that normalizes it.

Each function reads activations in their own dtype and computes in at least float32. It can be
differentiated any number of times. The gradients are derived by hand, so that they keep no
temporary tensor of the activation's size.
"""

from collections.abc import Callable, Sequence

from keras import ops

from kbn import backend
from kbn.common.types import Tensor
from kbn.ops.precision import widened


def shifted(x: Tensor, pivot: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, Σ(x − pivot) and Σ(x − pivot)² over `axes`.

    If further results are computed from the returned x, their gradient and those of the sums are
    added in one pass.

    Args:
        x: float tensor.
        pivot: tensor that broadcasts to `x`, of size 1 along `axes`; a constant for gradients.
        axes: the axes to reduce; they are kept with size 1.
    """

    def terms(x: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
        deviation = widened(x) - pivot
        return deviation, ops.square(deviation)

    def forward(x: Tensor, pivot: Tensor) -> tuple[Tensor, ...]:
        # Do not return x itself: TensorFlow raises if x comes from outside a branch or loop.
        return ops.stop_gradient(x), *_sums(terms, (x,), pivot, axes)

    def backward(
        inputs: tuple[Tensor, ...], dx: Tensor, first: Tensor, second: Tensor
    ) -> tuple[Tensor, ...]:
        x, pivot = inputs
        dx = widened(dx) + (first + (2.0 * second) * (widened(x) - pivot))
        return ops.cast(dx, x.dtype), ops.zeros_like(pivot)

    x, first, second = backend.differentiable(forward, backward)(x, pivot)
    return x, first, second


def products(dy: Tensor, x: Tensor, pivot: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return Σdy and Σdy·(x − pivot) over `axes`, which are kept with size 1."""

    def terms(dy: Tensor, x: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
        dy = widened(dy)
        return dy, dy * (widened(x) - pivot)

    def forward(dy: Tensor, x: Tensor, pivot: Tensor) -> tuple[Tensor, ...]:
        return _sums(terms, (dy, x), pivot, axes)

    def backward(inputs: tuple[Tensor, ...], first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        dy, x, pivot = inputs
        ddy = first + second * (widened(x) - pivot)
        total = ops.sum(widened(dy), axes, keepdims=True)
        dx = second * widened(dy)
        return ops.cast(ddy, dy.dtype), ops.cast(dx, x.dtype), -second * total

    first, second = backend.differentiable(forward, backward)(dy, x, pivot)
    return first, second


def affine(
    x: Tensor, center: Tensor, scale: Tensor, bias: Tensor | None, axes: Sequence[int]
) -> Tensor:
    """Return (x − center)·scale + bias in the dtype of `x`.

    The subtraction comes first, because x·scale + (bias − center·scale) loses accuracy by
    cancellation if the center is large.

    Args:
        x: float tensor.
        center: tensor that broadcasts to `x`, of size 1 along `axes`.
        scale: factor, of the same shape.
        bias: summand, of the same shape; None: 0.
        axes: the axes along which center, scale and bias have size 1.
    """

    def forward(x: Tensor, center: Tensor, scale: Tensor, *biases: Tensor) -> tuple[Tensor, ...]:
        outputs = (widened(x) - center) * scale
        for bias in biases:
            outputs = outputs + bias
        return (ops.cast(outputs, x.dtype),)

    def backward(inputs: tuple[Tensor, ...], dy: Tensor) -> tuple[Tensor, ...]:
        x, center, scale, *biases = inputs
        first, second = products(dy, x, center, axes)
        dx = ops.cast(widened(dy) * scale, x.dtype)
        return dx, -scale * first, second, *[first for _ in biases]

    mapped = backend.differentiable(forward, backward)
    (outputs,) = mapped(x, center, scale, *([] if bias is None else [bias]))
    return outputs


def _sums(
    terms: Callable[..., tuple[Tensor, Tensor]],
    activations: Sequence[Tensor],
    pivot: Tensor,
    axes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return the sums of both results of `terms(*activations, pivot)`; `axes` get size 1."""
    # The custom gradients cover these inputs, so the sums themselves need no gradient.
    *activations, pivot = map(ops.stop_gradient, (*activations, pivot))
    return backend.sum_terms(terms, activations, pivot, axes)
