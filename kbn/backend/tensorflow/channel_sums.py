"""Sums per channel inside XLA programs for CPUs, because XLA's own sums are slow there."""

from collections.abc import Callable, Sequence

from keras import ops

from kbn.backend import portable
from kbn.backend.tensorflow.compiling import computed_anew, inside_xla, runs_on_cpu
from kbn.common.types import Size, Tensor

# A step of XLA's loop adds ROWS rows of about LANES values each. This is enough to be worth a step,
# and few enough for the totals to stay in cache. A row has at least the values of one position.
LANES, ROWS = 8192, 4


def sum_terms(
    terms: Callable[..., tuple[Tensor, Tensor]],
    activations: Sequence[Tensor],
    pivot: Tensor,
    axes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return the sums of both results of `terms(*activations, pivot)`; `axes` get size 1."""
    # On a GPU, the loop would start thousands of small kernels one after the other. Without it, XLA
    # computes both sums in one pass there.
    if len(axes) == len(pivot.shape) - 1 and inside_xla() and runs_on_cpu():
        return _sums_by_blocks(terms, activations, pivot, axes)
    return portable.sum_terms(terms, activations, pivot, axes)


def _sums_by_blocks(
    terms: Callable[..., tuple[Tensor, Tensor]],
    activations: Sequence[Tensor],
    pivot: Tensor,
    axes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return the same sums, from a loop that adds up rows and then the lanes of the total.

    On CPUs, XLA writes the terms of a sum to memory before it adds them. This takes several times
    as long as the sum itself. An elementwise operation like `totals + terms` does not do this.
    """
    shape = ops.shape(activations[0])
    axis = next(i for i in range(len(shape)) if i not in axes)
    outer, channels = _product(shape[:axis]), shape[axis]
    # (outer, C) or (outer, C, inner): the same order in memory, so no data is copied.
    tail = (channels, *([_product(shape[axis + 1 :])] if axis < len(shape) - 1 else []))
    blocks = [_blocks(ops.reshape(x, (outer, *tail)), tail) for x in activations]
    pivots = ops.reshape(pivot, (1, channels, 1)[: 1 + len(tail)])
    lanes = _product(tail)
    width = max(LANES // max(lanes, 1), 1) if isinstance(lanes, int) else 1  # positions in a row
    width = min(width, outer) if isinstance(outer, int) else ops.minimum(width, outer)

    def looped(
        totals: tuple[Tensor, Tensor], done: Size, rows: int
    ) -> tuple[tuple[Tensor, Tensor], Size]:
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


def _blocks(rows: Tensor, tail: Sequence[Size]) -> Callable[[Size, Size], Tensor]:
    """Return a function from (begin, size) to a slice of `rows`; each row has shape `tail`."""

    def block(begin: Size, size: Size) -> Tensor:
        # XLA converts slices of bfloat16 to float32, and would convert all rows before the loop.
        source = computed_anew(rows, begin) if rows.dtype == "bfloat16" else rows
        return ops.slice(source, (begin, *[0] * len(tail)), (size, *tail))

    return block


def _product(sizes: Sequence[Size]) -> Size:
    product: Size = 1
    for size in sizes:
        product = product * size
    return product
