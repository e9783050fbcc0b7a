"""The loops over an activation: two sums per channel, and the map that normalizes it.

Each reads activations in their own dtype, computes in float32 at least, and can be differentiated
any number of times; the gradients, derived by hand, keep no temporary of the activation's size.
"""

from collections.abc import Callable, Sequence

from keras import ops

from kbn import backend
from kbn.common.types import Tensor
from kbn.ops.precision import widened


def shifted(x: Tensor, pivot: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, Σ(x − pivot) and Σ(x − pivot)² over `axes`, which are kept as 1.

    The gradient of what is computed from the x returned is added in the same pass as those of the
    sums.

    Args:
        x: float tensor.
        pivot: broadcastable to `x`, 1 along `axes`; a constant for gradients.
        axes: the axes to reduce.
    """

    def terms(x: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
        deviation = widened(x) - pivot
        return deviation, ops.square(deviation)

    def forward(x: Tensor, pivot: Tensor) -> tuple[Tensor, ...]:
        # Not x itself: if that comes from outside of a branch or a loop, TensorFlow refuses.
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
    """Return Σdy and Σdy·(x − pivot) over `axes`, which are kept as 1."""

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
    """Return (x − center)·scale + bias in the dtype of `x`; the subtraction comes first.

    x·scale + (bias − center·scale) would cancel badly if the center is large.

    Args:
        x: float tensor.
        center: broadcastable to `x`, 1 along `axes`, as `scale` and `bias` are.
        scale: the factor.
        bias: the summand; None for nothing.
        axes: the axes along which these are 1.
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
    """Return the sums over `axes` of the two `terms` of some activations and the pivot."""
    # The custom gradients speak for these: nobody is to differentiate the loop too.
    *activations, pivot = map(ops.stop_gradient, (*activations, pivot))
    return backend.sum_terms(terms, activations, pivot, axes)
