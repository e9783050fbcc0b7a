"""The loops over an activation: two sums per channel, and the map that normalizes it.

Each reads activations in their own dtype, computes in float32 at least, and can be differentiated
any number of times; the gradients, derived by hand, keep no temporary of the activation's size.
"""

from collections.abc import Callable, Sequence
from typing import Any

from keras import backend, ops

from kbn.backend.tensorflow import tracing

Tensor = Any

# What a step of XLA's loop takes: ROWS rows of some LANES values, enough to be worth a step and
# few enough for the totals to stay in cache; or of one position's values, where those are more.
LANES, ROWS = 8192, 4


def shifted(x: Tensor, pivot: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, Σ(x − pivot) and Σ(x − pivot)² over `axes`, which are kept as 1.

    What goes on with the x returned has its gradient added in the same pass as those of the sums.

    Args:
        x: float tensor.
        pivot: broadcastable to `x`, 1 along `axes`; a constant for gradients.
        axes: the axes to reduce.
    """

    @ops.custom_gradient
    def sums(x: Tensor, pivot: Tensor) -> Any:
        def gradient(dx: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
            dx = _wide(dx) + (first + (2.0 * second) * (_wide(x) - pivot))
            return ops.cast(dx, x.dtype), ops.zeros_like(pivot)

        def terms(x: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
            deviation = _wide(x) - pivot
            return deviation, ops.square(deviation)

        # Not x itself: where that comes from outside of a branch or a loop, TensorFlow refuses.
        return (ops.stop_gradient(x), *_sums(terms, (x,), pivot, axes)), gradient

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
    """Return the same by a loop that adds rows to rows, and their lanes at the end.

    XLA on CPUs writes the terms of a sum to memory before it adds them, which takes several times
    as long as the sum itself; a map like `totals + terms` needs no such thing.
    """
    shape = ops.shape(activations[0])
    axis = next(i for i in range(len(shape)) if i not in axes)
    outer, channels = _product(shape[:axis]), shape[axis]
    # (outer, C) or (outer, C, inner), as it lies in memory: nothing is moved.
    tail = (channels, *([_product(shape[axis + 1 :])] if axis < len(shape) - 1 else []))
    blocks = [_blocks(ops.reshape(x, (outer, *tail)), tail) for x in activations]
    pivots = ops.reshape(pivot, (1, channels, 1)[: 1 + len(tail)])
    lanes = _product(tail)
    width = max(LANES // max(lanes, 1), 1) if isinstance(lanes, int) else 1  # positions of a row
    width = min(width, outer) if isinstance(outer, int) else ops.minimum(width, outer)

    def looped(totals: tuple[Tensor, Tensor], done: Tensor, rows: int) -> Any:
        def step(i: Tensor, totals: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            for row in range(rows):
                begin = done + (i * rows + row) * width
                first, second = terms(*[block(begin, width) for block in blocks], pivots)
                totals = totals[0] + first, totals[1] + second
            return totals

        steps = (outer - done) // ops.maximum(rows * width, 1)
        return ops.fori_loop(0, steps, step, totals), done + steps * rows * width

    zeros = ops.zeros((width, *tail), dtype=pivot.dtype)
    totals, done = looped((zeros, zeros), 0, ROWS)
    totals, done = looped(totals, done, 1)
    rest = terms(*[block(done, outer - done) for block in blocks], pivots)
    inner = (0, *range(2, 1 + len(tail)))
    return tuple(
        ops.reshape(ops.sum(total, inner) + ops.sum(left, inner), ops.shape(pivot))
        for total, left in zip(totals, rest, strict=True)
    )


def _blocks(rows: Tensor, tail: Sequence[Any]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what takes (begin, size) to a slice of `rows`, each of shape `tail`."""

    def block(begin: Tensor, size: Tensor) -> Tensor:
        # XLA makes a slice of bfloat16 one of float32, and would convert all rows before the loop.
        source = tracing.computed_anew(rows, begin) if rows.dtype == "bfloat16" else rows
        return ops.slice(source, (begin, *[0] * len(tail)), (size, *tail))

    return block


def _product(sizes: Sequence[Any]) -> Any:
    product: Any = 1
    for size in sizes:
        product = product * size
    return product
