"""TensorFlow's compiled runs, beside training."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from kbn import backend

X = np.ones((2, 3), "float32")


def options():
    return context.context().function_call_options


def optimizer_is_off(seen):
    proto = tf.compat.v1.ConfigProto.FromString(seen.config_proto_serialized)
    return proto.graph_options.rewrite_options.disable_meta_optimizer


@pytest.fixture
def seen(monkeypatch):
    """The options under which functions were called."""
    found = []

    def spied(outputs):
        found.append(options())
        return outputs

    def compiled():
        run = backend.compile_for(lambda mapping, x: x * 2, [], X)
        original = run._run
        run._run = lambda *given: spied(original(*given))
        return run

    return compiled, found


def test_the_graph_optimizer_is_off_in_calls_alone(seen):
    compiled, found = seen
    before = options()
    np.testing.assert_array_equal(compiled()(), 2 * X)
    assert optimizer_is_off(found[0])
    assert options() is before
    assert not optimizer_is_off(options())


def test_the_users_own_optimizer_options_are_kept(seen):
    compiled, found = seen
    tf.config.optimizer.set_experimental_options({"constant_folding": False})
    try:
        compiled()()
        assert found[0].config_proto_serialized == options().config_proto_serialized
    finally:
        context.context()._optimizer_experimental_options = {}
        context.context().function_call_options = None


def test_options_are_restored_after_an_error():
    def fails(mapping, x):
        with tf.control_dependencies([tf.debugging.assert_less(x, 0.0, "negative alone")]):
            return tf.identity(x)

    before = options()
    run = backend.compile_for(fails, [], X)
    with pytest.raises(tf.errors.InvalidArgumentError, match="negative alone"):
        run()
    assert options() is before


def test_what_no_output_needs_is_dropped_without_the_optimizer():
    """A part of a function costs only its own operations."""
    calls = []

    def costly(x):
        calls.append(1)
        return x

    def both(mapping, x):
        return x + 1, tf.numpy_function(costly, [x], tf.float32, stateful=False)

    run = backend.compile_for(both, [], X)
    np.testing.assert_array_equal(run.only(lambda outputs: outputs[0])(), X + 1)
    assert calls == []
    run()
    assert calls == [1]
