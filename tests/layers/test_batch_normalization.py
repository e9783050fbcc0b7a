import contextlib
import re
import warnings

import keras
import numpy as np
import pytest

import kbn
from kbn import backend
from tests.support.ids import plain
from tests.support.on_backend import (
    BACKEND,
    array,
    assert_close,
    assert_equal,
    compiled,
    gradient,
    on_tensorflow,
    tf,
)
from tests.support.oracle import BatchNormalizationOracle

CASES = {
    "NC": ((5,), -1),
    "NTC": ((7, 5), -1),
    "NHWC": ((4, 3, 5), -1),
    "NCHW": ((5, 4, 3), 1),
    "NDHWC": ((2, 4, 3, 5), 4),
}
case = pytest.mark.parametrize(("shape", "axis"), CASES.values(), ids=CASES)


def batches(shape, axis, sizes, seed=0):
    """Batches whose channels differ in mean (up to 8 std) and spread."""
    rng = np.random.default_rng(seed)
    broadcast = [1] * (len(shape) + 1)
    broadcast[axis] = -1
    mean = np.linspace(-8, 8, 5).reshape(broadcast)
    std = np.linspace(0.5, 3, 5).reshape(broadcast)
    return [(rng.normal(size=(n, *shape)) * std + mean).astype("float32") for n in sizes]


@case
@pytest.mark.parametrize("momentum", [0.9, None])
@pytest.mark.parametrize("unbiased", [True, False])
def test_fifty_batches_agree_with_the_oracle(shape, axis, momentum, unbiased):
    layer = kbn.BatchNormalization(axis=axis, momentum=momentum, unbiased_variance=unbiased)
    oracle = BatchNormalizationOracle(5, axis, momentum, unbiased=unbiased)
    sizes = np.random.default_rng(1).integers(2, 65, 50)
    for x in batches(shape, axis, sizes):
        assert_close(layer(x, training=True), oracle(x, True), atol=2e-5)
    assert_close(layer.moving_mean, oracle.mean, rtol=1e-5, atol=1e-5)
    assert_close(layer.moving_variance, oracle.variance, rtol=1e-5)
    assert_close(layer(x), oracle(x, False), rtol=1e-4, atol=1e-4)


@case
def test_biased_statistics_are_those_of_keras(shape, axis):
    ours = kbn.BatchNormalization(axis=axis, momentum=0.9, unbiased_variance=False)
    theirs = keras.layers.BatchNormalization(axis=axis, momentum=0.9)
    for x in batches(shape, axis, np.random.default_rng(2).integers(2, 65, 50)):
        ours(x, training=True)
        theirs(x, training=True)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert_close(mine, other, rtol=1e-5, atol=1e-6)


@case
def test_unbiased_statistics_follow_torchs_rule(shape, axis):
    # torch: running = (1 - p)·running + p·new, new variance over m − 1, p = 1 − momentum.
    layer = kbn.BatchNormalization(axis=axis, momentum=0.9)
    running_mean, running_variance = np.zeros(5), np.ones(5)
    for x in batches(shape, axis, np.random.default_rng(3).integers(2, 65, 50)):
        layer(x, training=True)
        rows = np.moveaxis(x.astype(np.float64), axis, -1).reshape(-1, 5)
        running_mean = (1 - 0.1) * running_mean + 0.1 * rows.mean(0)
        running_variance = (1 - 0.1) * running_variance + 0.1 * rows.var(0, ddof=1)
    assert_close(layer.moving_mean, running_mean, rtol=1e-5, atol=1e-5)
    assert_close(layer.moving_variance, running_variance, rtol=1e-5)


PATHS = [
    {},
    {"momentum": None},
    {"zero_debias": True},
    {"virtual_batch_size": 3},
    {"virtual_batch_size": 3, "momentum": None},
    {"renorm": True, "renorm_clipping": {"rmax": 2.0, "rmin": 0.5, "dmax": 1.0}},
    {"renorm": True, "virtual_batch_size": 4, "zero_debias": True},
    {"synchronized": True},
]


@pytest.mark.basic("{}-None-*", "*zero_debias*-4-True-True")
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("steps", [4, None])
@pytest.mark.parametrize("options", PATHS, ids=plain)
@on_tensorflow
def test_graph_and_xla_agree_with_eager(options, steps, masked, jit):
    eager, compiled = kbn.BatchNormalization(**options), kbn.BatchNormalization(**options)
    compiled.build((None, steps, 5))
    specs = [tf.TensorSpec((None, steps, 5)), tf.TensorSpec((None, None), "bool")]

    @tf.function(input_signature=specs if masked else specs[:1], jit_compile=jit)
    def step(x, mask=None):
        return compiled(x, training=True, mask=mask)

    for x in batches((4, 5), -1, [3, 8, 1, 0]):
        mask = [np.random.default_rng(len(x)).random((len(x), 4)) < 0.6] * masked
        expected = eager(x, training=True, mask=mask[0] if masked else None)
        assert_close(step(x, *mask), expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(compiled.weights, eager.weights, strict=True):
        assert_close(one, other, rtol=1e-5, err_msg=one.name)
    assert_equal(compiled.skipped_updates, eager.skipped_updates)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("momentum", [0.9, None])
def test_a_single_value_moves_the_mean_and_leaves_the_variance(momentum, unbiased):
    layer = kbn.BatchNormalization(momentum=momentum, unbiased_variance=unbiased)
    for _ in range(200):
        y = layer(np.full((1, 3), 5.0, "float32"), training=True)
    assert_close(layer.moving_mean, np.full(3, 5.0), rtol=1e-5)
    assert_equal(layer.moving_variance, np.ones(3))
    assert_equal(y, np.zeros((1, 3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_bad_channel_leaves_its_statistics_and_no_others(bad):
    layer = kbn.BatchNormalization(momentum=0.9)
    good = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
    layer(good, training=True)
    before = array(layer.moving_mean).copy()
    x = good + 1
    x[3, 0] = bad
    layer(x, training=True)
    assert array(layer.moving_mean)[0] == before[0]
    assert array(layer.moving_mean)[1] != before[1]
    assert np.isfinite(np.concatenate(layer.get_weights())).all()


def test_an_empty_batch_moves_nothing():
    layer = kbn.BatchNormalization()
    layer.build((None, 3))
    before = layer.get_weights()
    assert layer(np.zeros((0, 3), "float32"), training=True).shape == (0, 3)
    assert_equal(before, layer.get_weights())


@pytest.mark.parametrize(
    ("shape", "axis", "mask_shape"),
    [
        ((6, 4, 5), -1, (6, 4)),
        ((6, 5, 4), 1, (6, 4)),
        ((6, 4, 5), 2, (6, 1)),
        ((6, 5, 2, 3), 1, (6, 2, 3)),
    ],
)
def test_masked_positions_are_not_used_even_if_nan(shape, axis, mask_shape):
    rng = np.random.default_rng(0)
    x, mask = rng.normal(3, 2, shape).astype("float32"), rng.random(mask_shape) < 0.6
    without_channels = [size for i, size in enumerate(shape) if i != axis % len(shape)]
    full = np.broadcast_to(mask, without_channels)
    poisoned = np.where(np.expand_dims(full, axis), x, np.nan)
    layer, oracle = kbn.BatchNormalization(axis=axis), BatchNormalizationOracle(5, axis)
    outputs = array(layer(poisoned, training=True, mask=mask))
    expected = np.moveaxis(oracle(x, True, where=np.expand_dims(full, axis)), axis, -1)[full]
    assert_close(np.moveaxis(outputs, axis, -1)[full], expected, atol=1e-5)
    assert_close(layer.moving_variance, oracle.variance, rtol=1e-5)
    used = keras.ops.convert_to_tensor(np.expand_dims(full, axis))

    def loss(x):
        with keras.StatelessScope():
            y = layer(x, training=True, mask=mask)
        return keras.ops.sum(keras.ops.square(keras.ops.where(used, y, 0.0)))

    (found,) = gradient(loss)(keras.ops.convert_to_tensor(poisoned))
    assert np.isfinite(np.moveaxis(array(found), axis, -1)[full]).all()
    for training in (True, False):
        outputs = np.moveaxis(array(layer(poisoned, training=training, mask=mask)), axis, -1)
        assert_equal(outputs[~full], 0.0)


def test_an_all_masked_batch_moves_nothing():
    layer = kbn.BatchNormalization(momentum=None)
    layer(np.ones((4, 3, 2), "float32"), training=True, mask=np.zeros((4, 3), bool))
    assert_equal(layer.moving_mean, np.zeros(2))
    assert_equal(layer.moving_variance, np.ones(2))


def test_a_mask_of_the_wrong_shape_raises_with_both_shapes():
    message = "mask.shape=(4, 2), inputs.shape=(4, 3, 2), axis=-1"
    with pytest.raises(ValueError, match=re.escape(message)):
        kbn.BatchNormalization()(np.ones((4, 3, 2)), training=True, mask=np.ones((4, 2), bool))


def test_frozen_layer_infers_and_keeps_its_statistics():
    layer = kbn.BatchNormalization()
    x = np.random.default_rng(0).normal(3, 2, (8, 4)).astype("float32")
    layer(x, training=True)
    layer.trainable = False
    before = layer.get_weights()
    assert_equal(layer(x, training=True), layer(x, training=False))
    assert_equal(before, layer.get_weights())
    assert layer.trainable_weights == []


@pytest.mark.parametrize("options", [{}, {"center": False}, {"scale": False}])
def test_options_behave_as_in_keras(options):
    options = {
        "beta_initializer": keras.initializers.RandomNormal(seed=1),
        "gamma_initializer": keras.initializers.Constant(2.0),
        "moving_mean_initializer": keras.initializers.Constant(0.5),
        "moving_variance_initializer": keras.initializers.Constant(3.0),
        "gamma_regularizer": "l2",
        "beta_constraint": "non_neg",
        **options,
    }
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    results = []
    for layer in (
        kbn.BatchNormalization(unbiased_variance=False, **options),
        keras.layers.BatchNormalization(**options),
    ):
        outputs = [layer(x, training=training) for training in (True, False)]
        results.append([*outputs, *layer.get_weights(), *layer.losses])
    assert [w.path.split("/")[1] for w in layer.weights][-2:] == ["moving_mean", "moving_variance"]
    for mine, other in zip(*results, strict=True):
        assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.basic("mixed_float16", "bfloat16")
@pytest.mark.parametrize("policy", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
def test_statistics_are_float32_at_least(policy):
    layer = kbn.BatchNormalization(momentum=0.99, dtype=policy)
    x = np.random.default_rng(0).normal(10, 1, (64, 4))
    for _ in range(600):
        y = layer(x, training=True)
    assert layer.moving_mean.dtype == layer.moving_variance.dtype == "float32"
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    assert_close(layer.moving_mean, x.mean(0), rtol=0.01)


def test_a_large_mean_costs_no_accuracy():
    x = np.random.default_rng(0).normal(1e4, 1, (64, 8, 8, 4)).astype("float32")
    layer = kbn.BatchNormalization(momentum=0.0, epsilon=1e-12)
    oracle = BatchNormalizationOracle(4, -1, 0.0, 1e-12)
    assert_close(layer(x, training=True), oracle(x, True), atol=2e-3)
    assert_close(layer.moving_variance, oracle.variance, rtol=1e-5)


@pytest.mark.parametrize("jit", [None, False, True], ids=["eager", "graph", "xla"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@on_tensorflow
def test_a_large_mean_costs_the_gradient_of_gamma_no_accuracy(dtype, jit):
    x = tf.cast(np.random.default_rng(0).normal(1000, 1, (20_000, 2)), dtype)
    policy = "float32" if dtype == "float32" else f"mixed_{dtype}"
    layer = kbn.BatchNormalization(fused=False, dtype=policy)
    layer.build(x.shape)
    layer.moving_mean.assign([1000, 1000])

    def step(x):
        with tf.GradientTape() as tape:
            y = layer(x, training=False)
        return tape.gradient(y, layer.gamma.value, output_gradients=tf.ones_like(y))

    found = (step if jit is None else tf.function(step, jit_compile=jit))(x)
    normalized = (tf.cast(x, "float64").numpy() - 1000) / np.sqrt(1 + layer.epsilon)
    assert_close(found, normalized.sum(0), rtol=1e-4, atol=0.01)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("options", [{}, {"fused": False}, {"renorm": True}], ids=plain)
@on_tensorflow
def test_works_inside_a_branch_or_a_loop(options, jit):
    layer = kbn.BatchNormalization(momentum=0.0, **options)
    layer.build((None, 4))

    @tf.function(jit_compile=jit)
    def step(x):
        y = tf.cond(x[0, 0] < 9, lambda: layer(x, training=True), lambda: x)
        for _ in tf.range(2):
            y = layer(x, training=True)
        return y

    x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    assert np.isfinite(step(tf.constant(x))).all()
    assert_close(layer.moving_mean, x.mean(0), atol=1e-6)


def test_learns_in_fit_with_every_compilation():
    x = np.random.default_rng(0).normal(5, 3, (64, 4)).astype("float32")
    compilations = {"jit_compile": False}, {"jit_compile": True}
    for options in ({"run_eagerly": True}, *compilations[: 1 if BACKEND == "torch" else 2]):
        model = keras.Sequential([kbn.BatchNormalization(momentum=0.0), keras.layers.Dense(1)])
        model.compile("sgd", "mse", **options)
        model.fit(x, x[:, :1], batch_size=64, epochs=1, verbose=0)
        assert_close(model.layers[0].moving_variance, x.var(0, ddof=1), rtol=1e-5)


REFUSED = [
    ({"momentum": 1.5}, ValueError, "momentum must be in [0, 1] or None. Received: momentum=1.5"),
    ({"momentum": -0.5}, ValueError, "Received: momentum=-0.5"),
    ({"momentum": float("nan")}, ValueError, "Received: momentum=nan"),
    ({"momentum": "a"}, TypeError, "Received: momentum='a'"),
    ({"momentum": True}, TypeError, "Received: momentum=True"),
    ({"epsilon": 0}, ValueError, "epsilon must be positive. Received: epsilon=0"),
    ({"epsilon": -1}, ValueError, "Received: epsilon=-1"),
    ({"epsilon": float("inf")}, ValueError, "Received: epsilon=inf"),
    ({"epsilon": None}, TypeError, "Received: epsilon=None"),
    ({"axis": 1.5}, TypeError, "axis must be an integer. Received: axis=1.5"),
    ({"axis": [1, 2]}, ValueError, "axis must be a single channel axis. Received: axis=[1, 2]"),
    ({"center": 1}, TypeError, "center must be True or False. Received: center=1"),
    ({"scale": "no"}, TypeError, "Received: scale='no'"),
    ({"unbiased_variance": None}, TypeError, "Received: unbiased_variance=None"),
    (
        {"renorm_momentum": 7},
        ValueError,
        "renorm_momentum must be in [0, 1]. Received: renorm_momentum=7",
    ),
    ({"renorm": 1}, TypeError, "renorm must be True or False. Received: renorm=1"),
    ({"renorm": True, "renorm_clipping": 3}, TypeError, "renorm_clipping must be a dict. Received"),
    (
        {"renorm": True, "renorm_clipping": {"max": 3}},
        ValueError,
        "may have the keys 'rmax', 'rmin', 'dmax'. Received: renorm_clipping={'max': 3}",
    ),
    (
        {"renorm": True, "renorm_clipping": {"dmax": -1}},
        ValueError,
        "renorm_clipping['dmax'] must be a number of at least 0, a LearningRateSchedule or None. "
        "Received: renorm_clipping['dmax']=-1",
    ),
    ({"renorm": True, "renorm_clipping": {"rmax": "3"}}, TypeError, "renorm_clipping['rmax']='3'"),
    (
        {"renorm": True, "renorm_clipping": {"rmax": 1, "rmin": 2}},
        ValueError,
        "rmax must be at least rmin in renorm_clipping. Received: rmax=1, rmin=2",
    ),
    ({"zero_debias": 1}, TypeError, "zero_debias must be True or False. Received: zero_debias=1"),
    ({"zero_debias": True, "momentum": None}, ValueError, "Received: momentum=None"),
    ({"zero_debias": True, "momentum": 1}, ValueError, "Received: momentum=1.0"),
    ({"virtual_batch_size": 0}, ValueError, "at least 1. Received: virtual_batch_size=0"),
    ({"virtual_batch_size": 2.5}, TypeError, "Received: virtual_batch_size=2.5"),
    (
        {"virtual_batch_size": 4, "synchronized": True},
        ValueError,
        "choose one. Received: virtual_batch_size=4, synchronized=True",
    ),
    *[
        (
            {"fused": True, **option},
            ValueError,
            "does not support renorm, synchronized or virtual_batch_size. Use fused='auto'. Rece",
        )
        for option in ({"renorm": True}, {"synchronized": True}, {"virtual_batch_size": 4})
    ],
    ({"fused": "yes"}, ValueError, "fused must be one of 'auto', True, False. Received"),
    ({"synchronized": 2}, TypeError, "Received: synchronized=2"),
    ({"renorm_clipping": {"rmax": 3}}, ValueError, "renorm_clipping={'rmax': 3}"),
    ({"beta_initializer": "nonsense"}, ValueError, "Received: beta_initializer='nonsense'"),
    ({"gamma_initializer": 3}, TypeError, "Received: gamma_initializer=3"),
    ({"moving_variance_initializer": None}, TypeError, "moving_variance_initializer=None"),
    ({"moving_mean_initializer": [0, 1]}, TypeError, "moving_mean_initializer=[0, 1]"),
    ({"gamma_regularizer": "nonsense"}, ValueError, "Received: gamma_regularizer='nonsense'"),
    ({"beta_constraint": 0.5}, TypeError, "Received: beta_constraint=0.5"),
    ({"gamma_constraint": "nonsense"}, ValueError, "Received: gamma_constraint='nonsense'"),
    ({"virtual_batch": 3}, (TypeError, ValueError), "virtual_batch"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "message"), REFUSED, ids=lambda x: str(x)[:40])
def test_errors_of_wrong_arguments_have_the_received_value(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        kbn.BatchNormalization(**options)


@pytest.mark.parametrize("axis", [5, 2, -3])
def test_an_axis_out_of_range_raises_with_the_shape(axis):
    message = f"[-2, 1] for an input of rank 2. Received: axis={axis}, input_shape=(8, 4)"
    with pytest.raises(ValueError, match=re.escape(message)):
        kbn.BatchNormalization(axis=axis)(np.zeros((8, 4)))


def test_an_unknown_channel_count_raises():
    with pytest.raises(ValueError, match=re.escape("axis=-1, input_shape=(None, None)")):
        kbn.BatchNormalization().build((None, None))


def test_integer_inputs_are_normalized_in_float32():
    y = kbn.BatchNormalization()(np.arange(8).reshape(4, 2), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "float32"


def test_virtual_batches_refuse_the_channels_as_batch_axis():
    message = "virtual_batch_size=2, axis=0, input_shape=(4, 3)"
    with pytest.raises(ValueError, match=re.escape(message)):
        kbn.BatchNormalization(axis=0, virtual_batch_size=2)(np.zeros((4, 3)))


def test_virtual_batches_are_those_batches_one_after_the_other():
    x = np.random.default_rng(0).normal(3, 2, (11, 4, 5)).astype("float32")
    virtual = kbn.BatchNormalization(virtual_batch_size=4, momentum=0.7)
    one_by_one = kbn.BatchNormalization(momentum=0.7)
    parts = [one_by_one(part, training=True) for part in (x[:4], x[4:8], x[8:])]
    expected = np.concatenate([array(part) for part in parts])
    assert_close(virtual(x, training=True), expected, atol=1e-5)
    for value, wanted in zip(virtual.get_weights(), one_by_one.get_weights(), strict=True):
        assert_close(value, wanted, rtol=1e-5)
    assert_close(virtual(x), one_by_one(x), atol=1e-5)  # ignored in inference


@pytest.mark.parametrize("batch", [8, 11])
def test_gradients_through_virtual_batches_are_those_of_the_parts(batch):
    x = np.random.default_rng(0).normal(3, 2, (batch, 5)).astype("float32")
    factors = np.random.default_rng(1).normal(size=x.shape).astype("float32")

    def gradient_of(layer, x, factors):
        factors = keras.ops.convert_to_tensor(factors)

        def loss(x):
            with keras.StatelessScope():
                return keras.ops.sum(layer(x, training=True) * factors)

        return array(gradient(loss)(keras.ops.convert_to_tensor(x))[0])

    whole = gradient_of(kbn.BatchNormalization(virtual_batch_size=4), x, factors)
    parts = [
        gradient_of(kbn.BatchNormalization(), x[i : i + 4], factors[i : i + 4])
        for i in range(0, batch, 4)
    ]
    assert_close(whole, np.concatenate(parts), rtol=1e-4, atol=1e-5)


def test_weights_count_as_repetitions_of_equal_weight():
    # Half the weight for everything says exactly as much; two halves are not a whole.
    x = np.random.default_rng(0).normal(3, 2, (6, 2)).astype("float32")
    layers = [kbn.BatchNormalization(momentum=0.0) for _ in range(3)]
    layers[0](x, training=True)
    layers[1](x, training=True, mask=np.full((6,), 0.5, "float32"))
    for value, wanted in zip(layers[1].get_weights(), layers[0].get_weights(), strict=True):
        assert_close(value, wanted, rtol=1e-6)
    weights = np.array([1, 1, 0.25, 0.25, 0.5, 0], "float32")
    layers[2](x, training=True, mask=weights)
    mean = np.average(x, axis=0, weights=weights)
    spread = np.average((x - mean) ** 2, axis=0, weights=weights)
    unbiased = spread / (1 - (weights**2).sum() / weights.sum() ** 2)
    assert_close(layers[2].moving_mean, mean, rtol=1e-5)
    assert_close(layers[2].moving_variance, unbiased, rtol=1e-5)


def test_weights_out_of_range_are_clipped_and_nan_counts_as_zero():
    x = np.random.default_rng(0).normal(3, 2, (4, 2)).astype("float32")
    weights = np.array([7.0, 1.0, -1.0, np.nan], "float32")
    layer = kbn.BatchNormalization(momentum=0.0)
    y = layer(x, training=True, mask=weights)
    assert_close(layer.moving_mean, x[:2].mean(0), rtol=1e-5)
    assert_equal(y[2:], np.zeros((2, 2)))


@on_tensorflow
def test_a_mask_that_does_not_fit_at_run_time_fails_rather_than_spreads_the_input():
    layer = kbn.BatchNormalization()
    layer.build((None, None, 2))
    specs = tf.TensorSpec((None, None, 2)), tf.TensorSpec((None, None), "bool")
    call = tf.function(lambda x, mask: layer(x, mask=mask), input_signature=specs)
    assert call(np.ones((3, 4, 2), "float32"), np.ones((3, 1), bool)).shape == (3, 4, 2)
    with pytest.raises(tf.errors.InvalidArgumentError):
        call(np.ones((3, 1, 2), "float32"), np.ones((3, 4), bool))


@pytest.mark.parametrize(
    "mask_shape", [(), (1,), (6,), (6, 1), (1, 4), (6, 4, 1), (1, 1, 5), (6, 4, 5)], ids=plain
)
@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_any_mask_that_broadcasts_means_the_same_as_the_full_one(mask_shape, axis):
    rng = np.random.default_rng(0)
    shape = {-1: (6, 4, 5), 1: (6, 5, 4), 0: (5, 6, 4)}[axis]
    x, mask = rng.normal(3, 2, shape).astype("float32"), np.array(rng.random(mask_shape) < 0.7)
    if len(mask_shape) == 3:
        full = np.moveaxis(mask, -1, axis)
        mask = full
    else:
        padded = mask.reshape(mask.shape + (1,) * (2 - mask.ndim))
        full = np.expand_dims(padded, axis)
    full = np.broadcast_to(full, shape)
    short, long = kbn.BatchNormalization(axis=axis), kbn.BatchNormalization(axis=axis)
    assert_close(short(x, training=True, mask=mask), long(x, training=True, mask=full), atol=1e-6)
    for one, other in zip(short.get_weights(), long.get_weights(), strict=True):
        assert_close(one, other, rtol=1e-6)


def test_the_former_name_of_skipped_updates_is_deprecated():
    layer = kbn.BatchNormalization()
    layer(np.ones((1, 2), "float32"), training=True)
    message = "BatchNormalization.refused_updates is deprecated; use skipped_updates instead."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        former = np.array(layer.refused_updates)
    assert_equal(former, [1, 1])
    warned = [each for each in caught if str(each.message) == message]
    assert [each.category for each in warned] == [DeprecationWarning]
    assert warned[0].filename == __file__


def test_scalar_inputs_raise():
    with pytest.raises(
        ValueError, match=r"need a channel axis.*Received: axis=-1, input_shape=\(\)"
    ):
        kbn.BatchNormalization().build(())


def test_skipped_updates_are_counted_per_channel():
    layer = kbn.BatchNormalization()
    with pytest.raises(ValueError, match=r"needs a built layer: call it first\. Received: layer="):
        _ = layer.skipped_updates
    good = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    bad = good.copy()
    bad[0, 1] = np.nan
    for x in (good, bad, good[:1], good[:0]):
        layer(x, training=True)
    layer(bad)  # inference updates nothing, and so skips nothing
    assert_equal(layer.skipped_updates, [2, 3])
    assert layer.skipped_updates.dtype == "int64"
    assert len(layer.weights) == 4


LARGE = [
    ({}, [[1.8e19], [-1.8e19]], np.full((2, 1), 0.1, "float32")),
    ({"momentum": None, "virtual_batch_size": 2}, [[1e19], [-1e19]], None),
    ({"momentum": None, "virtual_batch_size": 2}, np.full((4, 1), 1e38), None),
    ({"momentum": 0.0, "virtual_batch_size": 1}, np.full((4, 1), 3e38), None),
    ({"renorm": True}, [[1.5e19], [-1.5e19]], None),
    ({"autocast": False}, np.array([[1e30], [-1e30]]), None),
]


@pytest.mark.parametrize(("options", "x", "mask"), LARGE, ids=plain)
def test_values_too_large_for_the_statistics_leave_them_finite(options, x, mask):
    layer = kbn.BatchNormalization(**options)
    layer.build((None, 1))
    layer(x if "autocast" in options else np.float32(x), training=True, mask=mask)
    assert np.isfinite(np.concatenate(layer.get_weights())).all(), layer.get_weights()
    moved = (array(layer.moving_variance) != 1).all()
    assert moved == (layer.skipped_updates == 0).all()


def test_a_refused_batch_changes_nothing_at_all():
    schedule = Relaxed(1.0, 3.0, 0, 4)
    for options in (*PATHS, {"renorm": True, "renorm_clipping": {"rmax": schedule}}):
        layer = kbn.BatchNormalization(**options)
        layer.build((None, 4, 5))
        before = layer.get_weights()
        layer(np.ones((6, 4, 5), "float32"), training=True, mask=np.zeros((6, 4), bool))
        layer(np.ones((0, 4, 5), "float32"), training=True)
        layer(np.full((6, 4, 5), np.nan, "float32"), training=True)
        for value, old in zip(layer.get_weights(), before, strict=True):
            assert_equal(value, old)
        size = options.get("virtual_batch_size", 6)
        assert (layer.skipped_updates == 2 * -(-6 // size) + 1).all()


def test_state_that_a_subclass_adds_keeps_its_dtype():
    class Counting(kbn.BatchNormalization):
        def build(self, input_shape):
            self.calls = self.add_weight(shape=(), dtype="int32", trainable=False, name="calls")
            super().build(input_shape)

    layer = Counting(dtype="float16")
    layer.build((None, 2))
    assert (layer.calls.dtype, layer.moving_mean.dtype) == ("int32", "float32")


@pytest.mark.parametrize(
    ("built_with", "changed"),
    [
        ({}, {"momentum": None}),
        ({}, {"zero_debias": True}),
        ({}, {"renorm": True}),
        ({"renorm": True}, {"renorm": False}),
        ({"renorm": True}, {"renorm_clipping": {"rmax": lambda step: 1.0 + step}}),
    ],
    ids=plain,
)
def test_options_with_variables_cannot_change_after_build(built_with, changed):
    layer = kbn.BatchNormalization(**built_with)
    layer.build((None, 2))
    for name, value in changed.items():
        setattr(layer, name, value)
    with pytest.raises(
        ValueError, match=r"cannot be set after the layer is built\. Received, after build: mo"
    ):
        layer(np.ones((4, 2), "float32"), training=True)


def test_a_skipped_step_of_mixed_precision_leaves_the_statistics(recwarn):
    """A loss scale too high: gradients are inf, the step is skipped, statistics stay finite."""
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(8, dtype="mixed_float16", kernel_initializer="ones"),
            kbn.BatchNormalization(dtype="mixed_float16"),
            keras.layers.Dense(1),
        ]
    )
    inner = keras.optimizers.SGD()
    model.compile(keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**15), "mse")
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    model.fit(x * 1e5, x[:, :1], verbose=0)  # the activations overflow float16
    norm = model.layers[1]
    assert (norm.skipped_updates == 1).all()
    assert_equal(norm.moving_variance, np.ones(8))
    model.fit(x, x[:, :1], verbose=0, epochs=3)
    assert np.isfinite(np.concatenate(norm.get_weights())).all()
    assert (norm.skipped_updates == 1).all()


def test_zero_debias_is_right_after_one_step_and_forgets_like_the_plain_average():
    rng, m = np.random.default_rng(0), 0.9
    layer = kbn.BatchNormalization(zero_debias=True, momentum=m)
    hidden_mean = hidden_variance = 0
    for t in range(1, 200):
        x = rng.normal(5, 3, (16, 2)).astype("float32")
        layer(x, training=True)
        hidden_mean = m * hidden_mean + (1 - m) * x.mean(0)
        hidden_variance = m * hidden_variance + (1 - m) * x.var(0, ddof=1)
        assert_close(layer.moving_mean, hidden_mean / (1 - m**t), rtol=1e-4)
        assert_close(layer.moving_variance, hidden_variance / (1 - m**t), rtol=1e-4)
        if t == 1:
            assert_close(layer.moving_variance, x.var(0, ddof=1), rtol=1e-6)


def test_zero_debias_counts_only_applied_updates():
    layer = kbn.BatchNormalization(zero_debias=True)
    layer(np.ones((0, 2), "float32"), training=True)
    assert_equal(layer.moving_variance, np.ones(2))
    x = np.random.default_rng(0).normal(5, 3, (16, 2)).astype("float32")
    x[0, 1] = np.inf
    layer(x, training=True)
    assert array(layer.moving_mean)[1] == 0
    x[0, 1] = 5
    layer(x, training=True)
    assert_close(layer.moving_mean, x.mean(0), rtol=1e-1)
    assert_close(array(layer.moving_mean)[1], x.mean(0)[1], rtol=1e-6)


@keras.saving.register_keras_serializable(package="tests")
class Relaxed(keras.optimizers.schedules.LearningRateSchedule):
    """As in the paper: held, then relaxed linearly."""

    def __init__(self, start, end, begin, steps):
        super().__init__()
        self.start, self.end, self.begin, self.steps = start, end, begin, steps

    def __call__(self, step):
        share = keras.ops.clip((step - self.begin) / self.steps, 0.0, 1.0)
        return self.start + (self.end - self.start) * share

    def get_config(self):
        return {k: getattr(self, k) for k in ("start", "end", "begin", "steps")}


@pytest.mark.parametrize("graph", [False, pytest.param(True, marks=on_tensorflow)])
def test_renorm_limits_follow_their_schedule(graph):
    clipping = {"rmax": Relaxed(1.0, 3.0, 2, 4), "rmin": 0.0, "dmax": Relaxed(0.0, 5.0, 2, 4)}
    layer = kbn.BatchNormalization(renorm=True, renorm_clipping=clipping, renorm_momentum=0.9)
    layer.build((None, 2))
    plain = kbn.BatchNormalization()
    call = compiled(lambda x: layer(x, training=True))
    rng = np.random.default_rng(0)
    for step in range(8):
        x = rng.normal(4, 9, (16, 2)).astype("float32")
        mean, stddev = array(layer.renorm_mean), array(layer.renorm_stddev)
        y = call(x) if graph else layer(x, training=True)
        share = min(max((step - 2) / 4, 0), 1)
        r = np.minimum(np.sqrt(x.var(0) + 1e-3) / stddev, 1 + 2 * share)
        d = np.clip((x.mean(0) - mean) / stddev, -5 * share, 5 * share)
        normalized = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
        assert_close(y, normalized * r + d, rtol=1e-4, atol=1e-4)
        if step <= 2:  # r = 1 and d = 0: batch normalization, as the paper starts
            assert_close(y, plain(x, training=True), atol=1e-4)
    assert layer.weights[-1].name == "renorm_step"
    assert int(array(layer.weights[-1])) == 8
    again = kbn.BatchNormalization.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert float(again.renorm_clipping["rmax"](keras.ops.array(4.0))) == 2.0


def test_renorm_trains_as_it_infers_once_limits_are_open():
    rng = np.random.default_rng(0)
    layer = kbn.BatchNormalization(
        renorm=True, renorm_momentum=0.0, unbiased_variance=False, momentum=0.0
    )
    layer(rng.normal(3, 2, (64, 2)).astype("float32"), training=True)
    x = rng.normal(7, 5, (4, 2)).astype("float32")
    inference = layer(x)
    assert_close(layer(x, training=True), inference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unbiased", [True, False])
@on_tensorflow
def test_renorm_respects_the_variance_option(unbiased):
    layer = kbn.BatchNormalization(renorm=True, momentum=0.9, unbiased_variance=unbiased)
    layer.build((None, 64))
    step = tf.function(lambda x: layer(x, training=True))
    rng = np.random.default_rng(0)
    for _ in range(300):
        step(rng.normal(size=(4, 64)).astype("float32"))
    # E√s² of four normal values is 0.921 (the average is one of standard deviations), √¾ of that
    # if biased; training's own σ stays the biased one.
    spread = array(layer.moving_stddev).mean()
    assert spread == pytest.approx(0.921 if unbiased else 0.798, abs=0.02)
    assert array(layer.renorm_stddev).mean() == pytest.approx(0.798, abs=0.02)
    assert_close(layer.moving_variance, array(layer.moving_stddev) ** 2 - 1e-3, rtol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "float64", "mixed_float16", "bfloat16", "float16"])
def test_outputs_have_the_policys_dtype_on_every_path(policy):
    x = np.random.default_rng(0).normal(3, 2, (7, 3, 4))
    with backend.in_double() if policy == "float64" else contextlib.nullcontext():
        for options in PATHS:
            layer = kbn.BatchNormalization(dtype=policy, **options)
            for training in (True, False):
                for mask in (None, np.ones((7,), bool), np.ones((7,), "float32")):
                    y = layer(x, training=training, mask=mask)
                    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
            statistics = [variable for variable in layer.weights if not variable.trainable]
            for variable in statistics:
                assert variable.dtype == ("float64" if policy == "float64" else "float32")


def test_a_stateless_call_is_exact_in_float64_too(rng):
    """Keras passes it a float32 tensor unchanged, under every policy."""
    with backend.in_double():
        layer, oracle = kbn.BatchNormalization(dtype="float64"), BatchNormalizationOracle(4, -1)
        x = keras.ops.convert_to_tensor(rng.normal(3, 2, (64, 4)), "float32")
        layer.build(x.shape)
        state = layer.trainable_variables, layer.non_trainable_variables
        for training in (False, True):  # the state does not change
            values = [[variable.value for variable in kind] for kind in state]
            y, _ = layer.stateless_call(*values, x, training=training)
            assert_close(y, oracle(array(x), training), atol=1e-12)


def test_float64_is_exact():
    x = np.random.default_rng(0).normal(1e6, 1, (64, 4))
    with backend.in_double():
        layer, oracle = kbn.BatchNormalization(dtype="float64"), BatchNormalizationOracle(4, -1)
        assert_close(layer(x, training=True), oracle(x, True), atol=1e-8)
        assert_close(layer.moving_variance, oracle.variance, rtol=1e-9)
