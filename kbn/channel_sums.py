"""The loops over an activation: two sums per channel, and the map that normalizes it.

Each reads activations in their own dtype, computes in float32 at least, and can be differentiated
any number of times; the gradients, derived by hand, keep no temporary of the activation's size.
"""

from collections.abc import Callable, Sequence
from typing import Any

from keras import backend, ops

from kbn import tracing

Tensor = Any

# How many values a step of XLA's loop takes, at least and at most: enough to be worth it, few
# enough to stay in cache. Between these, the loop has STEPS steps.
BLOCK = 8192, 32768
STEPS = 32


def shifted(x: Tensor, pivot: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return Σ(x − pivot) and Σ(x − pivot)² over `axes`, which are kept as 1.

    Args:
        x: float tensor.
        pivot: broadcastable to `x`, 1 along `axes`; a constant for gradients.
        axes: the axes to reduce.
    """

    @ops.custom_gradient
    def sums(x: Tensor, pivot: Tensor) -> Any:
        def gradient(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
            dx = first + (2.0 * second) * (_wide(x) - pivot)
            return ops.cast(dx, x.dtype), ops.zeros_like(pivot)

        def terms(x: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
            deviation = _wide(x) - pivot
            return deviation, ops.square(deviation)

        return _sums(terms, (x,), pivot, axes), gradient

    return sums(x, pivot)


def products(dy: Tensor, x: Tensor, pivot: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return Σdy and Σdy·(x − pivot) over `axes`, which are kept as 1."""

    @ops.custom_gradient
    def sums(dy: Tensor, x: Tensor, pivot: Tensor) -> Any:
        def gradient(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            ddy = first + second * (_wide(x) - pivot)
            total = ops.sum(_wide(dy), axes, keepdims=True)
            dx = second * _wide(dy)
            return ops.cast(ddy, dy.dtype), ops.cast(dx, x.dtype), -second * total

        def terms(dy: Tensor, x: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
            wide = _wide(dy)
            return wide, wide * (_wide(x) - pivot)

        return _sums(terms, (dy, x), pivot, axes), gradient

    return sums(dy, x, pivot)


def affine(
    x: Tensor, center: Tensor, scale: Tensor, bias: Tensor | None, axes: Sequence[int]
) -> Tensor:
    """Return (x − center)·scale + bias in the dtype of `x`; what is subtracted goes first.

    x·scale + (bias − center·scale) would cancel badly where the center is large.

    Args:
        x: float tensor.
        center: broadcastable to `x`, 1 along `axes`, as `scale` and `bias` are.
        scale: the factor.
        bias: what is added; None for nothing.
        axes: the axes along which these are 1.
    """

    @ops.custom_gradient
    def mapped(x: Tensor, center: Tensor, scale: Tensor, *biases: Tensor) -> Any:
        def gradient(dy: Tensor) -> tuple[Tensor, ...]:
            first, second = products(dy, x, center, axes)
            dx = ops.cast(_wide(dy) * scale, x.dtype)
            return dx, -scale * first, second, *[first for _ in biases]

        outputs = (_wide(x) - center) * scale
        for bias in biases:
            outputs = outputs + bias
        return ops.cast(outputs, x.dtype), gradient

    return mapped(x, center, scale, *([] if bias is None else [bias]))


def _wide(x: Tensor) -> Tensor:
    return ops.cast(x, backend.result_type(x.dtype, "float32"))


def _sums(
    terms: Callable[..., tuple[Tensor, Tensor]],
    activations: Sequence[Tensor],
    pivot: Tensor,
    axes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return the sums over `axes` of the two `terms` of some activations and the pivot."""
    # The custom gradients speak for these: nobody is to differentiate the loop too.
    *activations, pivot = map(ops.stop_gradient, (*activations, pivot))
    if len(axes) == len(pivot.shape) - 1 and tracing.inside_xla():
        return _sums_by_blocks(terms, activations, pivot, axes)
    first, second = terms(*activations, pivot)
    return ops.sum(first, axes, keepdims=True), ops.sum(second, axes, keepdims=True)


def _sums_by_blocks(
    terms: Callable[..., tuple[Tensor, Tensor]],
    activations: Sequence[Tensor],
    pivot: Tensor,
    axes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return the same by a loop, whose temporaries fit into cache.

    XLA on CPUs writes the terms of a sum to memory before it adds them; over a whole activation
    that takes several times as long as the sum itself.
    """
    shape = ops.shape(activations[0])
    axis = next(i for i in range(len(shape)) if i not in axes)
    outer, channels = _product(shape[:axis]), shape[axis]
    # (outer, C) or (outer, C, inner), as it lies in memory: nothing is moved.
    tail = (channels, *([_product(shape[axis + 1 :])] if axis < len(shape) - 1 else []))
    rows = [ops.reshape(x, (outer, *tail)) for x in activations]
    pivots = ops.reshape(pivot, (1, channels, 1)[: 1 + len(tail)])

    def add(totals: tuple[Tensor, Tensor], parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        first, second = terms(*parts, pivots)
        return totals[0] + ops.sum(first, 0), totals[1] + ops.sum(second, 0)

    least, most = (ops.maximum(block // ops.maximum(_product(tail), 1), 1) for block in BLOCK)
    size = ops.minimum(ops.minimum(ops.maximum(outer // STEPS, least), most), outer)
    steps = outer // ops.maximum(size, 1)

    def step(i: Tensor, totals: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        begin = (i * size, *[0] * len(tail))
        return add(totals, [ops.slice(x, begin, (size, *tail)) for x in rows])

    zeros = ops.zeros(tail, dtype=pivot.dtype)
    totals = ops.fori_loop(0, steps, step, (zeros, zeros))
    totals = add(totals, [x[steps * size :] for x in rows])
    inner = tuple(range(1, len(tail)))
    first, second = (ops.sum(total, inner) if inner else total for total in totals)
    return ops.reshape(first, ops.shape(pivot)), ops.reshape(second, ops.shape(pivot))


def _product(sizes: Sequence[Any]) -> Any:
    product: Any = 1
    for size in sizes:
        product = product * size
    return product
