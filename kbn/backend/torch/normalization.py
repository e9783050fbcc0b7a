"""Batch normalization by kbn's CPU kernels, which get pointers to the tensors' data."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from keras import ops

from kbn.backend.interface import Kernel
from kbn.backend.torch import native_kernels
from kbn.common.types import Tensor


def kernel(dtype: str) -> Kernel:
    """Return whether kbn's kernels can be used now for inputs of `dtype`."""
    if dtype not in native_kernels.TYPES:
        return Kernel(f"the fused kernel does not support {dtype}")
    if torch.compiler.is_compiling():
        return Kernel("torch.compile compiles the portable path")
    device = ops.empty(()).device.type  # that of Keras, which `keras.device` may change
    if device != "cpu":
        return Kernel(f"kbn's kernels run on CPUs, and the device is {device}")
    reason = native_kernels.load().reason
    if reason:
        return Kernel(f"kbn's CPU kernels cannot be used: {reason}")
    return Kernel(None, "kbn's CPU kernels", exact=True)


def normalize_batch(
    x: Tensor, axis: int, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return γ·(x − μ_B)/√(σ_B² + ε) + β, μ_B and m/(m−1)·σ_B² (σ_B² if m is 1)."""
    outputs, mean, variance = _run(x, axis, gamma, beta, (), epsilon)
    m = x.numel() // max(x.shape[axis], 1)
    return outputs, mean, variance * (m / max(m - 1, 1))


def normalize(
    x: Tensor,
    axis: int,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
) -> Tensor:
    """Return γ·(x − mean)/√(variance + ε) + β for given (C,) float32 statistics."""
    statistics = [each.detach().contiguous() for each in (mean, variance)]
    return _run(x, axis, gamma, beta, statistics, epsilon)[0]


class _Call(NamedTuple):
    """How to normalize.

    Attributes:
        axis: the channel axis, not negative.
        epsilon: ε.
        training: whether the moments are those of the batch.
    """

    axis: int
    epsilon: float
    training: bool


def _run(
    x: Tensor,
    axis: int,
    gamma: Tensor,
    beta: Tensor,
    statistics: Sequence[Tensor],
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs, mean and biased variance: those of the batch if no statistics are given."""
    call = _Call(axis, epsilon, not statistics)
    x, gamma, beta = _dense(x), gamma.contiguous(), beta.contiguous()
    mean, variance = statistics or (torch.empty_like(gamma), torch.empty_like(gamma))
    return _Normalization.apply(call, x, gamma, beta, mean, variance)


class _Normalization(torch.autograd.Function):
    """The kernels. The moments of the batch are constants for gradients, as in TensorFlow's op."""

    @staticmethod
    def forward(
        ctx: Any,
        call: _Call,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        mean: Tensor,
        variance: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rest = torch.zeros_like(mean)
        outputs = torch.empty_like(x)
        native_kernels.normalize(
            x, layout(x, call.axis), gamma, beta, call.epsilon, call.training,
            (mean, rest, variance), outputs,
        )  # fmt: skip
        ctx.call = call
        ctx.save_for_backward(x, gamma, beta, mean, rest, variance)
        ctx.mark_non_differentiable(mean, variance)
        return outputs, mean, variance

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        call, (x, gamma, beta, mean, rest, variance) = ctx.call, ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient will be differentiated itself
            statistics = () if call.training else (mean, variance)
            dx, dgamma, dbeta = _differentiable(call, dy, x, gamma, beta, statistics)
        else:
            dx, dgamma, dbeta = torch.empty_like(x), torch.empty_like(gamma), torch.empty_like(beta)
            native_kernels.gradients(
                x, _like(dy, x), layout(x, call.axis), gamma, call.epsilon, call.training,
                (mean, rest, variance), (dx, dgamma, dbeta),
            )  # fmt: skip
        return None, dx, dgamma, dbeta, None, None


def _differentiable(
    call: _Call, dy: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, statistics: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return the gradients of `x`, `gamma` and `beta`, by operations that have gradients."""
    given = (x, gamma, beta)
    free = [each for each in given if each.requires_grad]
    outputs = _portable(call, *given, statistics)
    found = iter(torch.autograd.grad(outputs, free, dy, create_graph=True))
    return tuple(next(found) if each.requires_grad else None for each in given)


def _portable(
    call: _Call, x: Tensor, gamma: Tensor, beta: Tensor, statistics: Sequence[Tensor]
) -> Tensor:
    axes = [i for i in range(x.ndim) if i != call.axis]
    shape = [1] * x.ndim
    shape[call.axis] = -1
    if statistics:
        mean, variance = (each.reshape(shape) for each in statistics)
        deviation = x.float() - mean
    else:
        deviation = x.float() - x.float().mean(axes, keepdim=True).detach()
        deviation = deviation - deviation.mean(axes, keepdim=True)  # exact, because it is small
        variance = deviation.square().mean(axes, keepdim=True)
    outputs = deviation * torch.rsqrt(variance + call.epsilon)
    return (outputs * gamma.reshape(shape) + beta.reshape(shape)).to(x.dtype)


def layout(x: Tensor, axis: int) -> tuple[int, int, int]:
    """Return a dense tensor's shape (outer, C, inner) in the order of its memory.

    The channel axis need not have this place among the axes: a convolution of PyTorch returns
    channels in axis 1 of the memory, and Keras moves the axis without a copy.
    """
    order = sorted(range(x.ndim), key=lambda i: (x.stride(i), -i), reverse=True)
    at = order.index(axis)
    outer, inner = ([x.shape[i] for i in part] for part in (order[:at], order[at + 1 :]))
    return math.prod(outer), x.shape[axis], math.prod(inner)


def _dense(x: Tensor) -> Tensor:
    """Return `x` in a layout without gaps and repetitions."""
    return x if _is_dense(x) else x.contiguous()


def _is_dense(x: Tensor) -> bool:
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _like(dy: Tensor, x: Tensor) -> Tensor:
    """Return `dy` in the memory layout of `x`."""
    return dy if dy.stride() == x.stride() else torch.empty_like(x).copy_(dy)
