"""Which values a mask selects: masks that tensors carry, and masks in the argument."""

import contextlib
import itertools
import re

import keras
import numpy as np
import pytest
from keras import layers

import kbn
from kbn import backend
from tests.support.ids import plain
from tests.support.on_backend import array, assert_close, assert_equal, on_tensorflow, tf
from tests.support.oracle import BatchNormalizationOracle

SQUARE = (3, 3, 3, 3, 3)
UNEVEN = (4, 3, 5, 2, 6)


def shapes():
    """Return every rank, axis and rank of a mask, with equal sizes and with different ones."""
    for sizes, rank in itertools.product((SQUARE, UNEVEN), range(2, 6)):
        for axis, mask_rank in itertools.product(range(rank), range(1, rank + 1)):
            yield sizes[:rank], axis, mask_rank


def every_mask(test, cases=None):
    cases = cases or list(shapes())
    test = pytest.mark.parametrize(("shape", "axis", "mask_rank"), cases, ids=plain)(test)
    return pytest.mark.basic("(3, 3, 3)-1-*", "(4, 3, 5, 2)-2-[13]")(test)


def every_mask_of_keras_s_layer(test):
    return every_mask(test, [case for case in shapes() if case[2] == len(case[0]) - 1])


def values(shape, seed=0):
    return np.random.default_rng(seed).normal(3, 2, shape).astype("float32")


def drawn(shape, seed=1):
    return np.random.default_rng(seed).random(shape) < 0.6


def carried(x, mask):
    """Return `x` as a tensor that carries `mask`, as the outputs of `Masking` do."""
    tensor = keras.ops.convert_to_tensor(x)
    tensor._keras_mask = keras.ops.convert_to_tensor(mask)
    return tensor


def leading(mask, shape):
    """Return `mask` on the leading axes of `shape`, the channel axis included."""
    return np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


def without_channels(mask, shape, axis):
    """Return `mask` on the leading axes of `shape` without the channel axis."""
    others = [size for i, size in enumerate(shape) if i != axis]
    full = np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(others) - mask.ndim)), others)
    return np.broadcast_to(np.expand_dims(full, axis), shape)


def by_hand(mask, shape, axis):
    """Return what a mask in the argument selects, by the reading that the docs prefer."""
    if mask.ndim == len(shape):
        return mask
    others = [size for i, size in enumerate(shape) if i != axis]
    fits = mask.shape == tuple(others[: mask.ndim])
    return without_channels(mask, shape, axis) if fits else leading(mask, shape)


def assert_uses(layer, inputs, x, kept, axis, **arguments):
    """Check moments, moving statistics and outputs against the oracle with the mask `kept`."""
    oracle = BatchNormalizationOracle(x.shape[axis], axis)
    outputs = layer(inputs, training=True, **arguments)
    expected = oracle(x, True, where=kept)
    assert_close(array(outputs)[kept], expected[kept], atol=2e-5)
    assert_equal(array(outputs)[~kept], 0)
    assert_close(layer.moving_mean, oracle.mean, rtol=1e-5, atol=1e-6)
    assert_close(layer.moving_variance, oracle.variance, rtol=1e-5)


def test_a_carried_mask_with_axis_1_has_keras_s_axes():
    z = np.array([[[1, 1], [5, 5]], [[3, 3], [0, 0]]], "float32")  # the second sample: one step
    layer = kbn.BatchNormalization(axis=1, momentum=0.0)
    layer(layers.Masking(0.0)(z), training=True)
    assert_close(layer.moving_mean, [2, 5], rtol=1e-6)


def test_a_carried_mask_with_axis_1_need_not_be_square():
    model = keras.Sequential([layers.Embedding(9, 4, mask_zero=True), kbn.BatchNormalization(1)])
    assert model(np.ones((2, 5), int), training=True).shape == (2, 5, 4)


@every_mask
def test_a_carried_mask_has_the_leading_axes(shape, axis, mask_rank):
    x, mask = values(shape), drawn(shape[:mask_rank])
    kept = leading(mask, shape)
    assert_uses(kbn.BatchNormalization(axis), carried(x, mask), x, kept, axis)


@every_mask
def test_a_mask_by_hand_has_the_leading_axes_without_the_channels(shape, axis, mask_rank):
    others = tuple(size for i, size in enumerate(shape) if i != axis)
    mask = drawn(others[:mask_rank] if mask_rank < len(shape) else shape)
    kept = by_hand(mask, shape, axis)
    x = values(shape)
    assert_uses(kbn.BatchNormalization(axis), x, x, kept, axis, mask=mask)


@every_mask
def test_a_mask_by_hand_may_have_keras_s_axes_if_it_fits_no_others(shape, axis, mask_rank):
    x, mask = values(shape), drawn(shape[:mask_rank])
    kept = by_hand(mask, shape, axis)
    assert_uses(kbn.BatchNormalization(axis), x, x, kept, axis, mask=mask)


@every_mask_of_keras_s_layer
def test_keras_s_layer_reads_carried_masks_the_same_way(shape, axis, mask_rank):
    x, mask = values(shape), drawn(shape[:mask_rank])
    ours = kbn.BatchNormalization(axis, momentum=0.5, unbiased_variance=False)
    keras_s = layers.BatchNormalization(axis, momentum=0.5)
    for layer in (ours, keras_s):
        layer(carried(x, mask), training=True)
    others = tuple(i for i in range(len(shape)) if i != axis)
    some = leading(mask, shape).any(others)  # Keras's layer moves empty channels towards 0
    for one, other in zip(ours.get_weights(), keras_s.get_weights(), strict=True):
        assert_close(one[some], other[some], rtol=1e-4, atol=1e-5)


IDS = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0], [1, 0, 0, 0, 0]])
STEPS = IDS != 0
FEATURES = np.where(STEPS[..., None], values((3, 5, 4)), 0)
MODELS = {
    "masking": (FEATURES, [layers.Masking, lambda: layers.Dense(4)]),
    "embedding": (IDS, [lambda: layers.Embedding(9, 4, mask_zero=True)]),
    "recurrent": (
        IDS,
        [
            lambda: layers.Embedding(9, 4, mask_zero=True),
            lambda: layers.LSTM(4, return_sequences=True),
        ],
    ),
    "nested": (IDS, [lambda: keras.Sequential([layers.Embedding(9, 4, mask_zero=True)])]),
}
CLASSES = {
    "kbn": lambda axis: kbn.BatchNormalization(axis, momentum=0.5, unbiased_variance=False),
    "keras": lambda axis: layers.BatchNormalization(axis, momentum=0.5),
}


def moved(name, make, axis, in_fit):
    """Return the moving statistics after one batch."""
    x, parts = MODELS[name]
    x = x[:, :4]  # as many steps as features, so that the shape does not say which is which
    keras.utils.set_random_seed(0)
    layer = make(axis)
    model = keras.Sequential([*(part() for part in parts), layer])
    if in_fit:
        model.compile(keras.optimizers.SGD(0.0), "mse")
        model.fit(x, np.zeros((3, 4, 4)), batch_size=3, verbose=0)
    else:
        model(x, training=True)
    return [array(layer.moving_mean), array(layer.moving_variance)]


@pytest.mark.parametrize("in_fit", [False, True], ids=["called", "in fit"])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.basic("embedding-1-*")
def test_masks_of_keras_s_layers_mean_what_keras_s_normalization_reads(name, axis, in_fit):
    ours, keras_s = (moved(name, make, axis, in_fit) for make in CLASSES.values())
    assert_close(ours, keras_s, rtol=1e-4, atol=1e-5)
    assert np.abs(ours[0]).max() > 0


@pytest.mark.basic("*float16")
@pytest.mark.parametrize("dtype", ["mixed_float16", "float64"])
@pytest.mark.parametrize(
    "options", [{"virtual_batch_size": 2}, {"renorm": True}, {"momentum": None}]
)
def test_a_carried_mask_on_every_path(options, dtype):
    x, mask = values((4, 4, 3)), drawn((4, 4))
    own, full = (kbn.BatchNormalization(1, dtype=dtype, **options) for _ in range(2))
    # JAX has float64 only if it is enabled.
    with backend.in_double() if dtype == "float64" else contextlib.nullcontext():
        outputs = (
            own(carried(x, mask), training=True),
            full(x, training=True, mask=leading(mask, x.shape)),
        )
        assert_equal(*outputs)
    for one, other in zip(own.get_weights(), full.get_weights(), strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "XLA"])
@on_tensorflow
def test_sizes_that_are_unknown_until_run_time(jit):
    layer = kbn.BatchNormalization(axis=1, momentum=0.0)
    layer.build((None, 3, None))
    specs = tf.TensorSpec((None, 3, None)), tf.TensorSpec((None, None), "bool")
    call = tf.function(
        lambda x, mask: layer(x, mask=mask, training=True), input_signature=specs, jit_compile=jit
    )
    x, mask = values((4, 3, 5)), drawn((4, 5))
    call(x, mask)
    expected = np.where(mask, x.swapaxes(0, 1), 0).sum((1, 2)) / mask.sum()
    assert_close(layer.moving_mean, expected, rtol=1e-5)
    mask = drawn((4, 3))  # it fits the channels only
    call(x, mask)
    expected = (x.mean(2) * mask).sum(0) / mask.sum(0)
    assert_close(layer.moving_mean, expected, rtol=1e-5)


def test_a_carried_mask_that_does_not_fit_raises_with_both_shapes():
    message = "or have their leading axes. Received: mask.shape=(4, 2), inputs.shape=(4, 3, 2)"
    with pytest.raises(ValueError, match=re.escape(message)):
        kbn.BatchNormalization(axis=1)(carried(values((4, 3, 2)), np.ones((4, 2), bool)))


@pytest.mark.basic("kbn")
@pytest.mark.parametrize("make", CLASSES.values(), ids=CLASSES)
def test_recalibration_reads_masks_as_the_layer_does(make):
    x, mask = values((3, 4, 4)), drawn((3, 4))
    inputs, steps = keras.Input((4, 4)), keras.Input((4,), dtype="bool")
    layer = make(1)
    model = keras.Model([inputs, steps], layer(inputs, mask=steps))
    kbn.recalibrate(model, [x, mask], verbose=False)
    # The mask fits the steps, the axis of the features too: kbn's layer takes the latter.
    kept = without_channels(mask, x.shape, 1) if make is CLASSES["kbn"] else leading(mask, x.shape)
    assert_close(layer.moving_mean, x.mean((0, 2), where=kept), rtol=1e-5)
    model = keras.Sequential([keras.Input((4, 4)), layers.Masking(), layer])
    kbn.recalibrate(model, np.where(mask[..., None], x, 0), verbose=False)
    expected = x.mean((0, 2), where=leading(mask, x.shape))
    assert_close(layer.moving_mean, expected, rtol=1e-5)


@pytest.mark.basic("kbn")
@pytest.mark.parametrize("make", CLASSES.values(), ids=CLASSES)
def test_moving_statistics_read_masks_as_the_layer_does(make, tmp_path):
    x, mask = values((3, 4, 4)), drawn((3, 4))
    model = keras.Sequential([layers.Masking(), make(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x = np.where(mask[..., None], x, 0)
    watch = kbn.callbacks.MovingStatistics(tmp_path, (x, x), every_steps=1)
    model.fit(x, x, verbose=0, callbacks=[watch])
    gap = next(row.value for row in watch.history if row.measure == "mean_gap")
    mean = x.mean((0, 2), where=leading(mask, x.shape))
    assert gap == pytest.approx(np.mean(np.abs(mean)) / np.sqrt(1 + 1e-3), rel=1e-5)
