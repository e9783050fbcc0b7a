"""The fused kernel, which JAX does not have."""

import keras

from kbn.backend.interface import Kernel, missing

normalize = normalize_batch = missing("A fused kernel", "fused=True")


def kernel(dtype: str) -> Kernel:
    """Return a `Kernel` that says that there is none, and how statistics are shared."""
    reason = "JAX has no batch normalization kernel: XLA compiles the portable path"
    if keras.distribution.distribution() is not None:
        reason += (
            ". Under keras.distribution, statistics are those of the global batch; for those of "
            "each device, set virtual_batch_size to the samples per device"
        )
    return Kernel(reason)
