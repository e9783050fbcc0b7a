import re

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from kbn.callbacks import CovariateShift, GradientShift
from kbn.callbacks.probing.probe_data import first_batch, first_samples

X, Y = np.arange(30.0).reshape(10, 3), np.arange(10)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[3 * index : 3 * index + 3], Y[3 * index : 3 * index + 3]


@pytest.mark.parametrize(
    "data",
    [
        X, (X, Y), (X, Y, Y), tf.constant(X), tf.data.Dataset.from_tensor_slices((X, Y)).batch(3),
        tf.data.Dataset.from_tensor_slices(X).batch(4).repeat(), Batches(),
    ],
    ids=["array", "xy", "xyw", "tensor", "dataset_xy", "dataset_endless", "pydataset"],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7])
def test_the_first_samples_of_any_data(data, size):
    np.testing.assert_array_equal(first_samples(data, size), X[:size])


def test_if_there_are_too_few_samples_all_are_kept():
    assert first_samples(Batches(), 256).shape == (10, 3)


def test_several_inputs_keep_their_structure():
    assert {k: v.shape for k, v in first_samples({"a": X, "b": Y}, 4).items()} == {
        "a": (4, 3),
        "b": (4,),
    }
    assert [x.shape for x in first_samples(([X, Y], Y), 4)] == [(4, 3), (4,)]


WEIGHTS = np.linspace(0, 1, 10)
XYW = tf.data.Dataset.from_tensor_slices((X, Y, WEIGHTS)).batch(4)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (X, (X, None, None)), ((X,), (X, None, None)), ((X, Y), (X, Y, None)),
        ((X, Y, WEIGHTS), (X, Y, WEIGHTS)), ((X, None, WEIGHTS), (X, None, WEIGHTS)),
        ((X, Y, None), (X, Y, None)), (Batches(), (X, Y, None)), (XYW, (X, Y, WEIGHTS)),
        (tf.data.Dataset.from_tensor_slices(X).batch(4).repeat(), (X, None, None)),
    ],
    ids=["x", "x_alone", "xy", "xyw", "xw", "xy_none", "pydataset", "dataset_xyw", "dataset_x"],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7])
def test_targets_and_weights_come_along(data, parts, size):
    found = first_batch(data, size)
    for one, expected in zip(found, parts, strict=True):
        assert (one is None) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(one, expected[:size])
            assert isinstance(one, np.ndarray)


def test_several_targets_keep_their_structure():
    found = first_batch(([X, Y], {"a": Y, "b": X}), 4)
    assert [x.shape for x in found.x] == [(4, 3), (4,)]
    assert {name: y.shape for name, y in found.y.items()} == {"a": (4,), "b": (4, 3)}
    assert found.sample_weight is None


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((X, Y[:4]), ValueError, "same number of samples. Received: [4, 10]"),
        ((np.tile(X, (60, 1)), np.tile(Y, 50)), ValueError, "samples. Received: [500, 600]"),
        ((X, Y, WEIGHTS[:3]), ValueError, "same number of samples. Received: [3, 10]"),
        ((X, Y, Y, Y), ValueError, "(x, y) or (x, y, sample_weight). Received: probe_data=tuple"),
        ((X[:0], Y[:0]), ValueError, "at least one sample"),
        ((X, 3), TypeError, "Received: probe_data=tuple"),
        ((), ValueError, "(x, y) or (x, y, sample_weight). Received: probe_data=tuple"),
        (3, TypeError, "Received: probe_data=int (3)"),
    ],
    ids=["y", "beyond_the_probe", "weights", "four", "empty", "scalar_y", "nothing", "scalar"],
)
def test_data_that_is_no_batch_raises(data, error, message):
    with pytest.raises(error, match=re.escape(message)):
        first_batch(data, 256)


RAGGED = tf.ragged.constant([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (X[:0], ValueError, "at least one sample. Received: probe_data=ndarray (shape (0, 3))"),
        (tf.data.Dataset.from_tensor_slices(X[:0]).batch(2), ValueError, "at least one sample"),
        ((), ValueError, "(x, y) or (x, y, sample_weight). Received: probe_data=tuple"),
        ((X, Y, Y, Y), ValueError, "(shape (10,)), ndarray (shape (10,))), a tuple of 4"),
        ([], TypeError, "Received: [], without an array"),
        (3, TypeError, "Received: probe_data=int (3)"),
        (None, TypeError, "Received: probe_data=NoneType"),
        (iter([X]), TypeError, "Received: probe_data=list_iterator"),
        ({"a": X, "b": Y[:4]}, ValueError, "same number of samples. Received: [4, 10]"),
        (RAGGED, TypeError, "padded to one size (to_tensor()). Received: probe_data=RaggedTensor"),
        (tf.data.Dataset.from_tensor_slices(RAGGED).batch(2), TypeError, "(to_tensor())"),
        (np.array([[1, 2], [3]], object), TypeError, "an array of ['list']"),
        (tf.sparse.from_dense(X), TypeError, "made dense (tf.sparse.to_dense). Received: probe_"),
        (scipy.sparse.csr_matrix(X), TypeError, "made dense (toarray()). Received: probe_data=csr"),
    ],
)
def test_data_that_is_no_probe_raises(data, error, message):
    with pytest.raises(error, match=re.escape(message)):
        first_samples(data, 256)


def uneven(*shapes):
    """Return a data set of inputs with these shapes, and of targets with one value."""
    signature = tf.TensorSpec((None,) * len(shapes[0])), tf.TensorSpec((None, 1))
    batches = [(np.ones(shape, "float32"), np.ones((shape[0], 1), "float32")) for shape in shapes]
    return tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)


def test_uneven_batches_are_kept_if_one_is_enough():
    assert first_samples(uneven((2, 3), (2, 4)), 2).shape == (2, 3)


@pytest.mark.parametrize("take", [first_samples, first_batch])
def test_uneven_batches_raise_if_several_are_needed(take):
    message = (
        "All batches of probe_data must have the same shape after the samples axis: pad them to "
        "one size, or choose a probe_size of at most one batch, 2 here. Received: probe_data="
    )
    with pytest.raises(ValueError, match=re.escape(message) + r".*\[\(3,\), \(4,\)\]$"):
        take(uneven((2, 3), (2, 4)), 256)


@pytest.mark.thorough
def test_strings_are_for_models_that_take_strings(tmp_path):
    words = np.array(["a b", "b c c"])
    vectorize = keras.layers.TextVectorization(output_mode="multi_hot", vocabulary=["a", "b", "c"])
    model = keras.Sequential([vectorize, keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    # The activations after TextVectorization have no static shape, but the gradients do.
    shift = GradientShift(tmp_path, (words, np.array([[1.0], [0.0]])))
    data = tf.data.Dataset.from_tensor_slices((words, [[1.0], [0.0]])).batch(2)
    model.fit(data, shuffle=False, verbose=0, callbacks=[shift])
    assert {row.layer for row in shift.history} == {"dense", "dense_1", "record"}
    numbers = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    numbers.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"probe_data of shape \(2,\) of strings \(including"):
        numbers.fit(
            np.ones((2, 4)), np.ones((2, 1)), callbacks=[CovariateShift(tmp_path / "log", words)]
        )
