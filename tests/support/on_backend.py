"""The same test on every backend: values, gradients and compiled functions."""

import functools

import keras
import numpy as np
import pytest
from keras import tree

from kbn import backend

BACKEND = keras.backend.backend()
tf = jax = torch = None
if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch

# Files whose tests run on every backend, and files for one backend. All others run on TensorFlow.
ON_EVERY_BACKEND = (
    "backend/test_interface.py",
    "backend/test_processes.py",
    "callbacks/probing/test_loss_probe.py",
    "callbacks/recording/test_steps.py",
    "callbacks/test_contract.py",
    "callbacks/test_covariate_shift.py",
    "callbacks/test_default_layers.py",
    "callbacks/test_gradient_shift.py",
    "callbacks/test_loss_landscape.py",
    "callbacks/test_moving_statistics.py",
    "callbacks/test_run_eagerly.py",
    "callbacks/test_training_loop.py",
    "callbacks/test_warnings.py",
    "callbacks/test_watching_changes_nothing.py",
    "distributions/test_sketch.py",
    "examples/test_several_machines.py",
    "introspection/test_layer_tree.py",
    "layers/test_backends_agree.py",
    "layers/test_batch_normalization.py",
    "layers/test_masks.py",
    "layers/test_oracle.py",
    "layers/test_serialization.py",
    "ops/test_channel_sums.py",
    "project/test_bench_gpu.py",
    "project/test_documents.py",
    "tools/test_recalibration.py",
)
ON_ONE_BACKEND = {"backend/test_torch_kernels.py": "torch"}
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone has this")


def array(tensor):
    """Return a tensor or a variable as an array."""
    return backend.numpy_of(tensor)


def gradient(function):
    """Return a function of tensors that returns the gradient of the scalar `function(*tensors)`.

    It can be differentiated itself.
    """

    def by_tensorflow(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            found = function(*tensors)
        return tape.gradient(found, tensors, unconnected_gradients="zero")

    def by_torch(*tensors):
        tensors = [x if x.requires_grad else x.detach().requires_grad_() for x in tensors]
        return torch.autograd.grad(
            function(*tensors),
            tensors,
            create_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )

    def by_jax(*tensors):
        return jax.grad(function, argnums=tuple(range(len(tensors))))(*tensors)

    return {"tensorflow": by_tensorflow, "torch": by_torch, "jax": by_jax}[BACKEND]


def gradient_of_variables(function, variables, others=()):
    """Return the gradient of the scalar `function()` for each variable, as arrays.

    What `function` assigns to other variables is dropped. The regularizers of `others` need their
    values.
    """
    given = [(variable, variable.value) for variable in others]

    def at(*values):
        state = [*given, *zip(variables, values, strict=True)]
        with keras.StatelessScope(state, collect_losses=True):
            return function()

    values = [keras.ops.convert_to_tensor(variable.value) for variable in variables]
    return [array(each) for each in gradient(at)(*values)]


def compiled(function, *, xla=False):
    """Return `function` compiled. On JAX this is always XLA; PyTorch runs it as it is."""
    if BACKEND == "tensorflow":
        return tf.function(function, jit_compile=xla)
    return jax.jit(function) if BACKEND == "jax" else function


def call_compiled(layer, x, mask=None, training=None):
    """Call a layer as training does: on JAX, compiled, as a function of the state."""
    if BACKEND != "jax":
        return layer(x, training=training, mask=mask)

    def call(trainable, others, x, mask):
        return layer.stateless_call(trainable, others, x, training=training, mask=mask)

    kinds = layer.trainable_variables, layer.non_trainable_variables
    outputs, state = jax.jit(call)(*([v.value for v in kind] for kind in kinds), x, mask)
    for variable, new in zip(layer.non_trainable_variables, state, strict=True):
        variable.assign(new)
    return outputs


def tensors(arrays):
    """Return a structure of arrays as one of tensors."""
    return tree.map_structure(keras.ops.convert_to_tensor, arrays)


def plain(x):
    """Return `x` as an array if it is a tensor or a variable; else unchanged."""
    return array(x) if keras.ops.is_tensor(x) or isinstance(x, keras.Variable) else x


def assert_close(actual, expected, *args, **how):
    """`numpy.testing.assert_allclose` for tensors, variables and arrays."""
    np.testing.assert_allclose(plain(actual), plain(expected), *args, **how)


def assert_equal(actual, expected, **how):
    """`numpy.testing.assert_array_equal` for tensors, variables and arrays."""
    np.testing.assert_array_equal(plain(actual), plain(expected), **how)


def own_step(model, optimizer):
    """Return a step of gradient descent on the mean squared error, as a loop without `fit` has it.

    It takes inputs and targets, and returns the loss.
    """

    def loss_of(x, y):
        return keras.ops.mean(keras.ops.square(model(x, training=True) - y))

    def on_tensorflow(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(x, y)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return {"loss": loss}

    def on_torch(x, y):
        model.zero_grad()
        loss = loss_of(*tensors((x, y)))
        loss.backward()
        gradients = [variable.value.grad for variable in model.trainable_variables]
        with torch.no_grad():
            optimizer.apply(gradients, model.trainable_variables)
        return {"loss": loss.detach()}

    def on_jax(x, y):
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
        variables = [*model.variables, *optimizer.variables]
        (loss, values) = _jax_step(model, optimizer)([each.value for each in variables], x, y)
        for variable, new in zip(variables, values, strict=True):
            variable.assign(new)
        return {"loss": loss}

    if BACKEND == "tensorflow":
        return tf.function(on_tensorflow)
    return {"torch": on_torch, "jax": on_jax}[BACKEND]


@functools.cache
def _jax_step(model, optimizer):
    """Return a compiled function from the values of all variables to the loss and new values."""

    def step(values, x, y):
        count = len(model.variables)
        state = {id(v): value for v, value in zip(model.variables, values, strict=False)}
        trainable = [state[id(each)] for each in model.trainable_variables]
        others = [state[id(each)] for each in model.non_trainable_variables]

        def loss_of(trainable):
            predicted, new = model.stateless_call(trainable, others, x, training=True)
            return keras.ops.mean(keras.ops.square(predicted - y)), new

        (loss, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable)
        trainable, of_optimizer = optimizer.stateless_apply(values[count:], gradients, trainable)
        found = zip(model.trainable_variables, trainable, strict=True)
        others = zip(model.non_trainable_variables, others, strict=True)
        new = {id(variable): value for variable, value in (*found, *others)}
        return loss, [*(new[id(each)] for each in model.variables), *of_optimizer]

    return jax.jit(step)
