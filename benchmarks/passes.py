"""One pass of a layer over an activation, on the backend in use."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from benchmarks.timing import Action
from kbn import backend
from kbn.common.types import Tensor
from kbn.introspection.layer_calls import seeds

BACKEND = keras.backend.backend()
MODES = {"tensorflow": ("eager", "graph", "xla"), "jax": ("xla",), "torch": ("eager",)}
"""How the programs of each backend run. JAX is timed as `fit` runs it, compiled."""
PASSES = ("training", "inference")
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


def activations(shape: Sequence[int], dtype: str, count: int, mean: float = 0.0) -> list[Tensor]:
    """Return tensors of normal numbers with deviation 1."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, "float32") + np.float32(mean) for _ in range(count)]
    return [keras.ops.convert_to_tensor(array, dtype) for array in arrays]


def built(cls: Callable[..., Any], shape: Sequence[int], axis: int, dtype: str) -> Any:
    """Return a layer of the class, built. Its variables are float32."""
    layer = cls(axis=axis, dtype=dtype if dtype == "float32" else f"mixed_{dtype}")
    layer.build(tuple(shape))
    return layer


def action(layer: Any, x: Tensor, dy: Tensor, mode: str, what: str) -> Action:
    """Return one pass of a built layer; each call returns tensors.

    A pass of training computes outputs, new statistics, and the gradients of x, γ and β.

    Args:
        layer: a batch normalization layer of Keras or kbn.
        x: activation.
        dy: gradient of the outputs.
        mode: one of `MODES` of the backend.
        what: one of `PASSES`.
    """
    return {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[BACKEND](
        layer, x, dy, mode, what
    )


def _tensorflow(layer: Any, x: Tensor, dy: Tensor, mode: str, what: str) -> Action:
    import tensorflow as tf

    def train(x: Tensor, dy: Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        sources = [x, layer.gamma.value, layer.beta.value]
        return y, tape.gradient(y, sources, output_gradients=dy)

    def infer(x: Tensor, dy: Tensor) -> Any:  # noqa: ARG001
        return layer(x, training=False)

    run = train if what == "training" else infer
    if mode != "eager":
        # Concrete: TensorFlow warns if one line of code is traced for many layers.
        run = tf.function(run, jit_compile=mode == "xla").get_concrete_function(x, dy)
    return lambda: run(x, dy)


def _jax(layer: Any, x: Tensor, dy: Tensor, mode: str, what: str) -> Action:  # noqa: ARG001
    import jax

    kinds = layer.trainable_variables, layer.non_trainable_variables
    trainable, others = ([variable.value for variable in kind] for kind in kinds)

    def train(trainable: Any, others: Any, x: Tensor, dy: Tensor) -> Any:
        def call(trainable: Any, x: Tensor) -> Any:
            return layer.stateless_call(trainable, others, x, training=True)

        y, backward, new = jax.vjp(call, trainable, x, has_aux=True)
        return y, new, backward(dy)

    def infer(trainable: Any, others: Any, x: Tensor, dy: Tensor) -> Any:  # noqa: ARG001
        return layer.stateless_call(trainable, others, x, training=False)[0]

    run = jax.jit(train if what == "training" else infer)
    return lambda: run(trainable, others, x, dy)


def _torch(layer: Any, x: Tensor, dy: Tensor, mode: str, what: str) -> Action:  # noqa: ARG001
    import torch

    if what == "inference":

        def infer() -> Tensor:
            with torch.no_grad():
                return layer(x, training=False)

        return infer
    x = x.detach().requires_grad_()
    sources = [x, layer.gamma.value, layer.beta.value]

    def train() -> Any:
        y = layer(x, training=True)
        return y, torch.autograd.grad(y, sources, dy)

    return train


def path(layer: Any, x: Tensor, mode: str) -> str:
    """Return the path that a call of kbn's layer takes in training."""
    if (BACKEND, mode) != ("tensorflow", "xla"):
        return str(layer.execution_path(x, training=True))
    import tensorflow as tf

    found = []

    def trace(x: Tensor) -> Tensor:
        found.append(str(layer.execution_path(x, training=True)))
        return x

    tf.function(trace, jit_compile=True)(x)
    return found[0]


def forward(model: keras.Model, x: np.ndarray, *, training: bool) -> Action:
    """Return a forward pass of a model that changes nothing in it, compiled if it can be."""

    def run(mapping: Any, x: Tensor) -> Tensor:
        with keras.StatelessScope(state_mapping=[*mapping, *seeds(model)]):
            return model(x, training=training)

    return backend.compile_for(run, model.variables, x)


def wait(outputs: object) -> None:
    """Wait until the device has computed the outputs of the last actions."""
    if BACKEND == "jax":
        import jax

        jax.block_until_ready(outputs)
    elif BACKEND == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
    else:
        import tensorflow as tf

        tf.test.experimental.sync_devices()
