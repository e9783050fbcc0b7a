"""The one place that chooses how a batch is normalized: by the fused kernel or in portable ops."""

from typing import Any, NamedTuple

import keras

from kbn.backend.tensorflow import fused_kernel, native_kernels, replicas, tracing


class Path(NamedTuple):
    """How a layer computes, and why.

    Attributes:
        fused: whether TensorFlow's fused kernel does it.
        reason: why, a clause for people.
    """

    fused: bool
    reason: str

    def __str__(self) -> str:
        return f"{'fused' if self.fused else 'portable'}: {self.reason}"


def choose(layer: Any, dtype: str, *, training: bool, masked: bool) -> Path:
    """Return the path of a call.

    Args:
        layer: the layer; its options are read.
        dtype: that of the inputs.
        training: whether the batch's own moments are wanted.
        masked: whether there is a mask.

    Raises:
        ValueError: where `fused=True` demands what cannot be had.
    """
    if layer.fused is False:
        return Path(False, "fused=False")
    reason = _obstacle(layer, dtype, training=training, masked=masked)
    if reason is None:
        return Path(True, f"FusedBatchNormV3, {native_kernels.load().reason}")
    if layer.fused is True:
        raise ValueError(
            f"fused=True, but {reason}. Use fused='auto' to take the portable path there. "
            f"Received: layer={layer.name!r}, inputs.dtype={dtype}, training={training}"
        )
    return Path(False, reason)


def _obstacle(layer: Any, dtype: str, *, training: bool, masked: bool) -> str | None:
    """Return why the fused kernel must not be used, or None."""
    obstacles = {
        "it is a kernel of TensorFlow": keras.backend.backend() != "tensorflow",
        f"it has no {dtype}": dtype not in fused_kernel.DTYPES,
        "it knows no mask": masked,
        **(_training_obstacles(layer) if training else {}),
    }
    found = next((reason for reason, holds in obstacles.items() if holds), None)
    if found is None and tracing.inside_xla():
        return "inside XLA it computes wrong variances where the mean is large"
    return found


def _training_obstacles(layer: Any) -> dict[str, bool]:
    """Return the options for which no batch can be normalized by the kernel."""
    return {
        "it knows no virtual batches": layer.virtual_batch_size is not None,
        "it cannot share statistics with other replicas": layer.synchronized and replicas.several(),
        "it cannot correct a batch by renorm": layer.renorm,
    }
