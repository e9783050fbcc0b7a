"""kbn's own CPU kernels for TensorFlow's fused op, if they were compiled."""

import functools
import os
import threading
from pathlib import Path
from typing import NamedTuple

from kbn.backend import native_library


class Kernels(NamedTuple):
    """Whether kbn's kernels run, and if not, why.

    Attributes:
        active: whether TensorFlow's `FusedBatchNormV3` runs on kbn's kernels on CPUs.
        reason: which kernels run, or why kbn's do not, as a readable clause.
    """

    active: bool
    reason: str


_ONE_AT_A_TIME = threading.Lock()


def load() -> Kernels:
    """Register kbn's kernels, once per process.

    They are registered on CPUs for TensorFlow's own op `FusedBatchNormV3` and its gradient, with a
    higher priority than TensorFlow's kernels. So graphs and saved models contain only TensorFlow's
    ops and run without kbn. With `KBN_NATIVE=0` in the environment, TensorFlow's kernels run.
    """
    with _ONE_AT_A_TIME:
        return _loaded()


@functools.cache
def _loaded() -> Kernels:
    functions, reason = native_library.load()
    if functions is None:
        return Kernels(False, reason)
    library = tensorflow_library()
    if library is None:
        return Kernels(False, "TensorFlow's library was not found")
    if not functions.kbn_register(os.fsencode(library), threads()):
        return Kernels(False, "this TensorFlow does not accept kbn's kernels")
    # The eager runtime caches kernels. Clear it, so that later calls use kbn's.
    from tensorflow.python.eager import context

    context.context().clear_kernel_cache()
    return Kernels(True, "kbn's CPU kernels, before TensorFlow's own")


def tensorflow_library() -> Path | None:
    """Return TensorFlow's library with the C API, or None if it is not found."""
    import tensorflow as tf

    folder = Path(tf.sysconfig.get_lib())
    return next(iter(sorted(folder.glob("libtensorflow_framework.*"))), None)


def threads() -> int:
    """Return how many threads a kernel may use: TensorFlow's setting, or this process's CPUs."""
    import tensorflow as tf

    return tf.config.threading.get_intra_op_parallelism_threads() or native_library.cpus()
