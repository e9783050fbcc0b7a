"""TensorFlow's fused batch normalization behind the same (mean, variance, count) as `moments`."""

from collections.abc import Sequence
from typing import Any

from kbn.backend.tensorflow import native_kernels
from kbn.ops.moments import Moments, count_of

Tensor = Any

DTYPES = ("float32", "float16", "bfloat16")


def normalize_batch(
    x: Tensor, axis: int, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Moments]:
    """Return γ·(x − μ_B)/√(σ_B² + ε) + β and the batch's moments (Ioffe & Szegedy 2015).

    Args:
        x: float32, float16 or bfloat16 tensor of rank ≥ 1; the result has its dtype and shape.
        axis: the channel axis, not negative.
        gamma: (C,) float32.
        beta: (C,) float32.
        epsilon: ε.
    """
    outputs, mean, variance = _kernel(x, axis, gamma, beta, (), epsilon)
    count = count_of(x, [i for i in range(len(x.shape)) if i != axis])
    # The op's variance has the factor m/(m−1), or 1 where m is 1.
    return outputs, Moments(mean, variance * _share(count), count, unbiased=variance)


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
    return _kernel(x, axis, gamma, beta, (mean, variance), epsilon)[0]


def _kernel(
    x: Tensor,
    axis: int,
    gamma: Tensor,
    beta: Tensor,
    statistics: Sequence[Tensor],
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the op, in training mode where no statistics are given."""
    import tensorflow as tf

    native_kernels.load()
    # Tensors, also of variables: others take the slow path of TensorFlow's eager runtime.
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
    )
    if shape is not None:
        known = x.shape.is_fully_defined()
        outputs = tf.reshape(outputs, tf.constant(x.shape.as_list()) if known else tf.shape(x))
    return outputs, mean, variance


def _image(x: Tensor, axis: int) -> tuple[Any, str]:
    """Return the 4-D shape in which `x` lies as it is (None: its own), and the kernel's layout."""
    import tensorflow as tf

    rank, channels = len(x.shape), x.shape[axis]
    if axis == rank - 1:
        return (None if rank == 4 else tf.constant([1, -1, 1, channels])), "NHWC"
    if rank == 4 and axis == 1:
        return None, "NCHW"
    sizes = x.shape if x.shape.is_fully_defined() else tf.shape(x)
    outer, inner = tf.reduce_prod(sizes[:axis]), tf.reduce_prod(sizes[axis + 1 :])
    return tf.stack([outer, channels, 1, inner]), "NCHW"


def _share(count: Any) -> Any:
    """Return (m−1)/m; 0 where nothing was seen."""
    if isinstance(count, float):
        return max(count - 1.0, 0.0) / max(count, 1.0)
    import tensorflow as tf

    return tf.maximum(count - 1.0, 0.0) / tf.maximum(count, 1.0)
