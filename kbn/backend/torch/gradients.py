"""Custom gradients for kbn's sums, and the gradients of a model's loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from keras import tree

from kbn.common.types import Nested, Tensor

Forward = Callable[..., tuple[Tensor, ...]]


class _Custom(torch.autograd.Function):
    """A function with a gradient of its own, which can be differentiated itself."""

    @staticmethod
    def forward(ctx: Any, forward: Forward, backward: Forward, *arguments: Tensor) -> Any:
        ctx.backward = backward
        ctx.save_for_backward(*arguments)
        return forward(*arguments)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        return None, None, *ctx.backward(ctx.saved_tensors, *cotangents)


def differentiable(forward: Forward, backward: Forward) -> Forward:
    """Return `forward` with `backward` as its gradient."""

    def function(*arguments: Tensor) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled() and any(each.requires_grad for each in arguments):
            return _Custom.apply(forward, backward, *arguments)
        return forward(*arguments)

    return function


@dataclass(frozen=True, eq=False)
class _Scaled:
    """A scalar that is multiplied by a loss scale, as a function of `values`."""

    scalar: Tensor
    scale: Tensor
    values: Sequence[Tensor]

    def gradients(self, places: Sequence[int]) -> list[Tensor]:
        """Return the gradients for the values at `places`, as if there was no scale."""
        values = [self.values[place] for place in places]
        if not self.scalar.requires_grad:  # it depends on no value
            return [torch.zeros_like(value) for value in values]
        found = torch.autograd.grad(
            self.scalar, values, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return [each / self.scale.to(each.dtype) for each in found]


@dataclass(frozen=True, eq=False)
class _Pending:
    """A gradient that is not computed yet: that of `of` for its value at `place`."""

    of: _Scaled
    place: int


def value_and_gradients(
    function: Callable[[list[Tensor]], Tensor], values: list[Tensor], scale: Tensor
) -> tuple[Tensor, list[Any]]:
    """Return `function(values)`, a scalar, and its gradient for each value.

    `computed` computes the gradients, so that none is computed in vain.
    """
    with torch.enable_grad():
        values = [value.detach().requires_grad_() for value in values]
        value = function(values)
        scaled = _Scaled(value * scale.to(value.dtype), scale, values)
    return value.detach(), [_Pending(scaled, place) for place in range(len(values))]


def computed(outputs: Nested) -> Nested:
    """Return `outputs` with all gradients that are pending computed, by one pass per scalar."""
    pending: dict[int, list[_Pending]] = {}
    for each in tree.flatten(outputs):
        if isinstance(each, _Pending):
            pending.setdefault(id(each.of), []).append(each)
    found = {}
    for group in pending.values():
        gradients = group[0].of.gradients([each.place for each in group])
        found.update({id(each): one for each, one in zip(group, gradients, strict=True)})
    return tree.map_structure(lambda x: found.get(id(x), x), outputs)
