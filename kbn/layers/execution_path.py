"""The choice between the fused kernel and portable ops. No other module makes this choice."""

import os
from typing import NamedTuple

import keras

from kbn import backend
from kbn.common import checks

ENVIRONMENT = "KBN_FUSED"
"""Environment variable, one of `FORCED`: "off" forces the portable path."""
FORCED = ("auto", "off")
# Read once, because torch.compile cannot look into a function that caches its result.
_FORCED = checks.one_of(ENVIRONMENT, os.environ.get(ENVIRONMENT, "auto"), FORCED)


class Path(NamedTuple):
    """The path that a call takes, and why.

    Attributes:
        fused: whether the fused kernel is used.
        reason: why, as a readable clause.
    """

    fused: bool
    reason: str

    def __str__(self) -> str:
        return f"{'fused' if self.fused else 'portable'}: {self.reason}"


FOLDABLE = Path(
    False, "converters fold inference outside rank 4 only if it is a multiplication and an addition"
)
"""The path of inference outside rank 4 with `fused="auto"`, without a mask."""


def choose(
    layer: keras.layers.BatchNormalization, dtype: str, rank: int, *, training: bool, masked: bool
) -> Path:
    """Return the path of a call.

    Args:
        layer: the layer, for its options.
        dtype: dtype of the inputs.
        rank: rank of the inputs.
        training: whether the batch is normalized with its own moments.
        masked: whether there is a mask.

    Raises:
        ValueError: if `fused=True` and the kernel does not support the call; the message says why.
    """
    if layer.fused is False:
        return Path(False, "fused=False")
    # The kernel takes images only. Reshapes to an image and back would stay in exported programs.
    if layer.fused == "auto" and rank != 4 and not training and not masked:
        return FOLDABLE
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
    """Return why the fused kernel does not support the call, or None if it does."""
    if _FORCED == "off":
        return f"{ENVIRONMENT}=off"
    if masked:
        return "the fused kernel does not support masks"
    if not training:
        return None
    if layer.virtual_batch_size is not None:
        return "the fused kernel does not support virtual_batch_size"
    if layer.synchronized and backend.several_replicas():
        return "the fused kernel cannot share statistics with other replicas"
    return "the fused kernel does not support renorm" if layer.renorm else None
