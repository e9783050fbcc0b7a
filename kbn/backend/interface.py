"""What kbn asks of a backend; everything else is `keras.ops`.

A backend is a package `kbn.backend.<name>` with these functions, by the name that Keras gives it.
Nothing outside of it names its array library.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, NoReturn, Protocol

from kbn.common.types import Nested, Tensor

Mapping = list[tuple[Any, Tensor]]
"""Pairs of a Keras variable and its value inside a compiled function, for `StatelessScope`.

Empty if the backend's compiled functions read variables themselves. Scopes do not nest, so a
function that opens one hands the mapping on to every scope that it opens.
"""


class Kernel(NamedTuple):
    """The backend's own kernel for batch normalization, for inputs of some dtype.

    Attributes:
        obstacle: why it must not be used here and now, a clause for people; None if it may.
        description: which kernel runs, a clause for people; "" if there is an obstacle.
        exact: whether its moments are exact at a mean far from 0.
    """

    obstacle: str | None
    description: str = ""
    exact: bool = False


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
            forward: takes tensors to a tuple of tensors.
            backward: takes (arguments of `forward`, *cotangents), to one cotangent per argument;
                it may be differentiated itself.
        """

    def value_and_gradients(
        self, function: Callable[[list[Tensor]], Tensor], values: list[Tensor], scale: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Return `function(values)`, a scalar, and its gradient for each value; 0 if it has none.

        Args:
            function: takes `values` to a scalar.
            values: tensors.
            scale: multiplies the scalar on the way, so that no small gradient underflows; the
                gradients are divided by it again.
        """

    # Compiling

    def compile_for(
        self,
        function: Callable[..., Nested],
        variables: Sequence[Any],
        inputs: Nested,
        *varying: Nested,
        eagerly: bool = False,
    ) -> Callable[..., Nested]:
        """Compile `function(mapping, inputs, *varying)`; return the call, which takes the rest.

        Errors of `function` are raised here; nothing is run but if `eagerly`.

        Args:
            function: takes a `Mapping` and tensors; returns a structure of tensors. float64 inside
                of it is float64 on every backend.
            variables: the Keras variables that `function` reads.
            inputs: structure of NumPy arrays, the same in every call.
            varying: structures of arrays, tensors or variables like those that calls will pass.
            eagerly: whether Python must run the model: then `function` is run here once, and again
                by every call.
        """

    def compile_for_batches(
        self, function: Callable[..., Nested], variables: Sequence[Any], *, eagerly: bool = False
    ) -> Callable[[Nested], Nested]:
        """Compile `function(mapping, inputs)` for inputs of any batch size, on first use.

        Args:
            function: as for `compile_for`.
            variables: the Keras variables that `function` reads.
            eagerly: whether Python must run the model.
        """

    def shared(self, function: Callable[[Tensor], Nested]) -> Callable[[Tensor], Nested]:
        """Return `function` as one that a program holds once, however often it is called."""

    def current_trace(self) -> object:
        """Return a token of the trace that runs now; the body of a loop has one of its own."""

    # Running beside training

    def undisturbed(self) -> AbstractContextManager[Any]:
        """Return a context for one run of the model beside training.

        Inside, the code runs once for the whole batch, whatever distributes the training, and
        draws from no random generator that training draws from.
        """

    def iterations(self, optimizer: Any) -> int:
        """Return how many steps `optimizer` has taken, as fast as the backend can read it."""

    # Replicas

    def several_replicas(self) -> bool:
        """Return whether the code that runs now is one of several replicas."""

    def gather(self, rows: Tensor) -> Tensor:
        """Return every replica's `rows`, (k, C), as (R, k, C): the same on all of them."""

    def is_chief(self, model: Any) -> bool:
        """Return whether this process writes for all workers that train `model`."""

    # Normalization

    def kernel(self, dtype: str) -> Kernel:
        """Return what the backend's own kernel can do for inputs of `dtype`, here and now."""

    def normalize_batch(
        self, x: Tensor, axis: int, gamma: Tensor, beta: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return γ·(x − μ_B)/√(σ_B² + ε) + β, μ_B and m/(m−1)·σ_B² (σ_B² if m is 1).

        Args:
            x: tensor of rank ≥ 1 of a dtype that `kernel` takes; the output has its dtype.
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
        """Return the sums over `axes`, kept as 1, of the two `terms(*activations, pivot)`.

        Args:
            terms: an elementwise function.
            activations: tensors of one shape.
            pivot: broadcastable to them, 1 along `axes`.
            axes: the axes to reduce.
        """

    # Exporting

    @property
    def ExportedState(self) -> type:  # noqa: N802 - a class
        """A base class for layers, whose `_hidden_variables()` are exported with the layer."""


class MissingCapabilityError(NotImplementedError):
    """The backend lacks what was asked for."""


def missing(capability: str, who: str) -> Callable[..., Any]:
    """Return what stands for a function that a backend lacks.

    It raises MissingCapabilityError, with the capability and the backend.

    Args:
        capability: what is not available, the beginning of a sentence.
        who: what needs it.
    """

    def refuse(*_: Any, **__: Any) -> NoReturn:
        import keras

        name = keras.backend.backend()
        raise MissingCapabilityError(
            f"{capability} is not supported on Keras's {name} backend: use TensorFlow for {who}. "
            f"Received: KERAS_BACKEND={name!r}"
        )

    return refuse
