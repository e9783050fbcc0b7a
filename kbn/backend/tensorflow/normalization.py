"""TensorFlow's fused batch normalization, `FusedBatchNormV3`."""

from collections.abc import Sequence

import tensorflow as tf

from kbn.backend.interface import Kernel
from kbn.backend.tensorflow import native_kernels
from kbn.backend.tensorflow.compiling import inside_xla, runs_on_cpu
from kbn.common.types import Tensor

DTYPES = ("float32", "float16", "bfloat16")


def kernel(dtype: str) -> Kernel:
    """Return whether the op can be used now for inputs of `dtype`."""
    if dtype not in DTYPES:
        return Kernel(f"the fused kernel does not support {dtype}")
    if inside_xla():
        return Kernel("inside XLA the fused kernel computes wrong variances at a large mean")
    if not runs_on_cpu():
        return Kernel(None, "FusedBatchNormV3, TensorFlow's kernel for the GPU or TPU")
    native = native_kernels.load()
    return Kernel(None, f"FusedBatchNormV3, {native.reason}", native.active)


def normalize_batch(
    x: Tensor, axis: int, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return γ·(x − μ_B)/√(σ_B² + ε) + β, μ_B and m/(m−1)·σ_B² (σ_B² if m is 1)."""
    return _run(x, axis, gamma, beta, (), epsilon)


def normalize(
    x: Tensor,
    axis: int,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
) -> Tensor:
    """Return γ·(x − mean)/√(variance + ε) + β for given (C,) float32 statistics."""
    return _run(x, axis, gamma, beta, (mean, variance), epsilon)[0]


def _run(
    x: Tensor,
    axis: int,
    gamma: Tensor,
    beta: Tensor,
    statistics: Sequence[Tensor],
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the op, in training mode if no statistics are given."""
    native_kernels.load()
    # Convert variables too: they would take the slow path of TensorFlow's eager runtime.
    gamma, beta, mean, variance = (
        tf.convert_to_tensor(values, "float32")
        for values in (gamma, beta, *(statistics or ([], [])))
    )
    shape, layout = _image(x, axis)
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x if shape is None else tf.reshape(x, shape),
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        data_format=layout,
        is_training=not statistics,
        name="y",  # short, because names are part of exported files
    )
    if shape is not None:
        known = x.shape.is_fully_defined()
        outputs = tf.reshape(outputs, tf.constant(x.shape.as_list()) if known else tf.shape(x))
    return outputs, mean, variance


def _image(x: Tensor, axis: int) -> tuple[Tensor | None, str]:
    """Return a 4-D shape for `x` without a copy (None: its own shape), and the kernel's layout."""
    rank, channels = len(x.shape), x.shape[axis]
    if axis == rank - 1:
        return (None if rank == 4 else tf.constant([1, -1, 1, channels])), "NHWC"
    if rank == 4 and axis == 1:
        return None, "NCHW"
    sizes = x.shape if x.shape.is_fully_defined() else tf.shape(x)
    outer, inner = tf.reduce_prod(sizes[:axis]), tf.reduce_prod(sizes[axis + 1 :])
    return tf.stack([outer, channels, 1, inner]), "NCHW"
