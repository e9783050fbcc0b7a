"""The tracing switch: the one place where kbn meets the compiler."""

import functools
import os
from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree


def compile_for(
    function: Callable[..., Any], inputs: Any, *varying: Any, eagerly: bool = False
) -> Callable[..., Any]:
    """Trace `function` once for `inputs` and return the compiled call, which takes the rest alone.

    Tracing happens here, so errors of `function` show up here too; nothing is run.

    Args:
        function: takes tensors in the structures of `inputs` and `varying`; returns a structure of
            tensors.
        inputs: structure of NumPy arrays, the same in every call.
        varying: structures of arrays, tensors or variables, as the call will take them.
        eagerly: whether not to compile, for models that Python must run: then `function` is run
            here once, in place of the trace, and again by every call.
    """
    import tensorflow as tf

    tensors, *others = tree.map_structure(tf.convert_to_tensor, (inputs, *varying))
    if eagerly:
        run = function
        function(tensors, *others)
    else:
        # Never XLA: compiling would cost more than all the records of a short run.
        traced = tf.function(function, autograph=False, jit_compile=False)
        run = traced.get_concrete_function(tensors, *others)

    def call(*arguments: Any) -> Any:
        # Structures as they were traced: with a flat list TensorFlow first prints it, for an error
        # that it drops, which takes longer than the call.
        given = tree.map_structure(tf.convert_to_tensor, arguments)
        return tf.nest.map_structure(lambda x: x.numpy(), run(tensors, *given))

    return call


def shared(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return `function` of one tensor as one that a trace holds once, however often it is called.

    Tracing and optimizing a graph take longer than running it a few times. Outside a trace it runs
    as it is: where Python runs a model, every call may have other shapes.
    """
    import tensorflow as tf

    attributes = {"_noinline": True}

    @functools.cache
    def concrete(shape: tuple[int, ...], dtype: Any) -> Callable[[Any], Any]:
        # Concrete: TensorFlow warns where a function is traced for many shapes.
        traced = tf.function(function, autograph=False, experimental_attributes=attributes)
        return traced.get_concrete_function(tf.TensorSpec(shape, dtype))

    def call(x: Any) -> Any:
        return function(x) if tf.executing_eagerly() else concrete(tuple(x.shape), x.dtype)(x)

    return call


def value_and_gradients(
    function: Callable[[list[Any]], Any], values: list[Any], scale: Any
) -> tuple[Any, list[Any]]:
    """Return `function` of `values`, and its gradient for each of them; 0 where it has none.

    Args:
        function: takes `values` to a scalar.
        values: tensors.
        scale: what the scalar is multiplied by on the way, so that no small gradient underflows.
    """
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        value = function(values)
        scaled = value * tf.cast(scale, value.dtype)
    gradients = tape.gradient(scaled, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    # Of what is looked up, as in an embedding, the gradient is a list of rows.
    dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
    return value, [gradient / tf.cast(scale, gradient.dtype) for gradient in dense]


def compiled(function: Callable[[Any], Any], *, eagerly: bool = False) -> Callable[[Any], Any]:
    """Return `function` compiled, from structures of arrays or tensors to structures of arrays.

    Traced for the first shapes it sees, and for any batch size once others come; never by XLA.

    Args:
        function: takes a structure of tensors.
        eagerly: whether not to compile: for models that Python must run.
    """
    import tensorflow as tf

    traces: dict[Any, Callable[..., Any]] = {}

    def trace_for(tensors: Any) -> Callable[..., Any]:
        exact = tree.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), tensors)
        relaxed = tree.map_structure(
            lambda x: tf.TensorSpec([None, *x.shape[1:]] if x.shape.rank else [], x.dtype), tensors
        )
        keys = [tuple(tree.flatten(specs)) for specs in (exact, relaxed)]
        known = next((traces[key] for key in keys if key in traces), None)
        if known is None:
            # Concrete functions: TensorFlow warns where one function is traced for many layers.
            specs, key = (relaxed, keys[1]) if traces else (exact, keys[0])
            traced = tf.function(function, autograph=False, jit_compile=False)
            known = traces[key] = traced.get_concrete_function(specs)
        return known

    def call(inputs: Any) -> Any:
        tensors = tree.map_structure(tf.convert_to_tensor, inputs)
        outputs = function(tensors) if eagerly else trace_for(tensors)(tensors)
        return tf.nest.map_structure(ops.convert_to_numpy, outputs)

    return call


def inside_xla() -> bool:
    """Say whether what runs now becomes, or may become, part of a program of XLA."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    if tf.executing_eagerly():
        return False
    if _compiled_by_xla():
        return True
    # Auto-clustering hands parts of a graph to XLA later, nobody knows which.
    flags = os.environ.get("TF_XLA_FLAGS", "")
    return bool(tf.config.optimizer.get_jit()) or "tf_xla_auto_jit" in flags


def computed_anew(x: Any, step: Any) -> Any:
    """Return `x` such that XLA computes nothing from it before the `step` of the loop it is in."""
    if not _compiled_by_xla():
        return x  # the barrier has no kernel elsewhere
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.python.xla import optimization_barrier

    return optimization_barrier(x, tf.convert_to_tensor(step))[0]


def _compiled_by_xla() -> bool:
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    return GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def check_backend(who: str) -> None:
    """Raise NotImplementedError where Keras does not run on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise NotImplementedError(
            f"{who} needs Keras's TensorFlow backend. "
            f"Received: KERAS_BACKEND={keras.backend.backend()!r}"
        )


def current_trace() -> Any:
    """Return a token of the trace that runs now: a loop's body has one of its own."""
    import tensorflow as tf

    return tf.compat.v1.get_default_graph()
