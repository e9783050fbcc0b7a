import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import kbn
from tests.oracle import BatchNormalizationOracle

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
        np.testing.assert_allclose(layer(x, training=True), oracle(x, True), atol=2e-5)
    np.testing.assert_allclose(layer.moving_mean, oracle.mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, oracle.variance, rtol=1e-5)
    np.testing.assert_allclose(layer(x), oracle(x, False), rtol=1e-4, atol=1e-4)


@case
def test_biased_statistics_are_those_of_keras(shape, axis):
    ours = kbn.BatchNormalization(axis=axis, momentum=0.9, unbiased_variance=False)
    theirs = keras.layers.BatchNormalization(axis=axis, momentum=0.9)
    for x in batches(shape, axis, np.random.default_rng(2).integers(2, 65, 50)):
        ours(x, training=True)
        theirs(x, training=True)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


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
    np.testing.assert_allclose(layer.moving_mean, running_mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, running_variance, rtol=1e-5)


@given(st.data())
def test_any_rank_axis_dtype_and_batch_agree_with_the_oracle(data):
    rank = data.draw(st.integers(2, 5), "rank")
    axis = data.draw(st.sampled_from([*range(1, rank), -1]), "axis")
    dtype = data.draw(st.sampled_from(["float32", "float64", "mixed_float16"]), "dtype")
    shape = data.draw(st.lists(st.integers(1, 4), min_size=rank - 1, max_size=rank - 1), "shape")
    momentum = data.draw(st.one_of(st.none(), st.floats(0, 1)), "momentum")
    options = {"momentum": momentum, "unbiased_variance": data.draw(st.booleans(), "unbiased")}
    layer = kbn.BatchNormalization(axis=axis, dtype=dtype, **options)
    channels = ([0, *shape])[axis]
    oracle = BatchNormalizationOracle(
        channels, axis, momentum, unbiased=options["unbiased_variance"]
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    for size in data.draw(st.lists(st.integers(0, 64), min_size=1, max_size=3), "sizes"):
        x = rng.normal(1, 2, (size, *shape)).astype("float16")
        training = data.draw(st.booleans(), "training")
        tolerance = 2e-2 if dtype == "mixed_float16" else 1e-4
        expected = oracle(x, training)
        np.testing.assert_allclose(
            np.asarray(layer(x, training=training), "float64"), expected, tolerance, tolerance
        )
    np.testing.assert_allclose(layer.moving_mean, oracle.mean, 1e-5, 1e-5)
    np.testing.assert_allclose(layer.moving_variance, oracle.variance, 1e-5, 1e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_graph_and_xla_agree_with_eager(jit):
    eager, compiled = kbn.BatchNormalization(momentum=None), kbn.BatchNormalization(momentum=None)
    compiled.build((None, 4, 5))
    step = tf.function(lambda x: compiled(x, training=True), jit_compile=jit)
    for x in batches((4, 5), -1, [3, 8, 1]):
        np.testing.assert_allclose(step(x), eager(x, training=True), rtol=1e-4, atol=1e-5)
    for one, other in zip(compiled.weights, eager.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("momentum", [0.9, None])
def test_a_single_value_moves_the_mean_and_leaves_the_variance(momentum, unbiased):
    layer = kbn.BatchNormalization(momentum=momentum, unbiased_variance=unbiased)
    for _ in range(200):
        y = layer(np.full((1, 3), 5.0, "float32"), training=True)
    np.testing.assert_allclose(layer.moving_mean, np.full(3, 5.0), rtol=1e-5)
    np.testing.assert_array_equal(layer.moving_variance, np.ones(3))
    np.testing.assert_array_equal(y, np.zeros((1, 3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_bad_channel_leaves_its_statistics_and_no_others(bad):
    layer = kbn.BatchNormalization(momentum=0.9)
    good = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
    layer(good, training=True)
    before = layer.moving_mean.numpy().copy()
    x = good + 1
    x[3, 0] = bad
    layer(x, training=True)
    assert layer.moving_mean.numpy()[0] == before[0]
    assert layer.moving_mean.numpy()[1] != before[1]
    assert np.isfinite(np.concatenate(layer.get_weights())).all()


def test_an_empty_batch_moves_nothing():
    layer = kbn.BatchNormalization()
    layer.build((None, 3))
    before = layer.get_weights()
    assert layer(np.zeros((0, 3), "float32"), training=True).shape == (0, 3)
    np.testing.assert_array_equal(before, layer.get_weights())


@pytest.mark.parametrize(
    ("shape", "axis", "mask_shape"),
    [
        ((6, 4, 5), -1, (6, 4)),
        ((6, 5, 4), 1, (6, 4)),
        ((6, 4, 5), 2, (6, 1)),
        ((6, 5, 2, 3), 1, (6, 2, 3)),
    ],
)
def test_masked_positions_take_no_part_even_as_nan(shape, axis, mask_shape):
    rng = np.random.default_rng(0)
    x, mask = rng.normal(3, 2, shape).astype("float32"), rng.random(mask_shape) < 0.6
    without_channels = [size for i, size in enumerate(shape) if i != axis % len(shape)]
    full = np.broadcast_to(mask, without_channels)
    poisoned = np.where(np.expand_dims(full, axis), x, np.nan)
    layer, oracle = kbn.BatchNormalization(axis=axis), BatchNormalizationOracle(5, axis)
    tensor = tf.constant(poisoned)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        y = layer(tensor, training=True, mask=mask)
        kept = tf.boolean_mask(tf.experimental.numpy.moveaxis(y, axis, -1), full)
        loss = tf.reduce_sum(tf.square(kept))
    expected = np.moveaxis(oracle(x, True, where=full), axis, -1)[full]
    np.testing.assert_allclose(kept, expected, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, oracle.variance, rtol=1e-5)
    gradient = np.moveaxis(tape.gradient(loss, tensor).numpy(), axis, -1)
    assert np.isfinite(gradient[full]).all()
    for training in (True, False):
        outputs = np.moveaxis(layer(poisoned, training=training, mask=mask), axis, -1)
        np.testing.assert_array_equal(outputs[~full], 0.0)


def test_an_all_masked_batch_moves_nothing():
    layer = kbn.BatchNormalization(momentum=None)
    layer(np.ones((4, 3, 2), "float32"), training=True, mask=np.zeros((4, 3), bool))
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(2))
    np.testing.assert_array_equal(layer.moving_variance, np.ones(2))


def test_a_mask_of_the_wrong_shape_is_told_with_both_shapes():
    message = "mask.shape=(4, 2), inputs.shape=(4, 3, 2), axis=-1"
    with pytest.raises(ValueError, match=re.escape(message)):
        kbn.BatchNormalization()(np.ones((4, 3, 2)), training=True, mask=np.ones((4, 2), bool))


def test_frozen_layer_infers_and_keeps_its_statistics():
    layer = kbn.BatchNormalization()
    x = np.random.default_rng(0).normal(3, 2, (8, 4)).astype("float32")
    layer(x, training=True)
    layer.trainable = False
    before = layer.get_weights()
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    np.testing.assert_array_equal(before, layer.get_weights())
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
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
def test_statistics_are_float32_at_least(policy):
    layer = kbn.BatchNormalization(momentum=0.99, dtype=policy)
    x = np.random.default_rng(0).normal(10, 1, (64, 4))
    for _ in range(600):
        y = layer(x, training=True)
    assert layer.moving_mean.dtype == layer.moving_variance.dtype == "float32"
    assert y.dtype == layer.compute_dtype
    np.testing.assert_allclose(layer.moving_mean, x.mean(0), rtol=0.01)


def test_a_large_mean_costs_no_accuracy():
    x = np.random.default_rng(0).normal(1e4, 1, (64, 8, 8, 4)).astype("float32")
    layer = kbn.BatchNormalization(momentum=0.0, epsilon=1e-12)
    oracle = BatchNormalizationOracle(4, -1, 0.0, 1e-12)
    np.testing.assert_allclose(layer(x, training=True), oracle(x, True), atol=2e-3)
    np.testing.assert_allclose(layer.moving_variance, oracle.variance, rtol=1e-5)


def test_learns_in_fit_with_every_compilation():
    x = np.random.default_rng(0).normal(5, 3, (64, 4)).astype("float32")
    for options in ({"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}):
        model = keras.Sequential([kbn.BatchNormalization(momentum=0.0), keras.layers.Dense(1)])
        model.compile("sgd", "mse", **options)
        model.fit(x, x[:, :1], batch_size=64, epochs=1, verbose=0)
        np.testing.assert_allclose(model.layers[0].moving_variance, x.var(0, ddof=1), rtol=1e-5)


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
    ({"renorm": True}, NotImplementedError, "Received: renorm=True"),
    ({"synchronized": True}, NotImplementedError, "Received: synchronized=True"),
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
def test_wrong_arguments_are_told_with_what_was_received(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        kbn.BatchNormalization(**options)


@pytest.mark.parametrize("axis", [5, 2, -3])
def test_an_axis_out_of_range_is_told_with_the_shape(axis):
    message = f"[-2, 1] for an input of rank 2. Received: axis={axis}, input_shape=(8, 4)"
    with pytest.raises(ValueError, match=re.escape(message)):
        kbn.BatchNormalization(axis=axis)(np.zeros((8, 4)))


def test_an_unknown_channel_count_is_told():
    with pytest.raises(ValueError, match=re.escape("axis=-1, input_shape=(None, None)")):
        kbn.BatchNormalization().build((None, None))


def test_integer_inputs_are_normalized_in_float32():
    y = kbn.BatchNormalization()(np.arange(8).reshape(4, 2), training=True)
    assert y.dtype == "float32"
