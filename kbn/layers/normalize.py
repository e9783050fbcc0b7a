"""The forward pass of the layer, as functions of the layer's state."""

from collections.abc import Callable

import keras
from keras import ops

from kbn import backend
from kbn.common.types import Tensor
from kbn.layers.execution_path import FOLDABLE, Path
from kbn.ops import moments, renormalization, virtual_batches
from kbn.ops.channel_sums import affine
from kbn.ops.masks import where_kept
from kbn.ops.moments import Moments
from kbn.ops.precision import at_least, wide, widened
from kbn.ops.renormalization import Correction

Normalize = Callable[[keras.layers.BatchNormalization, Tensor, Tensor | None], Tensor]
"""A function of the layer, its inputs and their weights (None: all equal) to its outputs."""


def chosen(*, training: bool, path: Path) -> Normalize:
    """Return the function for training or inference that takes `path`."""
    if training:
        return fused_batch if path.fused else portable_batch
    if path == FOLDABLE:
        return foldable_inference
    return fused_inference if path.fused else portable_inference


def fused_batch(layer: keras.layers.BatchNormalization, x: Tensor, _: None) -> Tensor:
    """Normalize `x` with its own moments by the kernel, and update the moving statistics."""
    gamma, beta = gamma_of(layer, "float32"), beta_of(layer, "float32")
    outputs, batch = moments.by_kernel(x, layer.channel_axis, gamma, beta, layer.epsilon)
    layer.running_statistics().move(batch)
    return outputs


def portable_batch(
    layer: keras.layers.BatchNormalization, x: Tensor, weights: Tensor | None
) -> Tensor:
    """Normalize `x` with the moments of the batch or its ghost batches; update the statistics."""
    if layer.virtual_batch_size is None:
        return _groups(layer, x, weights, layer.channel_axis)
    groups, weights = virtual_batches.split(x, layer.virtual_batch_size, weights)
    outputs = _groups(layer, groups, weights, layer.channel_axis + 1)
    return virtual_batches.join(outputs, x)


def fused_inference(layer: keras.layers.BatchNormalization, x: Tensor, _: None) -> Tensor:
    """Normalize `x` with the moving statistics by the kernel."""
    return backend.normalize(
        x,
        layer.channel_axis,
        gamma_of(layer, "float32"),
        beta_of(layer, "float32"),
        ops.cast(layer.moving_mean.value, "float32"),
        ops.cast(layer.moving_variance.value, "float32"),
        layer.epsilon,
    )


def foldable_inference(layer: keras.layers.BatchNormalization, x: Tensor, _: None) -> Tensor:
    """Normalize `x` with the moving statistics as x·scale + bias.

    This is the form of Keras's layer, which converters fold into the layer before. Subtracting the
    mean first would be exact at a large mean, but no converter folds the subtraction.
    """
    axis, dtype = layer.channel_axis, wide(x.dtype)
    scale = ops.rsqrt(ops.cast(layer.moving_variance.value, dtype) + layer.epsilon)
    if layer.scale:
        scale = scale * gamma_of(layer, dtype)
    mean = ops.cast(layer.moving_mean.value, dtype)
    # Not −(mean·scale): TensorFlow would turn its addition into a subtraction, and no converter
    # folds that.
    bias = beta_of(layer, dtype) - mean * scale if layer.center else -mean * scale
    if axis != len(x.shape) - 1:
        scale, bias = _along(scale, x, axis), _along(bias, x, axis)
    return ops.cast(widened(x) * scale + bias, x.dtype)


def portable_inference(
    layer: keras.layers.BatchNormalization, x: Tensor, weights: Tensor | None
) -> Tensor:
    """Normalize `x` with the moving statistics."""
    axis, dtype = layer.channel_axis, wide(x.dtype)
    scale, bias = _transform(layer, ops.cast(layer.moving_variance.value, dtype))
    mean = ops.cast(layer.moving_mean.value, dtype)
    mean, scale, bias = (_along(values, x, axis) for values in (mean, scale, bias))
    outputs = affine(x, mean, scale, bias if layer.center else None, _all_but(axis, x))
    return _or_beta(layer, outputs, weights, axis)


def gamma_of(layer: keras.layers.BatchNormalization, dtype: str) -> Tensor:
    """Return gamma, or ones if the layer has none, (C,)."""
    gamma = layer.gamma.value if layer.scale else ops.ones_like(layer.moving_mean.value)
    return ops.cast(gamma, dtype)


def beta_of(layer: keras.layers.BatchNormalization, dtype: str) -> Tensor:
    """Return beta, or zeros if the layer has none, (C,)."""
    beta = layer.beta.value if layer.center else ops.zeros_like(layer.moving_mean.value)
    return ops.cast(beta, dtype)


def _groups(
    layer: keras.layers.BatchNormalization, x: Tensor, weights: Tensor | None, axis: int
) -> Tensor:
    """Normalize `x`, or each ghost batch of `x` if they are along axis 0, with its own moments."""
    statistics = layer.running_statistics()
    axes = _all_but(axis, x, first=axis - layer.channel_axis)
    gather = backend.gather if layer.synchronized and backend.several_replicas() else None
    batch = moments.center(x, axes, weights, gather)
    correction = _correction(layer, batch.moments) if layer.renorm else None
    statistics.move(batch.moments)
    scale, bias = _transform(layer, batch.moments.variance, correction)
    scale, bias = _along(scale, x, axis), _along(bias, x, axis)
    # Unlike a mean, the offset is at most of the order of the spread, so multiplying it out loses
    # no accuracy.
    outputs = affine(batch.x, batch.pivot, scale, bias - batch.offset * scale, axes)
    return _or_beta(layer, outputs, weights, axis)


def _or_beta(
    layer: keras.layers.BatchNormalization, outputs: Tensor, weights: Tensor | None, axis: int
) -> Tensor:
    """Return `outputs` with beta at the masked positions."""
    if weights is None:
        return outputs
    return where_kept(weights, outputs, _along(beta_of(layer, outputs.dtype), outputs, axis))


def _transform(
    layer: keras.layers.BatchNormalization, variance: Tensor, correction: Correction | None = None
) -> tuple[Tensor, Tensor]:
    """Return the scale and the bias for deviations from the mean, (…, C) each."""
    scale = ops.rsqrt(variance + layer.epsilon)
    gamma, beta = gamma_of(layer, scale.dtype), beta_of(layer, scale.dtype)
    if correction is None:
        return scale * gamma, beta
    return scale * correction.r * gamma, correction.d * gamma + beta


def _correction(layer: keras.layers.BatchNormalization, batch: Moments) -> Correction:
    """Return renorm's correction for a batch, from the statistics before the batch's update."""
    scheduled = renormalization.is_scheduled(layer.renorm_clipping)
    step = layer.renorm_step.value if scheduled else None
    limits = renormalization.limits_at(layer.renorm_clipping or {}, step)
    dtype = batch.mean.dtype
    return renormalization.correction(
        batch.mean,
        ops.sqrt(batch.variance + layer.epsilon),
        ops.cast(layer.renorm_mean.value, dtype),
        # √ε is the smallest possible σ_B.
        at_least(ops.cast(layer.renorm_stddev.value, dtype), layer.epsilon**0.5),
        limits,
    )


def _all_but(axis: int, x: Tensor, first: int = 0) -> list[int]:
    return [i for i in range(first, len(x.shape)) if i != axis]


def _along(per_channel: Tensor, x: Tensor, axis: int) -> Tensor:
    """Reshape (C,) to broadcast along `axis` of `x`; (G, C) along axis 0 too."""
    shape = [1] * len(x.shape)
    shape[axis] = x.shape[axis]
    if len(per_channel.shape) == 2:
        shape[0] = -1
    return ops.reshape(per_channel, shape)
