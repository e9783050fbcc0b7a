"""torch's layer, if torch is installed."""

import importlib.util
from collections.abc import Sequence
from typing import Any

from benchmarks.timing import Action, cpus


def available() -> bool:
    """Return whether torch is installed."""
    return importlib.util.find_spec("torch") is not None


def action(shape: Sequence[int], axis: int, dtype: str, what: str, device: Any = "cpu") -> Action:
    """Return one pass of torch's layer over such an activation, in a layout that suits torch."""
    import torch

    torch.set_num_threads(cpus())
    x, dy = (_activation(torch, shape, axis, dtype).to(device) for _ in range(2))
    layer = _layer(x)
    if what == "inference":
        layer.eval()

        def infer() -> Any:
            with torch.no_grad():
                return layer(x)

        return infer
    x.requires_grad_()

    def train() -> Any:
        x.grad = None
        layer.zero_grad()
        y = layer(x)
        y.backward(dy)
        return y, x.grad

    return train


def outputs(x: Any) -> Any:
    """Return the outputs of torch's layer in training, for an activation (N, C, …)."""
    return _layer(x)(x).detach()


def _layer(x: Any) -> Any:
    import torch

    kinds = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}
    layer = kinds.get(x.ndim, torch.nn.BatchNorm3d)(x.shape[1], eps=1e-3, momentum=0.01)
    return layer.to(x.device)


def _activation(torch: Any, shape: Sequence[int], axis: int, dtype: str) -> Any:
    """Return random numbers with torch's axes, (N, C, …).

    Channels are last in memory if those of kbn's input are. In 3-D they are first, because torch
    has no other layout.
    """
    x = torch.randn(*shape).to(getattr(torch, dtype))
    if axis == 1 or len(shape) == 2:
        return x
    x = x.movedim(-1, 1)
    return x.contiguous() if len(shape) == 3 else x
