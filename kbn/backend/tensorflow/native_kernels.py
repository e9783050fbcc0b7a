"""kbn's own CPU kernels for TensorFlow's fused op, where they were compiled."""

import ctypes
import functools
import importlib.util
import os
import threading
from pathlib import Path
from typing import NamedTuple


class Kernels(NamedTuple):
    """Whether kbn's kernels run, and if not, why.

    Attributes:
        active: whether TensorFlow's `FusedBatchNormV3` runs on kbn's kernels on CPUs.
        reason: what stands behind it, a clause for people.
    """

    active: bool
    reason: str


_ONE_AT_A_TIME = threading.Lock()


def load() -> Kernels:
    """Put kbn's kernels before TensorFlow's, once per process.

    They are registered for TensorFlow's own `FusedBatchNormV3` and its gradient on CPUs, at a
    higher priority, so graphs and saved models stay TensorFlow's and run without kbn.
    `KBN_NATIVE=0` in the environment leaves TensorFlow's in place.
    """
    with _ONE_AT_A_TIME:
        return _loaded()


@functools.cache
def _loaded() -> Kernels:
    if os.environ.get("KBN_NATIVE") == "0":
        return Kernels(False, "KBN_NATIVE=0 is set")
    found = importlib.util.find_spec("kbn._native")
    if found is None or found.origin is None:
        return Kernels(False, "kbn was installed without a C++ compiler")
    library = tensorflow_library()
    if library is None:
        return Kernels(False, "TensorFlow's library was not found")
    try:
        register = ctypes.CDLL(found.origin).kbn_register
    except (OSError, AttributeError) as error:
        return Kernels(False, f"kbn's library does not load: {error}")
    if not register(os.fsencode(library), threads()):
        return Kernels(False, "this TensorFlow does not take them")
    # Whoever ran the op before is to get them too.
    from tensorflow.python.eager import context

    context.context().clear_kernel_cache()
    return Kernels(True, "kbn's CPU kernels, before TensorFlow's own")


def tensorflow_library() -> Path | None:
    """Return the library of TensorFlow that holds its C API."""
    import tensorflow as tf

    folder = Path(tf.sysconfig.get_lib())
    return next(iter(sorted(folder.glob("libtensorflow_framework.*"))), None)


def threads() -> int:
    """Return how many threads a kernel may use: what TensorFlow may, within this process's CPUs."""
    import tensorflow as tf

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return tf.config.threading.get_intra_op_parallelism_threads() or allowed or 1
