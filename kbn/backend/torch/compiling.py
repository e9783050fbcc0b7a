"""Runs of a model outside the training step. PyTorch runs them eagerly, so nothing is compiled."""

import itertools
from collections.abc import Callable, Sequence

import keras
import torch
from keras import tree

from kbn.backend.interface import Mapping
from kbn.backend.torch.arrays import numpy_of
from kbn.backend.torch.gradients import computed
from kbn.backend.torch.replicas import alone
from kbn.common.types import Nested, Tensor

# Empty, because code that runs eagerly reads variables itself.
MAPPING: Mapping = []


class Compiled:
    """A function of structures that returns NumPy arrays."""

    def __init__(self, run: Callable[..., Nested], inputs: Nested, seed: int = 0) -> None:
        self._run, self._inputs, self._seed = run, inputs, seed

    def __call__(self, *varying: Nested) -> Nested:
        """Run the function."""
        with alone(self._seed), torch.no_grad():
            outputs = computed(self._run(self._inputs, *tree.map_structure(_tensor, varying)))
        return tree.map_structure(numpy_of, outputs)

    def only(self, select: Callable[[Nested], Nested], *varying: Nested) -> "Compiled":
        """Return a function of the part `select(outputs)`, without the gradients of the rest."""
        return Compiled(lambda *given: select(self._run(*given)), self._inputs)


def compile_for(
    function: Callable[..., Nested],
    variables: Sequence[keras.Variable],
    inputs: Nested,
    *varying: Nested,
    eagerly: bool = False,
) -> Compiled:
    """Run `function(mapping, inputs, *varying)` once and return a function of `*varying`."""
    found = Compiled(lambda *given: function(MAPPING, *given), tree.map_structure(_tensor, inputs))
    found(*varying)
    return found


def compile_for_batches(
    function: Callable[..., Nested], variables: Sequence[keras.Variable], *, eagerly: bool = False
) -> Callable[[Nested], Nested]:
    """Return a function of inputs of any batch size. Each call draws other random numbers."""
    seeds = itertools.count()

    def call(inputs: Nested) -> Nested:
        given = tree.map_structure(_tensor, inputs)
        return Compiled(lambda given: function(MAPPING, given), given, next(seeds))()

    return call


def shared(function: Callable[[Tensor], Nested]) -> Callable[[Tensor], Nested]:
    """Return `function`."""
    return function


def current_trace() -> object:
    """Return the same token everywhere: there are no traces."""
    return None


def _tensor(x: Tensor) -> Tensor:
    value = x.value if isinstance(x, keras.Variable) else x
    return keras.ops.convert_to_tensor(value)
