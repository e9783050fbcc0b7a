"""Masks and weights, which select the values of an input to use."""

from collections.abc import Sequence
from typing import TypeAlias

import keras
from keras import ops

from kbn import backend
from kbn.common.types import Size, Tensor
from kbn.ops.precision import at_most

Shape: TypeAlias = Sequence[Size | None]
"""Sizes of axes. A size that is unknown before run time is a scalar tensor or None."""


def is_carried(mask: Tensor | None, x: Tensor) -> bool:
    """Return whether `mask` is the one that the tensor `x` carries, such as from `Masking`.

    A functional model computes this mask a second time and passes it as an argument. So a mask of
    the same shape counts as the same.
    """
    carried = backend.carried_mask(x)
    if mask is None or carried is None:
        return False
    shape = ops.convert_to_tensor(mask).shape
    return len(shape) == len(carried.shape) and all(
        one in (None, other) or other is None
        for one, other in zip(shape, carried.shape, strict=True)
    )


def weights_for(
    mask: Tensor | None, x: Tensor, axis: int, *, leading: bool = False
) -> Tensor | None:
    """Return `mask` with the rank of `x`, so that it broadcasts to `x`. None stays None.

    A mask with the rank of `x` has the axes of `x`. A mask with fewer axes has the leading axes of
    `x` without the channel axis: (B,), (B, T), … If it fits only the leading axes of `x` with the
    channel axis, as a mask of Keras does with `axis=1`, it has those.

    Args:
        mask: tensor or array. True and nonzero integers select values. Floats are weights, clipped
            to [0, 1]; NaN counts as 0.
        x: tensor with its channels along `axis`.
        axis: the channel axis, in [−rank, rank).
        leading: whether a mask with fewer axes always has the leading axes of `x`, the channel axis
            included. This is Keras's convention, so masks that a tensor carries follow it.

    Raises:
        ValueError: if the mask cannot be broadcast; the message has both shapes.
    """
    if mask is None:
        return None
    mask = ops.convert_to_tensor(mask)
    rank = len(x.shape)
    shapes = _candidates(mask, rank, axis % rank, leading)
    fitting = [shape for shape in shapes if _may_fit(shape, x.shape)]
    if not fitting:
        without = "" if leading else ", with or without the channel axis"
        raise ValueError(
            f"The mask must broadcast to the inputs, or have their leading axes{without}. "
            f"Received: mask.shape={tuple(mask.shape)}, inputs.shape={tuple(x.shape)}, axis={axis}"
        )
    return _spread(_weights(mask, x.dtype), x, axis % rank, fitting)


def is_mask(weights: Tensor) -> bool:
    """Return whether `weights` are booleans."""
    return "bool" in str(weights.dtype)


def where_kept(weights: Tensor | None, values: Tensor, otherwise: Tensor) -> Tensor:
    """Return `values` at the selected positions and `otherwise` at the others."""
    if weights is None:
        return values
    return ops.where(weights if is_mask(weights) else weights > 0, values, otherwise)


def _weights(mask: Tensor, dtype: str) -> Tensor:
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(mask.dtype)):
        return ops.cast(mask, "bool")
    mask = ops.cast(mask, dtype)
    return ops.where(mask > 0, at_most(mask, 1.0), ops.zeros_like(mask))


def _candidates(mask: Tensor, rank: int, axis: int, leading: bool) -> list[Shape]:
    """Return the shapes of this rank that `mask` can have, the preferred one first."""
    sizes = list(ops.shape(mask))
    if len(sizes) >= rank:
        return [sizes]
    with_channels = sizes + [1] * (rank - len(sizes))
    if leading or len(sizes) <= axis:  # the channel axis comes after the mask's axes
        return [with_channels]
    return [[*sizes[:axis], 1, *with_channels[axis:-1]], with_channels]


def _may_fit(shape: Shape, wanted: Shape) -> bool:
    """Return whether `shape` broadcasts to `wanted`, as far as both are known."""
    return len(shape) == len(wanted) and all(
        not isinstance(have, int) or have == 1 or want in (None, have)
        for have, want in zip(shape, wanted, strict=True)
    )


def _is_open(have: Size, want: int | None) -> bool:
    """Return whether it is unknown before run time if an axis fits."""
    return not isinstance(have, int) or (want is None and have != 1)


def _spread(mask: Tensor, x: Tensor, axis: int, shapes: list[Shape]) -> Tensor:
    """Reshape `mask` to the first of `shapes` that fits; if sizes are unknown, at run time."""
    shape, *others = shapes
    is_open = [_is_open(have, want) for have, want in zip(shape, x.shape, strict=True)]
    full = list(ops.shape(x))
    if others and any(is_open[axis:]):
        # The two shapes differ from `axis` on, and the sizes there are not known yet.
        return ops.broadcast_to(ops.reshape(mask, _first_fitting(shape, others[0], full)), full)
    mask = ops.reshape(mask, shape)
    if not any(is_open):
        return mask
    # An error at run time if a size differs. Otherwise, inputs of size 1 would be spread.
    return ops.broadcast_to(mask, [*full[:axis], shape[axis], *full[axis + 1 :]])


def _first_fitting(first: Shape, second: Shape, full: Shape) -> Tensor:
    first, second, full = (
        ops.stack([ops.cast(n, "int32") for n in s]) for s in (first, second, full)
    )
    fits = ops.all(ops.logical_or(ops.equal(first, full), ops.equal(first, 1)))
    return ops.where(fits, first, second)
