"""Cut a batch into ghost ("virtual") batches and join them again (Hoffer et al. 2017)."""

from keras import ops

from kbn.common.types import Size, Tensor


def split(x: Tensor, size: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Cut `x` into G = max(1, ⌈B/size⌉) ghost batches of consecutive samples.

    Args:
        x: (B, …) tensor.
        size: samples per ghost batch; the last one may have fewer.
        weights: None, a bool mask or float weights. They have the rank of `x` and broadcast to it.

    Returns:
        `x` as (G, size, …), padded with zeros, and weights that exclude the padding, or None if all
        values are used.
    """
    batch = ops.shape(x)[0]
    if weights is not None:
        weights = ops.broadcast_to(weights, [batch, *list(ops.shape(weights))[1:]])
    at_least = max if isinstance(batch, int) else ops.maximum
    filling = at_least(-(-batch // size), 1) * size - batch
    if not isinstance(filling, int) or filling:
        if weights is None:
            weights = ops.ones([batch, *[1] * (len(x.shape) - 1)], dtype="bool")
        x, weights = _filled(x, filling), _filled(weights, filling)
    return _grouped(x, size), None if weights is None else _grouped(weights, size)


def join(groups: Tensor, x: Tensor) -> Tensor:
    """Undo `split`: return `groups`, (G, size, …), in the shape of the original `x`."""
    count, size = ops.shape(groups)[:2]
    flat = ops.reshape(groups, [count * size, *list(ops.shape(x))[1:]])
    return ops.reshape(flat[: ops.shape(x)[0]], ops.shape(x))


def _filled(x: Tensor, filling: Size) -> Tensor:
    zeros = ops.zeros([filling, *list(ops.shape(x))[1:]], dtype=x.dtype)
    return ops.concatenate([x, zeros], axis=0)


def _grouped(x: Tensor, size: int) -> Tensor:
    batch, *rest = ops.shape(x)
    return ops.reshape(x, [batch // size, size, *rest])
