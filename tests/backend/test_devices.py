"""What the layer does if a GPU is visible.

No GPU is needed: the one function that asks for the device is replaced, and XLA's program is read
before XLA optimizes it, when it is the same for every device.
"""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import kbn
from benchmarks.programs import SHAPES, counts, layer_program, simulated_gpu, table
from kbn.backend.tensorflow.compiling import runs_on_cpu
from kbn.backend.tensorflow.normalization import kernel
from tests.support import ROOT

NORM, KERAS = kbn.BatchNormalization, keras.layers.BatchNormalization
OPTIONS = [{}, {"momentum": None}, {"zero_debias": True}, {"renorm": True}]


def program(cls, shape, axis, policy="float32", **options):
    text = layer_program(cls(axis=axis, dtype=policy, **options), shape)
    return counts(text, math.prod(shape))


@pytest.mark.basic("4-D NHWC-float32", "4-D NCHW-mixed_float16", "2-D-float32")
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)
def test_a_gpu_gets_no_loop_and_no_more_passes_than_from_keras_layer(shape, axis, policy):
    with simulated_gpu():
        ours = program(NORM, shape, axis, policy)
    theirs = program(KERAS, shape, axis, policy)
    assert theirs == (0, 4, 5, 0)
    assert ours == (0, 4, 4, 0)


@pytest.mark.thorough
def test_the_page_has_the_table():
    page = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
    assert "\n".join(table()) in page


@pytest.mark.basic("*renorm*")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_no_option_adds_a_loop_or_a_pass_on_a_gpu(options):
    with simulated_gpu():
        assert program(NORM, (64, 32), -1, **options) == (0, 4, 4, 0)


def test_a_cpu_gets_loops_instead_of_sums():
    found = program(NORM, (256, 64), -1)
    assert found.loops > 0
    assert found.sums == 0


def test_a_gpu_gets_a_training_step_without_copies_to_the_host():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), NORM(), keras.layers.ReLU(),
         keras.layers.Flatten(), keras.layers.Dense(2), NORM()]
    )  # fmt: skip
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    data = tf.zeros((16, 8, 8, 3)), tf.zeros((16, 2))
    with simulated_gpu():
        step = tf.function(lambda x, y: model.train_step((x, y)), jit_compile=True)
        found = counts(step.experimental_get_compiler_ir(*data)(stage="hlo"), 16 * 6 * 6 * 4)
    assert found.loops == found.host == 0


@pytest.mark.basic("*3)--1-10000.0")
@pytest.mark.parametrize("ratio", [1, 1e4])
@pytest.mark.parametrize(("shape", "axis"), [((64, 5, 5, 3), -1), ((64, 3, 5, 5), 1)], ids=str)
def test_the_sums_for_a_gpu_are_as_exact(shape, axis, ratio):
    x = np.random.default_rng(0).normal(ratio, 1, shape).astype("float32")
    layer = NORM(axis=axis, momentum=0.0, unbiased_variance=False)
    layer.build(shape)
    with simulated_gpu():
        tf.function(lambda x: layer(x, training=True), jit_compile=True)(x)
    others = tuple(i for i in range(4) if i != axis % 4)
    np.testing.assert_allclose(layer.moving_mean, x.astype("float64").mean(others), rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, x.astype("float64").var(others), rtol=1e-5)


def device(kind):
    return SimpleNamespace(device_type=kind)


@pytest.mark.parametrize(
    ("devices", "scope", "right"),
    [
        (["CPU"], None, True),
        (["CPU", "CPU"], None, True),
        (["CPU", "GPU"], None, False),
        (["CPU", "TPU"], None, False),
        (["CPU", "GPU"], "/CPU:0", True),
        (["CPU", "GPU"], "/job:localhost/device:GPU:0", False),
    ],
)
def test_on_which_device_code_runs(devices, scope, right, monkeypatch):
    monkeypatch.setattr(
        tf.config, "list_logical_devices", lambda: [device(kind) for kind in devices]
    )
    found = []
    with tf.device(scope):
        found.append(runs_on_cpu())
        tf.function(lambda: found.append(runs_on_cpu())).get_concrete_function()
    assert found == [right, right]


def test_kbns_cpu_kernels_are_not_said_to_run_on_a_gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: [device("CPU"), device("GPU")])
    on_gpu = kernel("float32")
    assert on_gpu == (None, "FusedBatchNormV3, TensorFlow's kernel for the GPU or TPU", False)
    with tf.device("/CPU:0"):
        assert kernel("float32").description.startswith("FusedBatchNormV3, ")
        assert kernel("float32") != on_gpu
