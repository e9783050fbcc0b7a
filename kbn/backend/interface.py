"""The functions that kbn needs from a backend, in addition to `keras.ops`.

A backend is a package `kbn.backend.<name>` with these functions; `<name>` is Keras's name for it.
No code outside this package imports its array library.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol, TypeAlias

import numpy as np

from kbn.common.types import Nested, Tensor

if TYPE_CHECKING:
    import keras

Mapping: TypeAlias = "list[tuple[keras.Variable, Tensor]]"
"""Pairs of a Keras variable and its value inside a compiled function, for `StatelessScope`.

The list is empty if the backend's compiled functions read variables themselves. Scopes do not
nest, so a function passes the mapping on to every scope that it opens.
"""


class Kernel(NamedTuple):
    """The backend's own kernel for batch normalization, for inputs of some dtype.

    Attributes:
        obstacle: why the kernel cannot be used now, as a readable clause; None if it can.
        description: which kernel runs, as a readable clause; "" if there is an obstacle.
        exact: whether its moments are exact if the mean is far from 0.
    """

    obstacle: str | None
    description: str = ""
    exact: bool = False


class Compiled(Protocol):
    """A compiled function of structures of arrays that returns a structure of NumPy arrays."""

    def __call__(self, *varying: Nested) -> Nested:
        """Run the function."""

    def only(self, select: Callable[[Nested], Nested], *varying: Nested) -> "Compiled":
        """Return a function of the part `select(outputs)` that computes nothing else.

        Args:
            select: function from the outputs to a part of them.
            varying: structures like those that calls will pass.
        """


class Backend(Protocol):
    """The functions of a backend."""

    # Gradients

    def differentiable(
        self,
        forward: Callable[..., tuple[Tensor, ...]],
        backward: Callable[..., tuple[Tensor, ...]],
    ) -> Callable[..., tuple[Tensor, ...]]:
        """Return `forward` with `backward` as its gradient.

        Args:
            forward: function from tensors to a tuple of tensors.
            backward: function of the tuple of `forward`'s arguments and of one cotangent per
                output. It returns one cotangent per argument, and can be differentiated itself.
        """

    def value_and_gradients(
        self, function: Callable[[list[Tensor]], Tensor], values: list[Tensor], scale: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Return `function(values)`, a scalar, and its gradient for each value.

        The gradient is 0 for a value that the scalar does not depend on. A compiled function may
        return gradients, all or some, but must not compute with them.

        Args:
            function: function from `values` to a scalar.
            values: tensors.
            scale: loss scale. The scalar is multiplied by it before differentiation, so that small
                gradients do not underflow, and the gradients are divided by it afterwards.
        """

    # Compiling

    def compile_for(
        self,
        function: Callable[..., Nested],
        variables: Sequence["keras.Variable"],
        inputs: Nested,
        *varying: Nested,
        eagerly: bool = False,
    ) -> Compiled:
        """Compile `function(mapping, inputs, *varying)` and return a function of `*varying`.

        Errors of `function` are raised here. `function` is only traced, not run, unless `eagerly`.

        Args:
            function: function of a `Mapping` and tensors that returns a structure of tensors.
            variables: the Keras variables that `function` reads.
            inputs: structure of NumPy arrays, the same in every call.
            varying: structures like those that calls will pass, of arrays, tensors or variables.
            eagerly: whether the model must run eagerly. If so, `function` is run once here, and
                again by every call.
        """

    def compile_for_batches(
        self,
        function: Callable[..., Nested],
        variables: Sequence["keras.Variable"],
        *,
        eagerly: bool = False,
    ) -> Callable[[Nested], Nested]:
        """Compile `function(mapping, inputs)` for inputs of any batch size, on first use.

        Args:
            function: as for `compile_for`.
            variables: the Keras variables that `function` reads.
            eagerly: whether the model must run eagerly.
        """

    def shared(self, function: Callable[[Tensor], Nested]) -> Callable[[Tensor], Nested]:
        """Return `function` in a form that a program contains once, for any number of calls."""

    def current_trace(self) -> object:
        """Return a token of the current trace. The body of a loop has a token of its own.

        Compare tokens by `==`.
        """

    # Runs outside the training step

    def undisturbed(self) -> AbstractContextManager[object]:
        """Return a context for a run of the model outside the training step.

        Code inside runs once for the whole batch, even if training is distributed. It does not use
        the random generators of training.
        """

    def iterations(self, optimizer: "keras.optimizers.Optimizer") -> int:
        """Return how many steps `optimizer` has taken, read in the backend's fastest way."""

    def numpy_of(self, value: Tensor) -> np.ndarray:
        """Return a tensor, or a variable of Keras or of the backend, as an array of its own."""

    # Precision

    @property
    def COUNTER(self) -> str:  # noqa: N802 - a constant
        """The dtype for counts: int64, or int32 if the backend has no int64."""

    def in_double(self) -> AbstractContextManager[object]:
        """Return a context in which float64 is float64, also inside a trace.

        Outside, JAX computes in float32 instead.
        """

    # Replicas

    def several_replicas(self) -> bool:
        """Return whether the current code runs on one of several replicas."""

    def gather(self, rows: Tensor) -> Tensor:
        """Return `rows`, (k, C), of all R replicas as (R, k, C), the same on every replica."""

    def is_chief(self, model: "keras.Model") -> bool:
        """Return whether this process writes for all workers that train `model`."""

    # Normalization

    def kernel(self, dtype: str) -> Kernel:
        """Return whether the backend's own kernel can be used now for inputs of `dtype`."""

    def normalize_batch(
        self, x: Tensor, axis: int, gamma: Tensor, beta: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return γ·(x − μ_B)/√(σ_B² + ε) + β, μ_B and m/(m−1)·σ_B² (σ_B² if m is 1).

        Args:
            x: tensor of rank ≥ 1, of a dtype that `kernel` supports; the output has the same.
            axis: the channel axis, not negative.
            gamma: (C,) float32.
            beta: (C,) float32.
            epsilon: ε.
        """

    def normalize(
        self,
        x: Tensor,
        axis: int,
        gamma: Tensor,
        beta: Tensor,
        mean: Tensor,
        variance: Tensor,
        epsilon: float,
    ) -> Tensor:
        """Return γ·(x − mean)/√(variance + ε) + β for given (C,) float32 statistics."""

    def sum_terms(
        self,
        terms: Callable[..., tuple[Tensor, Tensor]],
        activations: Sequence[Tensor],
        pivot: Tensor,
        axes: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        """Return the sums of both results of `terms(*activations, pivot)` over `axes`.

        Args:
            terms: an elementwise function that returns two tensors.
            activations: tensors of the same shape.
            pivot: tensor that broadcasts to them, of size 1 along `axes`.
            axes: the axes to reduce; they are kept with size 1.
        """

    # State

    def carried_mask(self, x: Tensor) -> Tensor | None:
        """Return the mask that the tensor `x` carries, such as from `Masking`, or None."""

    @property
    def HiddenState(self) -> type:  # noqa: N802 - a class
        """A base class for layers that update `_hidden_variables()`, which are not weights.

        The variables are updated in training, and in exported training functions.
        """


class MissingCapabilityError(NotImplementedError):
    """The backend does not support a capability."""


def missing(capability: str, who: str) -> Callable[..., NoReturn]:
    """Return a replacement for a function that a backend lacks.

    A call raises MissingCapabilityError, which names the capability and the backend.

    Args:
        capability: what is not supported, as the beginning of a sentence.
        who: what needs it.
    """

    def refuse(*_: object, **__: object) -> NoReturn:
        import keras

        name = keras.backend.backend()
        raise MissingCapabilityError(
            f"{capability} is not supported on Keras's {name} backend: use TensorFlow, JAX or "
            f"PyTorch for {who}. Received: KERAS_BACKEND={name!r}"
        )

    return refuse
