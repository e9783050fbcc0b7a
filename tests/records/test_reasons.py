"""The reason of an error on one line: of errors that TensorFlow, Keras and Python really raise."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from kbn.records.reasons import LONGEST, reason


def caught(action):
    with pytest.raises(Exception) as found:  # noqa: PT011 - which one it is, each case says
        action()
    return found.value


def graph(function, *arguments, **options):
    return lambda: tf.function(function, **options)(*arguments)


def checked(x):
    with tf.control_dependencies([tf.debugging.Assert(x < 1, ["too large", x])]):
        return tf.identity(x)


def raising(values):
    raise RuntimeError("not today\nnor tomorrow")


class Refusing(keras.layers.Layer):
    def call(self, x):
        raise ValueError("not\ttoday.\nmore")

    def compute_output_spec(self, x):
        return x


WIDE = tf.ones((2, 5))
ANY = [tf.TensorSpec([None, None])]
CASES = {
    "InvalidArgumentError: Matrix size-incompatible: In[0]: [2,4], In[1]: [5,2]":
        graph(lambda x: tf.linalg.matmul(x, tf.ones((5, 2))), tf.ones((2, 4)), input_signature=ANY),
    "InvalidArgumentError: assertion failed: [too large] [2]":
        graph(checked, tf.constant(2)),
    "UnknownError: RuntimeError: not today":
        graph(lambda x: tf.numpy_function(raising, [x], tf.float32), tf.ones(2)),
    "RuntimeError: not today": lambda: raising(0),
    "NameError: name 'undefined' is not defined": graph(lambda: undefined),  # noqa: F821
    "ValueError: Dimensions must be equal, but are 4 and 5 for 'MatMul = MatMul":
        graph(lambda x: tf.linalg.matmul(x, tf.ones((5, 2))), tf.ones((2, 4))),
    "ValueError: Input 0 with name 'None' of layer 'd' is incompatible with the layer: expected":
        lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="d")])(WIDE),
    "ValueError: not today": lambda: Refusing()(np.ones((2, 3))),
    "UnimplementedError: File system scheme 'foo' not implemented (file: 'foo://x')":
        lambda: tf.io.gfile.makedirs("foo://x"),
    "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere'":
        lambda: Path("/nowhere").read_text(),
    "KeyError: 'a'": lambda: {}["a"],
}  # fmt: skip


@pytest.mark.parametrize("expected", CASES)
def test_the_line_that_says_what_is_wrong(expected):
    found = reason(caught(CASES[expected]))
    assert found.startswith(expected)
    assert "\n" not in found
    assert len(found) <= LONGEST


@pytest.mark.parametrize(("error", "expected"), [
    (MemoryError(), "MemoryError"),
    (ValueError("  \n\n "), "ValueError"),
    (ValueError("a:\n b\nc"), "ValueError: a: b"),
    (ValueError("x" * 999), f"ValueError: {'x' * (LONGEST - 13)}…"),
    (ValueError('File "a.py", line 1\n'), "ValueError"),
    (KeyError("in user code:\n\n\x1b[1mno 'b'\x1b[0m"), "KeyError: no 'b'"),
])  # fmt: skip
def test_messages_of_other_forms(error, expected):
    assert reason(error) == expected
