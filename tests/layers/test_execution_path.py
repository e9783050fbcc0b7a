"""Which path a call takes, and that the layer says so truly."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import kbn
from kbn.backend.tensorflow.normalization import DTYPES
from kbn.layers.execution_path import Path

X = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype("float32")
MASK = np.ones((8,), bool)

# Options, dtype of the inputs, arguments of the call, and why the kernel is not taken.
PORTABLE = [
    ({"fused": False}, "float32", {"training": True}, "fused=False"),
    ({"fused": False}, "float32", {}, "fused=False"),
    (
        {"dtype": "float64"},
        "float64",
        {"training": True},
        "the fused kernel does not support float64",
    ),
    ({"dtype": "float64"}, "float64", {}, "the fused kernel does not support float64"),
    ({}, "float32", {"training": True, "mask": MASK}, "the fused kernel does not support masks"),
    ({}, "float32", {"mask": MASK}, "the fused kernel does not support masks"),
    (
        {"virtual_batch_size": 4},
        "float32",
        {"training": True},
        "the fused kernel does not support virtual_batch_size",
    ),
    ({"renorm": True}, "float32", {"training": True}, "the fused kernel does not support renorm"),
]
FUSED = [
    ({}, "float32", {"training": True}),
    ({}, "float32", {}),
    ({}, "int32", {"training": True}),
    ({"axis": 1}, "float32", {"training": True}),
    ({"axis": 2}, "float32", {}),
    ({"dtype": "mixed_bfloat16"}, "bfloat16", {"training": True}),
    ({"dtype": "float16"}, "float16", {"training": True}),
    ({"virtual_batch_size": 4}, "float32", {}),
    ({"renorm": True}, "float32", {}),
    ({"synchronized": True}, "float32", {"training": True}),
    ({"trainable": False, "virtual_batch_size": 4}, "float32", {"training": True}),
    ({"momentum": None}, "float32", {"training": True}),
    ({"zero_debias": True, "center": False, "scale": False}, "float32", {"training": True}),
]


def ops_of(layer, x, **arguments):
    """Return the names of the ops that a call of the layer is made of."""
    graph = tf.function(lambda x: layer(x, **arguments)).get_concrete_function(x).graph
    return {op.type for op in graph.get_operations()}


@pytest.mark.parametrize(("options", "dtype", "arguments", "why"), PORTABLE, ids=str)
def test_calls_that_do_not_use_the_kernel(options, dtype, arguments, why):
    layer, x = kbn.BatchNormalization(**options), tf.cast(X, dtype)
    layer.build(x.shape)
    assert layer.execution_path(x, **arguments) == (False, why)
    assert "FusedBatchNormV3" not in ops_of(layer, x, **arguments)


@pytest.mark.parametrize(("options", "dtype", "arguments"), FUSED, ids=str)
def test_calls_that_use_the_kernel(options, dtype, arguments):
    layer, x = kbn.BatchNormalization(**options), tf.cast(X, dtype)
    layer.build(x.shape)
    path = layer.execution_path(x, **arguments)
    assert path.fused
    assert path.reason.startswith("FusedBatchNormV3, ")
    ops = ops_of(layer, x, **arguments)
    assert "FusedBatchNormV3" in ops
    assert "Transpose" not in ops


FOLDABLE = "converters fold inference outside rank 4 only if it is a multiplication and an addition"


@pytest.mark.parametrize("dtype", [*DTYPES, "float64"])
@pytest.mark.parametrize(("shape", "axis"), [((8, 3), -1), ((8, 3, 5), 1)], ids=str)
def test_inference_outside_rank_4_can_be_folded(shape, axis, dtype):
    layer, x = kbn.BatchNormalization(axis=axis, dtype=dtype), tf.ones(shape, dtype)
    layer.build(shape)
    assert layer.execution_path(x) == (False, FOLDABLE)
    assert {"Mul", "AddV2"} <= ops_of(layer, x)
    assert "FusedBatchNormV3" not in ops_of(layer, x)
    assert layer.execution_path(x, mask=MASK).reason == "the fused kernel does not support masks"
    assert layer.execution_path(x, training=True).reason != FOLDABLE
    layer.trainable = False
    assert layer.execution_path(x, training=True) == (False, FOLDABLE)


@pytest.mark.parametrize(("fused", "taken"), [(True, True), (False, False)])
def test_an_explicit_choice_holds_in_inference_outside_rank_4(fused, taken):
    x = np.random.default_rng(0).normal(1e4, 1, (64, 4)).astype("float32")
    layer = kbn.BatchNormalization(fused=fused)
    layer.build(x.shape)
    layer.moving_mean.assign(x.mean(0))
    assert layer.execution_path(x).fused is taken
    assert ("FusedBatchNormV3" in ops_of(layer, x)) is taken
    wanted = (x.astype("float64") - layer.moving_mean.numpy().astype("float64")) / np.sqrt(1.001)
    np.testing.assert_allclose(layer(x), wanted, atol=1e-5)


@pytest.mark.parametrize("fused", ["auto", False])
def test_training_reads_each_variable_once(fused):
    layer = kbn.BatchNormalization(fused=fused)
    layer.build(X.shape)
    step = tf.function(lambda x: layer(x, training=True)).get_concrete_function(tf.constant(X))
    kinds = [op.type for op in step.graph.get_operations()]
    read = len([*layer.weights, layer._skipped_counter()])
    assert (kinds.count("ReadVariableOp"), kinds.count("AssignVariableOp")) == (read, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_takes_activations_as_they_are(dtype):
    layer = kbn.BatchNormalization(dtype=dtype)
    x = tf.cast(X, dtype)
    layer.build(x.shape)
    graph = tf.function(lambda x: layer(x, training=True)).get_concrete_function(x).graph
    kernels = [op for op in graph.get_operations() if op.type == "FusedBatchNormV3"]
    assert [op.inputs[0].dtype for op in kernels] == [dtype]
    assert all(op.outputs[0].shape.rank < 2 for op in graph.get_operations() if op.type == "Cast")


@pytest.mark.parametrize("training", [True, False])
def test_inside_xla_the_portable_path_is_taken(training):
    layer = kbn.BatchNormalization()
    layer.build(X.shape)
    paths = []

    @tf.function(jit_compile=True)
    def outer(x):
        @tf.function
        def inner(x):
            paths.append(layer.execution_path(x, training=training))
            return layer(x, training=training)

        def body(i, x):
            return i + 1, inner(x)

        return tf.while_loop(lambda i, x: i < 2, body, (0, x))[1]

    outer(X)
    assert set(paths) == {
        (False, "inside XLA the fused kernel computes wrong variances at a large mean")
    }
    assert layer.execution_path(X, training=training).fused


def test_fit_with_and_without_xla():
    seen = []
    for jit in (False, True):
        model = keras.Sequential([keras.Input((4, 4, 3)), kbn.BatchNormalization()])
        layer = model.layers[0]
        original = layer.execution_path

        def noted(*arguments, original=original, **keywords):
            seen.append(original(*arguments, **keywords))
            return seen[-1]

        layer.execution_path = noted
        model.compile("sgd", "mse", jit_compile=jit)
        model.fit(X, X, verbose=0)
    assert seen[0].fused
    assert not seen[-1].fused


def test_auto_clustering_is_xla_too():
    layer = kbn.BatchNormalization()
    layer.build(X.shape)
    tf.config.optimizer.set_jit("autoclustering")
    try:
        assert "FusedBatchNormV3" not in ops_of(layer, tf.constant(X), training=True)
    finally:
        tf.config.optimizer.set_jit(False)


@pytest.mark.parametrize(
    ("options", "dtype", "arguments", "why"),
    [
        (
            {},
            "float32",
            {"training": True, "mask": MASK},
            "the fused kernel does not support masks",
        ),
        ({}, "float32", {"mask": MASK}, "the fused kernel does not support masks"),
        ({"dtype": "float64"}, "float64", {}, "the fused kernel does not support float64"),
    ],
)
def test_true_raises_if_the_kernel_cannot_be_used(options, dtype, arguments, why):
    layer = kbn.BatchNormalization(fused=True, name="norm", **options)
    x = tf.cast(X, dtype)
    message = (
        f"fused=True, but {why}. Use fused='auto' to take the portable path. "
        f"Received: layer='norm', inputs.dtype={dtype}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        layer(x, **arguments)
    with pytest.raises(ValueError, match=re.escape(message)):
        layer.execution_path(x, **arguments)


def test_true_raises_inside_xla():
    layer = kbn.BatchNormalization(fused=True)
    layer.build(X.shape)
    step = tf.function(lambda x: layer(x, training=True), jit_compile=True)
    with pytest.raises(
        ValueError, match="fused=True, but inside XLA the fused kernel computes wrong variances"
    ):
        step(X)


def test_a_path_reads_well():
    assert (
        str(Path(False, "the fused kernel does not support masks"))
        == "portable: the fused kernel does not support masks"
    )
    assert str(Path(True, "FusedBatchNormV3, …")) == "fused: FusedBatchNormV3, …"


def test_a_path_is_that_of_the_call_which_keras_prepares():
    layer = kbn.BatchNormalization(fused=True)
    wide = np.zeros((4, 3))  # float64, which Keras casts
    assert layer.execution_path(wide, training=True).fused
    assert layer(wide, training=True).dtype == "float32"
    assert layer.execution_path([[1.0, 2.0]]).fused
    embedded = keras.layers.Embedding(5, 3, mask_zero=True)(np.array([[1, 2, 0]]))
    with pytest.raises(ValueError, match="the fused kernel does not support masks"):
        layer.execution_path(embedded)
    double = kbn.BatchNormalization(dtype="float64")
    assert double.execution_path(X) == (False, "the fused kernel does not support float64")


def test_clustering_by_environment_is_xla_too(monkeypatch):
    layer = kbn.BatchNormalization()
    layer.build(X.shape)
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit")
    assert "FusedBatchNormV3" not in ops_of(layer, tf.constant(X), training=True)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"zero_debias": True}, {"renorm": True}], ids=str
)
def test_float64_with_an_unknown_batch_size(options, jit):
    layers = [kbn.BatchNormalization(dtype="float64", **options) for _ in range(2)]
    x = np.random.default_rng(0).normal(size=(5, 3))
    for layer in layers:
        layer.build((None, 3))
    spec = [tf.TensorSpec((None, 3), "float64")]
    step = tf.function(lambda x: layers[0](x, training=True), input_signature=spec, jit_compile=jit)
    np.testing.assert_allclose(step(x), layers[1](x, training=True), rtol=1e-12)
    for mine, other in zip(*(layer.get_weights() for layer in layers), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12)
