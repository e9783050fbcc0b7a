"""The one place that chooses how a batch is normalized: by the fused kernel or in portable ops."""

import functools
import os
from typing import NamedTuple

import keras

from kbn import backend
from kbn.common import checks

ENVIRONMENT = "KBN_FUSED"
"""The environment variable that says what fused="auto" means: one of `FORCED`."""
FORCED = ("auto", "off")


class Path(NamedTuple):
    """How a layer computes, and why.

    Attributes:
        fused: whether the fused kernel does it.
        reason: why, a clause for people.
    """

    fused: bool
    reason: str

    def __str__(self) -> str:
        return f"{'fused' if self.fused else 'portable'}: {self.reason}"


def choose(
    layer: keras.layers.BatchNormalization, dtype: str, *, training: bool, masked: bool
) -> Path:
    """Return the path of a call.

    Args:
        layer: the layer; its options are read.
        dtype: that of the inputs.
        training: whether the batch's own moments normalize it.
        masked: whether there is a mask.

    Raises:
        ValueError: if `fused=True` and the kernel cannot do it, with the reason.
    """
    if layer.fused is False:
        return Path(False, "fused=False")
    obstacle = _obstacle(layer, training=training, masked=masked)
    if obstacle is None:
        obstacle, description, _ = backend.kernel(dtype)
    if obstacle is None:
        return Path(True, description)
    if layer.fused is True:
        raise ValueError(
            f"fused=True, but {obstacle}. Use fused='auto' to take the portable path. "
            f"Received: layer={layer.name!r}, inputs.dtype={dtype}, training={training}"
        )
    return Path(False, obstacle)


def _obstacle(
    layer: keras.layers.BatchNormalization, *, training: bool, masked: bool
) -> str | None:
    """Return why the fused kernel cannot do what the layer is to compute, or None."""
    if _forced() == "off":
        return f"{ENVIRONMENT}=off"
    if masked:
        return "the fused kernel does not support masks"
    if not training:
        return None
    if layer.virtual_batch_size is not None:
        return "the fused kernel does not support virtual batches"
    if layer.synchronized and backend.several_replicas():
        return "the fused kernel cannot share statistics with other replicas"
    return "the fused kernel does not support renorm" if layer.renorm else None


@functools.cache
def _forced() -> str:
    return checks.one_of(ENVIRONMENT, os.environ.get(ENVIRONMENT, "auto"), FORCED)
