"""Processes of `torch.distributed`, one per replica."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras
import torch
from torch import distributed

from kbn.common.types import Tensor

_state = threading.local()


def several_replicas() -> bool:
    """Return whether this process trains together with others."""
    return not getattr(_state, "alone", False) and _ranks() > 1


def gather(rows: Tensor) -> Tensor:
    """Return `rows`, (k, C), of all R processes as (R, k, C), the same in every process.

    Gradients pass to the process that the rows come from.
    """
    return _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    """PyTorch's own functions either have no gradient or are deprecated."""

    @staticmethod
    def forward(_: Any, rows: Tensor) -> Tensor:
        found = [torch.empty_like(rows) for _ in range(_ranks())]
        distributed.all_gather(found, rows.contiguous())
        return torch.stack(found)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total[distributed.get_rank()]


def is_chief(model: keras.Model) -> bool:
    """Return whether this is the first process."""
    return _ranks() == 1 or distributed.get_rank() == 0


def undisturbed() -> contextlib.AbstractContextManager[object]:
    """Return a context in which code runs in this process alone, with random numbers of its own."""
    return alone()


@contextlib.contextmanager
def alone(seed: int | None = None) -> Iterator[None]:
    """Run code in this process alone, with the random numbers of `seed`.

    If `seed` is None, those of the context around this one go on, or else are those of seed 0.

    `keras.layers.Dropout` without a seed draws from the generator that also shuffles the data.
    """
    before, _state.alone = getattr(_state, "alone", False), True
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            if not before or seed is not None:
                torch.manual_seed(seed or 0)
            yield
    finally:
        _state.alone = before


def _ranks() -> int:
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()
