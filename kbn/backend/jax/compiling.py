"""Compiled runs of a model outside the training step, and the state of the current trace.

A function that JAX compiles cannot read variables: their values would become constants. So they are
arguments, and the function gets them as a `Mapping`.
"""

from collections.abc import Callable, Sequence

import jax
import jax.extend
import keras
from keras import tree

from kbn.backend.interface import Mapping
from kbn.backend.jax.arrays import numpy_of
from kbn.backend.jax.replicas import local
from kbn.common.types import Nested, Tensor

Values = list[Tensor]


class Compiled:
    """A compiled function of structures that returns NumPy arrays."""

    def __init__(
        self,
        run: Callable[..., Nested],
        variables: Sequence[keras.Variable],
        inputs: Nested,
        *varying: Nested,
    ) -> None:
        """Trace `run(values, inputs, *varying)`; its errors are raised here."""
        self._run, self._variables, self._inputs = jax.jit(run), variables, inputs
        # Variables that the trace creates get their values when the scope ends, outside of it.
        with keras.StatelessScope():
            self._lowered = self._run.lower(*self._arguments(varying))
        self._compiled: Callable[..., Nested] | None = None

    def __call__(self, *varying: Nested) -> Nested:
        """Run the function."""
        self._compiled = self._compiled or self._lowered.compile()
        return tree.map_structure(numpy_of, self._compiled(*self._arguments(varying)))

    def only(self, select: Callable[[Nested], Nested], *varying: Nested) -> "Compiled":
        """Return a function of the part `select(outputs)` that computes nothing else."""

        def run(*arguments: Nested) -> Nested:
            # JAX takes the trace from its cache, and XLA drops what no output needs.
            return select(self._run(*arguments))

        return Compiled(run, self._variables, self._inputs, *varying)

    def _arguments(self, varying: tuple[Nested, ...]) -> tuple[Nested, ...]:
        return values_of(self._variables), self._inputs, *tree.map_structure(_array, varying)


def compile_for(
    function: Callable[..., Nested],
    variables: Sequence[keras.Variable],
    inputs: Nested,
    *varying: Nested,
    eagerly: bool = False,
) -> "Compiled | Eager":
    """Trace `function(mapping, inputs, *varying)` once and return a function of `*varying`."""
    run, variables = _with_values(function, variables), list(variables)
    if not eagerly:
        return Compiled(run, variables, inputs, *varying)
    found = Eager(run, variables, inputs)
    found(*varying)
    return found


class Eager:
    """The same for a model that must run eagerly."""

    def __init__(
        self, run: Callable[..., Nested], variables: Sequence[keras.Variable], inputs: Nested
    ) -> None:
        self._run, self._variables, self._inputs = run, variables, inputs

    def __call__(self, *varying: Nested) -> Nested:
        """Run the function."""
        inputs, *others = tree.map_structure(_tensor, (self._inputs, *varying))
        return tree.map_structure(numpy_of, self._run(values_of(self._variables), inputs, *others))

    def only(self, select: Callable[[Nested], Nested], *varying: Nested) -> "Eager":
        """Return a function of the part `select(outputs)`."""
        return Eager(lambda *given: select(self._run(*given)), self._variables, self._inputs)


def compile_for_batches(
    function: Callable[..., Nested], variables: Sequence[keras.Variable], *, eagerly: bool = False
) -> Callable[[Nested], Nested]:
    """Compile `function(mapping, inputs)` on first use, once for every shape of the inputs."""
    run, variables = _with_values(function, variables), list(variables)
    compiled = run if eagerly else jax.jit(run)

    def call(inputs: Nested) -> Nested:
        given = tree.map_structure(_tensor if eagerly else _array, inputs)
        return tree.map_structure(numpy_of, compiled(values_of(variables), given))

    return call


def values_of(variables: Sequence[keras.Variable]) -> Values:
    """Return the values of `variables` on this process's devices."""
    return [local(variable.value) for variable in variables]


def shared(function: Callable[[Tensor], Nested]) -> Callable[[Tensor], Nested]:
    """Return `function` in a form that a program contains once, for any number of calls."""
    return jax.jit(function)


def current_trace() -> object:
    """Return a token of the current trace. The body of a loop has a token of its own."""
    return jax.extend.core.get_opaque_trace_state()


def _with_values(
    function: Callable[..., Nested], variables: Sequence[keras.Variable]
) -> Callable[..., Nested]:
    """Return a function of the variables' values in place of a `Mapping`."""
    variables = list(variables)

    def run(values: Values, *arguments: Nested) -> Nested:
        mapping: Mapping = list(zip(variables, values, strict=True))
        return function(mapping, *arguments)

    return run


def _array(x: Tensor) -> Tensor:
    """Return a variable's value; a tensor of another library as an array; others unchanged."""
    if isinstance(x, keras.Variable):
        return local(x.value)
    return x if isinstance(x, jax.Array) else numpy_of(x)


def _tensor(x: Tensor) -> Tensor:
    return keras.ops.convert_to_tensor(_array(x))
