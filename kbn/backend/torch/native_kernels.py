"""The functions of kbn's compiled library for plain arrays."""

import ctypes
import functools
from collections.abc import Sequence

import torch

from kbn.backend import native_library
from kbn.backend.native_library import Library
from kbn.common.types import Tensor

TYPES = {"float32": 0, "bfloat16": 1, "float16": 2}
_TYPES = {getattr(torch, name): number for name, number in TYPES.items()}
_POINTER, _SIZE, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
Layout = tuple[int, int, int]
"""An activation seen as (outer, C, inner) in the order of its memory."""


@functools.cache
def load() -> Library:
    """Return the library with the types of its functions, and with PyTorch's threads."""
    library = native_library.load()
    functions = library.functions
    if functions is None:
        return library
    functions.kbn_normalize.argtypes = (
        _INT, _POINTER, _SIZE, _SIZE, _SIZE, _POINTER, _POINTER, _FLOAT, _INT, *[_POINTER] * 4,
    )  # fmt: skip
    functions.kbn_gradients.argtypes = (
        _INT, _POINTER, _POINTER, _SIZE, _SIZE, _SIZE, _POINTER, _FLOAT, _INT, *[_POINTER] * 6,
    )  # fmt: skip
    functions.kbn_use_openmp()  # as PyTorch does
    return library


def normalize(
    x: Tensor,
    layout: Layout,
    gamma: Tensor,
    beta: Tensor,
    epsilon: float,
    training: bool,
    statistics: Sequence[Tensor],
    outputs: Tensor,
) -> None:
    """Write `outputs`. In training, also write the `statistics`; in inference, read them.

    Args:
        x: activation, dense.
        layout: its shape in memory.
        gamma: (C,) float32.
        beta: (C,) float32.
        epsilon: ε.
        training: whether the moments are those of `x`.
        statistics: mean, its rounding error, and biased variance, (C,) float32.
        outputs: tensor of the dtype and layout of `x`.
    """
    _call(
        "kbn_normalize", _TYPES[x.dtype], x, *layout, gamma, beta, epsilon, training,
        *statistics, outputs,
    )  # fmt: skip


def gradients(
    x: Tensor,
    dy: Tensor,
    layout: Layout,
    gamma: Tensor,
    epsilon: float,
    training: bool,
    statistics: Sequence[Tensor],
    outputs: Sequence[Tensor],
) -> None:
    """Write the gradients of `x`, gamma and beta to `outputs`; arguments as for `normalize`."""
    _call(
        "kbn_gradients", _TYPES[x.dtype], x, dy, *layout, gamma, epsilon, training,
        *statistics, *outputs,
    )  # fmt: skip


def _call(name: str, *arguments: object) -> None:
    functions = load().functions
    assert functions is not None, "kernel() comes first"  # noqa: S101
    functions.kbn_set_threads(torch.get_num_threads())
    plain = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in arguments]
    if not getattr(functions, name)(*plain):
        raise MemoryError(f"kbn's kernel {name} has no memory for its sums")
