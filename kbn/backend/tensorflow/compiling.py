"""Compiled runs of a model outside the training step, and the state of the current trace."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf
from keras import tree
from tensorflow.compiler.tf2xla.python.xla import optimization_barrier
from tensorflow.python.eager import context
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from kbn.backend.interface import Mapping
from kbn.backend.tensorflow.arrays import numpy_of
from kbn.common.types import Nested, Tensor

# Empty, because TensorFlow's compiled functions read variables themselves.
MAPPING: Mapping = []


class Compiled:
    """A compiled function of structures that returns NumPy arrays."""

    def __init__(self, run: Callable[..., Nested], inputs: Nested, *, eagerly: bool) -> None:
        self._run, self._inputs, self._eagerly = run, inputs, eagerly

    def __call__(self, *varying: Nested) -> Nested:
        """Run the function."""
        # Pass structures as they were traced. Given a flat list, TensorFlow first prints it for an
        # error message that it then discards, which takes longer than the call.
        given = tree.map_structure(tf.convert_to_tensor, varying)
        with _without_optimizer():
            outputs = self._run(self._inputs, *given)
        return tf.nest.map_structure(numpy_of, outputs)

    def only(self, select: Callable[[Nested], Nested], *varying: Nested) -> "Compiled":
        """Return a function of the part `select(outputs)` that computes nothing else."""

        def run(inputs: Nested, *varying: Nested) -> Nested:
            return select(self._run(inputs, *varying))

        if self._eagerly:
            return Compiled(run, self._inputs, eagerly=True)
        # TensorFlow puts the traced function in here and drops what no output needs, so the model
        # is not traced again.
        others = tree.map_structure(tf.convert_to_tensor, varying)
        part = tf.function(run, autograph=False).get_concrete_function(self._inputs, *others)
        return Compiled(part, self._inputs, eagerly=False)


def compile_for(
    function: Callable[..., Nested],
    variables: Sequence[keras.Variable],
    inputs: Nested,
    *varying: Nested,
    eagerly: bool = False,
) -> Compiled:
    """Trace `function(mapping, inputs, *varying)` once and return a function of `*varying`."""
    tensors, *others = tree.map_structure(tf.convert_to_tensor, (inputs, *varying))
    run = functools.partial(function, MAPPING)
    if eagerly:
        run(tensors, *others)
    else:
        # No XLA: compiling would take longer than all records of a short run.
        traced = tf.function(run, autograph=False, jit_compile=False)
        run = traced.get_concrete_function(tensors, *others)
    return Compiled(run, tensors, eagerly=eagerly)


def compile_for_batches(
    function: Callable[..., Nested], variables: Sequence[keras.Variable], *, eagerly: bool = False
) -> Callable[[Nested], Nested]:
    """Compile `function(mapping, inputs)` for inputs of any batch size, on first use.

    The first trace is for the exact first shapes. If other shapes follow, a trace for any batch
    size is made. XLA is not used.
    """
    run = functools.partial(function, MAPPING)
    traces: dict[tuple[tf.TensorSpec, ...], Callable[..., Nested]] = {}

    def trace_for(tensors: Nested) -> Callable[..., Nested]:
        exact = tree.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), tensors)
        relaxed = tree.map_structure(
            lambda x: tf.TensorSpec([None, *x.shape[1:]] if x.shape.rank else [], x.dtype), tensors
        )
        keys = [tuple(tree.flatten(specs)) for specs in (exact, relaxed)]
        known = next((traces[key] for key in keys if key in traces), None)
        if known is None:
            # Concrete functions, because TensorFlow warns if one is traced for many layers.
            specs, key = (relaxed, keys[1]) if traces else (exact, keys[0])
            traced = tf.function(run, autograph=False, jit_compile=False)
            known = traces[key] = traced.get_concrete_function(specs)
        return known

    def call(inputs: Nested) -> Nested:
        tensors = tree.map_structure(tf.convert_to_tensor, inputs)
        outputs = run(tensors) if eagerly else trace_for(tensors)(tensors)
        return tf.nest.map_structure(numpy_of, outputs)

    return call


@contextlib.contextmanager
def _without_optimizer() -> Iterator[None]:
    """Call functions in this thread without TensorFlow's graph optimizer.

    It makes the first call of a large function about a third longer, and later calls hardly faster.
    What a function computes for no output is dropped in any case.
    """
    current = context.context()
    options = current.function_call_options
    current.function_call_options = _unoptimized(
        options.executor_type, options.config_proto_serialized
    )
    try:
        yield
    finally:
        current.function_call_options = options


@functools.cache
def _unoptimized(executor: str | None, config: bytes) -> context.FunctionCallOptions:
    proto = tf.compat.v1.ConfigProto.FromString(config)
    rewriters = proto.graph_options.rewrite_options
    # Options of the user's own, such as mixed precision by graph rewriting, change results.
    if not rewriters.ListFields():
        rewriters.disable_meta_optimizer = True
    return context.FunctionCallOptions(executor, proto)


def shared(function: Callable[[Tensor], Nested]) -> Callable[[Tensor], Nested]:
    """Return `function` in a form that a graph contains only once, for any number of calls.

    Tracing and optimizing a graph take longer than running it a few times. Outside a trace,
    `function` runs unchanged, because every call of an eager model may have other shapes.
    """
    attributes = {"_noinline": True}

    @functools.cache
    def concrete(shape: tuple[int, ...], dtype: tf.DType) -> Callable[[Tensor], Nested]:
        # A concrete function, because TensorFlow warns if one is traced for many shapes.
        traced = tf.function(function, autograph=False, experimental_attributes=attributes)
        return traced.get_concrete_function(tf.TensorSpec(shape, dtype))

    def call(x: Tensor) -> Nested:
        return function(x) if tf.executing_eagerly() else concrete(tuple(x.shape), x.dtype)(x)

    return call


def current_trace() -> object:
    """Return the graph that is being built. The body of a loop has a graph of its own."""
    return tf.compat.v1.get_default_graph()


def inside_xla() -> bool:
    """Return whether the current code becomes, or may become, part of an XLA program."""
    if tf.executing_eagerly():
        return False
    if _compiled_by_xla():
        return True
    # Auto-clustering passes parts of a graph to XLA later; which parts is not yet decided here.
    flags = os.environ.get("TF_XLA_FLAGS", "")
    return bool(tf.config.optimizer.get_jit()) or "tf_xla_auto_jit" in flags


def runs_on_cpu() -> bool:
    """Return whether the current code runs, or will be compiled by XLA, on a CPU.

    It runs on the device of the current `tf.device` scope. Outside such a scope, it runs on a GPU
    or TPU if there is one.
    """
    scope = _device_type(context.context().device_name or "")
    if scope is not None:
        return scope == "CPU"
    return all(device.device_type == "CPU" for device in tf.config.list_logical_devices())


@functools.cache
def _device_type(name: str) -> str | None:
    return tf.DeviceSpec.from_string(name).device_type


def computed_anew(x: Tensor, step: Tensor) -> Tensor:
    """Return `x` such that XLA computes nothing from it before `step` of the current loop."""
    if not _compiled_by_xla():
        return x  # only XLA implements the barrier
    return optimization_barrier(x, tf.convert_to_tensor(step))[0]


def _compiled_by_xla() -> bool:
    return bool(GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))
