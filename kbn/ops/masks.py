"""Masks and weights, which select the values of an input to use."""

from keras import backend, ops

from kbn.common.types import Tensor


def weights_for(mask: Tensor | None, x: Tensor, axis: int) -> Tensor | None:
    """Return `mask` with the rank of `x`, so that it broadcasts to `x`. None stays None.

    A mask with the rank of `x` has the axes of `x`. A mask with fewer axes has the leading axes of
    `x` without the channel axis, as Keras's masks do: (B,), (B, T), …

    Args:
        mask: tensor or array. True and nonzero integers select values. Floats are weights, clipped
            to [0, 1]; NaN counts as 0.
        x: tensor with its channels along `axis`.
        axis: the channel axis, in [−rank, rank).

    Raises:
        ValueError: if the mask cannot be broadcast; the message has both shapes.
    """
    if mask is None:
        return None
    mask = ops.convert_to_tensor(mask)
    wanted, shape = list(x.shape), list(mask.shape)
    if len(shape) < len(wanted):
        shape += [1] * (len(wanted) - 1 - len(shape))
        shape.insert(axis % len(wanted), 1)
    fits = len(shape) == len(wanted) and all(
        have in (None, 1) or want in (None, have) for have, want in zip(shape, wanted, strict=True)
    )
    if not fits:
        raise ValueError(
            "The mask must broadcast to the inputs, or have their leading axes without the channel "
            f"axis. Received: mask.shape={tuple(mask.shape)}, inputs.shape={tuple(x.shape)}, "
            f"axis={axis}"
        )
    return _spread(_weights(mask, x.dtype), x, axis % len(wanted))


def is_mask(weights: Tensor) -> bool:
    """Return whether `weights` are booleans."""
    return "bool" in str(weights.dtype)


def where_kept(weights: Tensor | None, values: Tensor, otherwise: Tensor) -> Tensor:
    """Return `values` at the selected positions and `otherwise` at the others."""
    if weights is None:
        return values
    return ops.where(weights if is_mask(weights) else weights > 0, values, otherwise)


def _weights(mask: Tensor, dtype: str) -> Tensor:
    if not backend.is_float_dtype(backend.standardize_dtype(mask.dtype)):
        return ops.cast(mask, "bool")
    mask = ops.cast(mask, dtype)
    return ops.where(mask > 0, ops.minimum(mask, ops.ones_like(mask)), ops.zeros_like(mask))


def _spread(mask: Tensor, x: Tensor, axis: int) -> Tensor:
    """Insert missing axes, and check sizes at run time that were unknown before."""
    rank = len(x.shape)
    if len(mask.shape) < rank:
        for _ in range(rank - 1 - len(mask.shape)):
            mask = ops.expand_dims(mask, -1)
        mask = ops.expand_dims(mask, axis)
    doubtful = any(
        have is None or (want is None and have != 1)
        for have, want in zip(mask.shape, x.shape, strict=True)
    )
    if not doubtful:
        return mask
    channels = ops.shape(mask)[axis]
    full = list(ops.shape(x))
    return ops.broadcast_to(mask, [*full[:axis], channels, *full[axis + 1 :]])
