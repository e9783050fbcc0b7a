"""Devices and processes.

Under `keras.distribution`, a program sees the samples of all devices, so the moments of a batch are
those of the global batch. Inside `jax.shard_map` and `jax.pmap`, a program sees the samples of one
device.
"""

import contextlib
import math

import jax
import keras

from kbn.common.types import Tensor


def several_replicas() -> bool:
    """Return whether the current code is a program for one device of several."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in mesh.manual_axes) > 1


def gather(rows: Tensor) -> Tensor:
    """Return `rows`, (k, C), of all R replicas as (R, k, C), the same on every replica."""
    axes = tuple(jax.sharding.get_abstract_mesh().manual_axes)
    return jax.lax.all_gather(rows, axes)


def is_chief(model: keras.Model) -> bool:
    """Return whether this is the first process."""
    return jax.process_index() == 0


def undisturbed() -> contextlib.AbstractContextManager[object]:
    """Return a context that does nothing: functions of JAX have no state to disturb."""
    return contextlib.nullcontext()


def local(value: Tensor) -> Tensor:
    """Return this process's copy of a replicated array, so that one process can compute alone.

    Raises:
        ValueError: if other processes hold parts of the array.
    """
    if not isinstance(value, jax.Array) or len(value.sharding.device_set) == 1:
        return value
    if value.is_fully_replicated:
        return value.addressable_data(0)
    if value.is_fully_addressable:
        return value
    raise ValueError(
        "A weight is distributed over several processes, so no single process can run the model. "
        f"Received: a weight of shape {tuple(value.shape)} with sharding {value.sharding}"
    )
