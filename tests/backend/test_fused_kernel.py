"""The fused kernel against the float64 formulas, and against TensorFlow's own kernel.

The file runs with whichever kernel is there; `test_tensorflows_own_kernels_pass_too` runs it again
without kbn's.
"""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import kbn
from kbn import backend
from kbn.backend import native_library
from kbn.backend.tensorflow import native_kernels
from kbn.backend.tensorflow.normalization import DTYPES
from kbn.ops.moments import by_kernel
from tests.conftest import needed
from tests.support import ROOT

EPSILON = 1e-3
TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}
NATIVE = native_kernels.load().active
# TensorFlow's own kernels add a whole activation up in float32.
STATISTICS = 1e-5 if NATIVE else 2e-4
native = pytest.mark.skipif(os.environ.get("KBN_NATIVE") == "0", reason="without kbn's kernels")


def expected(x, dy, axis, gamma, beta):
    """Outputs, mean, biased variance, and the gradients of x, gamma and beta, in float64."""
    x, dy = (np.moveaxis(a.astype("float64"), axis, -1) for a in (x, dy))
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, x.shape[-1])
    m = max(len(rows), 1)
    mean, variance = rows.sum(0) / m, 0.0
    variance = np.square(rows - mean).sum(0) / m
    inverse = 1 / np.sqrt(variance + EPSILON)
    hat = (rows - mean) * inverse
    dgamma, dbeta = (drows * hat).sum(0), drows.sum(0)
    dx = gamma * inverse * (drows - dbeta / m - hat * dgamma / m)
    back = [np.moveaxis(a.reshape(x.shape), -1, axis) for a in (hat * gamma + beta, dx)]
    return back[0], mean, variance, back[1], dgamma, dbeta


def computed(x, dy, axis, gamma, beta, dtype):
    x, dy = (tf.cast(a, dtype) for a in (x, dy))
    gamma, beta = (tf.constant(a, "float32") for a in (gamma, beta))
    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta])
        y, batch = by_kernel(x, axis, gamma, beta, EPSILON)
    gradients = tape.gradient(y, [x, gamma, beta], output_gradients=dy)
    assert y.dtype == gradients[0].dtype == dtype
    results = [y, batch.mean, batch.variance, *gradients]
    return [tf.cast(result, "float64").numpy() for result in results], float(batch.count)


def rounded(x, dtype):
    return tf.cast(tf.cast(x, dtype), "float32").numpy()


def compare(shape, axis, dtype, seed=0):
    rng = np.random.default_rng(seed)
    channels = shape[axis]
    x = rounded(rng.normal(1, 2, shape), dtype)
    dy = rounded(rng.normal(size=shape), dtype)
    gamma, beta = rng.normal(1, 0.2, channels), rng.normal(size=channels)
    gamma, beta = gamma.astype("float32"), beta.astype("float32")
    got, count = computed(x, dy, axis, gamma, beta, dtype)
    m = x.size // channels
    assert count == m
    names = ("y", "mean", "variance", "dx", "dgamma", "dbeta")
    for name, mine, right in zip(names, got, expected(x, dy, axis, gamma, beta), strict=True):
        if m == 0 and name in ("mean", "variance"):
            continue  # NaN, as the op says; the layer's gate keeps it out
        scale = np.sqrt(m) if name in ("dgamma", "dbeta") else 1
        statistic = name in ("mean", "variance")
        tolerance = STATISTICS if statistic else TOLERANCE[dtype] * max(scale, 1)
        np.testing.assert_allclose(mine, right, tolerance, tolerance, err_msg=f"{name} {shape}")


LAYOUTS = [
    ((7,), 0),
    ((33, 5), 1),
    ((5, 33), 0),
    ((300, 700), 1),
    ((4, 9, 3), 2),
    ((4, 3, 9), 1),
    ((3, 4, 9), 0),
    ((4, 6, 5, 3), 3),
    ((4, 3, 6, 5), 1),
    ((4, 6, 3, 5), 2),
    ((2, 16, 70, 70), 1),
    ((2, 70, 70, 16), 3),
    ((2, 3, 4, 5, 6), 4),
    ((2, 3, 4, 5, 6), 1),
    ((1, 1, 200_000), 1),
    ((70_000, 2), 1),
    ((64, 1), 1),
    ((1, 8), 1),
    ((2, 8), 1),
    ((0, 8), 1),
    ((0, 4, 4, 8), 3),
    ((3, 8, 0), 1),
    ((2, 40_000), 1),
    ((37, 9_001), 1),
    ((3, 5, 5, 600), 3),
    ((5, 3000, 7), 1),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS, ids=str)
def test_agrees_with_the_formulas(shape, axis, dtype):
    compare(shape, axis, dtype)


@settings(max_examples=150)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(
        lambda sizes: np.prod([max(size, 1) for size in sizes]) < 2e5
    ),
    st.integers(0, 4),
    st.integers(1, 70),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32 - 1),
)
def test_agrees_with_the_formulas_on_any_shape(shape, axis, channels, dtype, seed):
    axis %= len(shape)
    shape[axis] = channels
    compare(tuple(shape), axis, dtype, seed)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frozen_statistics_and_their_gradients(dtype, layout):
    rng = np.random.default_rng(0)
    shape, axis = ((8, 5, 6, 4), 3) if layout == "NHWC" else ((8, 4, 5, 6), 1)
    along = [1] * 4
    along[axis] = 4
    x, dy = (rounded(rng.normal(2, 3, shape), dtype) for _ in range(2))
    gamma, beta, mean = (rng.normal(size=4).astype("float32") for _ in range(3))
    variance = rng.uniform(1, 2, 4).astype("float32")
    inputs = [tf.cast(x, dtype), *(tf.constant(a) for a in (gamma, beta))]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = backend.normalize(inputs[0], axis, *inputs[1:], mean, variance, EPSILON)
    dx, dgamma, dbeta = tape.gradient(y, inputs, output_gradients=tf.cast(dy, dtype))
    inverse = (1 / np.sqrt(variance + EPSILON)).reshape(along)
    hat = (x - mean.reshape(along)) * inverse
    others = tuple(i for i in range(4) if i != axis)
    right = hat * gamma.reshape(along) + beta.reshape(along)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(tf.cast(y, "float32"), right, tolerance, tolerance)
    right = dy * inverse * gamma.reshape(along)
    np.testing.assert_allclose(tf.cast(dx, "float32"), right, tolerance, tolerance)
    np.testing.assert_allclose(dgamma, (dy * hat).sum(others), 10 * tolerance, 10 * tolerance)
    np.testing.assert_allclose(dbeta, dy.sum(others), 10 * tolerance, 10 * tolerance)


@pytest.mark.parametrize("shape", [(0, 700), (0, 4, 4, 300)], ids=str)
def test_an_empty_batch_of_many_channels_moves_nothing(shape):
    layer = kbn.BatchNormalization()
    layer.build((None, *shape[1:]))
    before = [v.numpy() for v in (layer.moving_mean, layer.moving_variance)]
    x = tf.zeros(shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        loss = tf.reduce_sum(y)
    assert y.shape == tape.gradient(loss, x).shape == shape
    assert y.dtype == "float32"
    for variable, value in zip((layer.moving_mean, layer.moving_variance), before, strict=True):
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(variable, value)


@native
@pytest.mark.parametrize("ratio", [1e2, 1e3, 1e4])
@pytest.mark.parametrize(("shape", "axis"), [((64, 9, 9, 6), 3), ((64, 6, 9, 9), 1)])
def test_a_large_mean_costs_no_accuracy(shape, axis, ratio):
    needed("kbn's compiled kernels", NATIVE)
    rng = np.random.default_rng(0)
    x, dy = rng.normal(ratio, 1, shape).astype("float32"), rng.normal(size=shape)
    gamma, beta = np.ones(6, "float32"), np.zeros(6, "float32")
    got, _ = computed(x, dy.astype("float32"), axis, gamma, beta, "float32")
    right = expected(x, dy, axis, gamma, beta)
    np.testing.assert_allclose(got[0], right[0], atol=1e-5)
    np.testing.assert_allclose(got[2], right[2], rtol=1e-5)
    np.testing.assert_allclose(got[3], right[3], atol=1e-5)


@native
def test_an_outlier_in_the_sample_for_the_pivot_costs_little():
    needed("kbn's compiled kernels", NATIVE)
    x = np.random.default_rng(0).normal(size=(4096, 3)).astype("float32")
    x[0] = 1e4  # the first value is always in the sample
    got, _ = computed(x, np.zeros_like(x), 1, np.ones(3, "f4"), np.zeros(3, "f4"), "float32")
    right = expected(x, np.zeros_like(x), 1, np.ones(3), np.zeros(3))
    np.testing.assert_allclose(got[2], right[2], rtol=1e-5)
    np.testing.assert_allclose(got[0], right[0], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_channel_is_not_finite_and_leaves_the_others(bad, dtype):
    x = np.random.default_rng(0).normal(size=(50, 20, 3)).astype("float32")
    x[33, 7, 1] = bad
    got, _ = computed(x, np.ones_like(x), 2, np.ones(3, "f4"), np.zeros(3, "f4"), dtype)
    assert not np.isfinite(got[2][1])
    for result in (got[0], got[3]):
        assert np.isfinite(result[..., [0, 2]]).all()
    assert np.isfinite(got[2][[0, 2]]).all()


@native  # TensorFlow's own multiply by an approximate 1/√1 where the CPU has AVX-512
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_as_tensorflow_does(dtype):
    # Every number of the format, through (x − 0)·1 + 0 and an epsilon that changes nothing.
    bits = np.arange(2**16, dtype="uint16").reshape(1, 1, -1, 1)
    x = tf.bitcast(bits, dtype)
    one, zero = tf.ones(1), tf.zeros(1)
    y = backend.normalize(x, 3, one, zero, zero, one, 1e-12)
    wide = tf.cast(x, "float32").numpy()
    finite = np.isfinite(wide) & ((np.abs(wide) >= 2.0**-126) | (wide == 0))
    np.testing.assert_array_equal(tf.cast(y, "float32").numpy()[finite], wide[finite])
    assert np.isnan(tf.cast(y, "float32").numpy()[np.isnan(wide)]).all()
    # Values between two numbers of the format, ties included.
    values = np.random.default_rng(0).normal(size=4096).astype("float32")
    values = np.concatenate([values, 1 + np.arange(64, dtype="float32") / 2**12, [1e-7, 7e4]])
    scaled = backend.normalize(
        tf.ones((1, 1, 1, len(values)), dtype), 3, tf.constant(values, "float32"),
        tf.zeros(len(values)), tf.zeros(len(values)), tf.ones(len(values)), 1e-12,
    )  # fmt: skip
    np.testing.assert_array_equal(
        tf.cast(scaled, "float32").numpy().ravel(),
        tf.cast(tf.cast(tf.constant(values, "float32"), dtype), "float32").numpy(),
    )


@pytest.mark.parametrize("training", [True, False])
def test_second_order_gradients_are_those_of_the_portable_path(training):
    x = np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype("float32")
    found = []
    for fused in (True, False):
        layer = kbn.BatchNormalization(fused=fused)
        layer.build(x.shape)
        inputs = tf.constant(x)
        with tf.GradientTape() as outer:
            outer.watch(inputs)
            with tf.GradientTape() as inner:
                inner.watch(inputs)
                y = tf.reduce_sum(tf.sin(layer(inputs, training=training)))
            slope = tf.reduce_sum(tf.square(inner.gradient(y, inputs)))
        found.append(outer.gradient(slope, inputs).numpy())
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)


RAW = """
import sys, numpy as np, tensorflow as tf
if sys.argv[2] == "kbn":
    from kbn.backend.tensorflow import native_kernels
    assert native_kernels.load().active, native_kernels.load()
rng, found = np.random.default_rng(0), {}
for layout, shape in (("NHWC", (6, 5, 4, 3)), ("NCHW", (6, 3, 5, 4)), ("NCHW", (2, 3, 30, 30))):
    for dtype in ("float32", "bfloat16", "float16"):
        for training, factor in ((True, 1.0), (True, 0.25), (False, 1.0)):
            x, dy = (tf.cast(rng.normal(1, 2, shape), dtype) for _ in range(2))
            scale, offset, mean = (tf.cast(rng.normal(1, 1, 3), "float32") for _ in range(3))
            variance, empty = tf.cast(rng.uniform(1, 2, 3), "float32"), tf.zeros(0)
            old = (empty, empty) if training and factor == 1 else (mean, variance)
            forward = tf.raw_ops.FusedBatchNormV3(
                x=x, scale=scale, offset=offset, mean=old[0], variance=old[1], epsilon=0.01,
                exponential_avg_factor=factor, data_format=layout, is_training=training)
            reserved = forward[3:] if training else (mean, variance, empty)
            if layout == "NCHW" and not training:
                backward = ()  # which TensorFlow's own kernel cannot
            else:
                backward = tf.raw_ops.FusedBatchNormGradV3(
                    y_backprop=dy, x=x, scale=scale, reserve_space_1=reserved[0],
                    reserve_space_2=reserved[1], reserve_space_3=reserved[2], epsilon=0.01,
                    data_format=layout, is_training=training)
            key = f"{layout} {shape} {dtype} {training} {factor}"
            for i, value in enumerate([*forward[: 5 if training else 3], *backward[:3]]):
                found[f"{key} {i}"] = tf.cast(value, "float32").numpy()
np.savez(sys.argv[1], **found)
"""


@pytest.mark.thorough
@native
@pytest.mark.parametrize("onednn", ["0", "1"])
def test_kbns_kernels_compute_the_same_as_tensorflows(onednn, python, tmp_path):
    needed("kbn's compiled kernels", NATIVE)
    found = []
    for kernels in ("kbn", "tensorflow"):
        python("-c", RAW, f"{kernels}.npz", kernels, TF_ENABLE_ONEDNN_OPTS=onednn)
        found.append(np.load(tmp_path / f"{kernels}.npz"))
    assert set(found[0]) == set(found[1])
    for name in found[0]:
        tolerance = 1e-4 if "float32" in name else 0.06
        np.testing.assert_allclose(
            found[0][name], found[1][name], tolerance, tolerance, err_msg=name
        )


THREADS = """
import sys, numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from kbn.backend.tensorflow import native_kernels
from kbn.ops.moments import by_kernel
assert native_kernels.load().active and native_kernels.threads() == int(sys.argv[1])
for shape, axis in (((300, 7, 5, 96), 3), ((30, 96, 35, 5), 1), ((2, 4, 400, 400), 1)):
    x = tf.random.stateless_normal(shape, (0, 0))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y, batch = by_kernel(
            x, axis, tf.ones(shape[axis]), tf.zeros(shape[axis]), 1e-3)
        loss = tf.reduce_sum(y * x)
    for result in (y, batch.mean, batch.variance, tape.gradient(loss, x)):
        print(result.numpy().tobytes().__hash__())
"""


@pytest.mark.thorough
@native
def test_the_number_of_threads_changes_no_bit(python):
    needed("kbn's compiled kernels", NATIVE)
    one, three = (python("-c", THREADS, n, PYTHONHASHSEED="0").stdout for n in ("1", "3"))
    assert one == three != ""


RACE = """
import sys, threading, tensorflow as tf
import kbn
from kbn.backend.tensorflow import native_kernels
x = tf.ones((2, 2, 2, 3)) * tf.constant([[[[1.0, 2.0, 3.0]]]])
tf.raw_ops.FusedBatchNormV3(x=x, scale=tf.ones(3), offset=tf.zeros(3), mean=[], variance=[],
                            epsilon=1e-3, is_training=True)  # keeps TensorFlow's kernel at hand
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(8)
def load():
    barrier.wait()
    native_kernels.load()
threads = [threading.Thread(target=load) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
big = tf.random.stateless_normal((64, 8, 8, 3), (0, 0)) + 1e4
error = kbn.BatchNormalization()(big, training=True) - kbn.BatchNormalization(fused=False)(
    big, training=True)
print(float(tf.reduce_max(tf.abs(error))) < 1e-4)
"""


@pytest.mark.thorough
@native
def test_many_threads_may_be_first_and_tensorflow_before_them(python):
    needed("kbn's compiled kernels", NATIVE)
    assert python("-c", RACE).stdout.strip() == "True"


@native
def test_outputs_reuse_buffers_of_unused_inputs(python):
    needed("kbn's compiled kernels", NATIVE)
    one, zero = tf.ones(4), tf.zeros(4)
    x = np.random.default_rng(0).normal(size=(64, 32, 32, 4)).astype("float32")

    def normalized(x, keep):
        y = tf.sin(x)
        z = backend.normalize(y, 3, one, zero, zero, one, 1e-12)
        return z, y if keep else None

    for keep in (True, False):
        for result in tf.function(normalized)(x, keep):
            if result is not None:
                np.testing.assert_allclose(result, np.sin(x), rtol=1e-5, atol=1e-6)


@native
def test_two_kernels_at_once_do_not_disturb_each_other():
    needed("kbn's compiled kernels", NATIVE)
    x = np.random.default_rng(0).normal(size=(4, 200, 200, 8)).astype("float32")

    @tf.function
    def many(x):
        parts = [by_kernel(x * float(i), 3, tf.ones(8), tf.zeros(8), 1e-12)[0] for i in range(1, 9)]
        return tf.stack(parts)

    for _ in range(5):
        for part in many(x):
            np.testing.assert_allclose(part, many(x)[0], atol=1e-4)


@pytest.mark.thorough
@native
@pytest.mark.parametrize("options", [{"KBN_NATIVE": "0"}, {"KBN_NATIVE": "0", "ONEDNN": "1"}])
def test_tensorflows_own_kernels_pass_too(options, python):
    options["TF_ENABLE_ONEDNN_OPTS"] = options.pop("ONEDNN", "0")
    done = python("-m", "pytest", "-q", "--rootdir", ROOT, "-c", f"{ROOT}/setup.cfg",
                  f"{__file__}", PYTHONPATH=ROOT, check=False, **options)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.thorough
def test_why_kbns_kernels_do_not_run(python, monkeypatch):
    code = "from kbn.backend.tensorflow import native_kernels; print(native_kernels.load())"
    said = python("-c", code, KBN_NATIVE="0").stdout.strip()
    assert said == "Kernels(active=False, reason='KBN_NATIVE=0 is set')"
    load = native_library.load.__wrapped__
    monkeypatch.setenv("KBN_NATIVE", "1")
    monkeypatch.setattr(native_library.importlib.util, "find_spec", lambda name: None)
    assert load() == (None, "kbn was installed without a C++ compiler")


def test_a_wrong_call_of_the_op_raises():
    x, two = tf.zeros((2, 2, 2, 3)), tf.zeros(2)
    with pytest.raises(
        (tf.errors.InvalidArgumentError, ValueError), match=r"(?i)scale|channel|dim"
    ):
        by_kernel(x, 3, two, two, EPSILON)


@pytest.mark.thorough
def test_saved_models_run_without_kbn(python, tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), kbn.BatchNormalization()])
    x = np.random.default_rng(0).normal(2, 3, (16, 8, 8, 3)).astype("float32")
    model.compile("sgd", "mse")
    model.fit(x, x, verbose=0)
    model.export(tmp_path / "saved", verbose=False)
    np.savez(tmp_path / "data.npz", x=x, y=model.predict(x, verbose=0))
    code = """
import sys, numpy as np, tensorflow as tf
data = np.load("data.npz")
saved = tf.saved_model.load("saved")
y = saved.serve(data["x"])
np.testing.assert_allclose(y, data["y"], rtol=1e-4, atol=1e-5)
print("kbn" in sys.modules)
"""
    assert python("-c", code).stdout.strip() == "False"
