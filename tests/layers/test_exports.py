"""What converters make of nets with kbn's layer is at most what they make with Keras's layer.

docs/exports.md has the whole table, and `python -m benchmarks.exports` prints it.
"""

from collections import Counter
from fnmatch import fnmatch

import keras
import numpy as np
import pytest
import tensorflow as tf

import kbn
from benchmarks.export_nets import NETS
from benchmarks.exports import BATCH, CONVERTERS, available, export, worse
from tests.conftest import needed
from tests.support.ids import plain

TOLERANCE = 1e-5
TFLITE = [name for name in CONVERTERS if name.startswith(("TFLite", "LiteRT"))]
BATCHES = [(name, None) for name in CONVERTERS] + [(name, BATCH) for name in TFLITE]
# What is larger with kbn's layer, by patterns of net and converter. These nets normalize images.
# There the layer keeps its kernel, whose op has four vectors per layer where Keras's form has two.
LARGER = {
    ("SeparableConv2D", "ONNX"): ["size"],
    # tf2onnx does not fold normalization into a convolution right after another one. onnxruntime
    # does when it loads the file.
    ("SeparableConv2D without bias", "ONNX"): ["operators", "size"],
    ("Conv2DTranspose", "ONNX"): ["size"],
    ("sum of two branches", "ONNX"): ["size"],
    ("images, axis=1", "ONNX"): ["size"],
    # TFLite has no op for channels first, and transposes.
    ("images, axis=1", "TFLite*"): ["operators", "size"],
    ("images, axis=1", "LiteRT"): ["operators", "size"],
}


def larger(net, converter):
    found = [
        names for (one, other), names in LARGER.items() if one == net and fnmatch(converter, other)
    ]
    return found[0] if found else []


def error(exported):
    return np.abs(exported.outputs - exported.expected).max()


@pytest.mark.filterwarnings("ignore:.*np.object:FutureWarning")  # Keras's patch of tf2onnx
@pytest.mark.basic("Dense, ReLU-TFLite-None", "Dense, ReLU-ONNX-None")
@pytest.mark.parametrize(("converter", "batch"), BATCHES, ids=plain)
@pytest.mark.parametrize("net", NETS)
def test_no_export_is_larger_than_with_keras_layer(net, converter, batch):
    needed("The extra `test` (onnx, onnxruntime, tf2onnx)", available(converter))
    ours, theirs = (export(net, layer, converter, batch) for layer in ("kbn", "keras"))
    assert worse(ours, theirs) == larger(net, converter), (ours[:3], theirs[:3])
    np.testing.assert_allclose(ours.expected, theirs.expected, atol=TOLERANCE)
    quantized = "range" in converter or "int8" in converter
    coarser = 1.5 * error(theirs) + ours.quantum if quantized else 0.0
    assert error(ours) <= TOLERANCE + coarser


SHAPES = [((4, 3), -1), ((4, 5, 3), -1), ((4, 3, 5), 1), ((4, 2, 5, 2, 3), -1), ((3, 4), 0)]
OPTIONS = [
    {}, {"center": False}, {"scale": False}, {"renorm": True}, {"momentum": None},
    {"zero_debias": True}, {"virtual_batch_size": 2}, {"synchronized": True},
]  # fmt: skip


def ops_of(layer, shape):
    """Return the ops of a call in inference, apart from those that only pass values on."""
    layer.build((None, *shape[1:]) if layer.axis else shape)
    spec = tf.TensorSpec((None, *shape[1:]) if layer.axis else shape, layer.compute_dtype)
    graph = tf.function(layer).get_concrete_function(spec).graph
    return Counter(op.type for op in graph.get_operations() if op.type not in PASSIVE)


PASSIVE = ("Placeholder", "Const", "Identity", "NoOp")


@pytest.mark.basic("*-{}-*", "*center*-float32", "*scale*-float32")
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16", "float64"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_inference_outside_rank_4_has_the_ops_of_keras_layer(shape, axis, options, policy):
    ours = kbn.BatchNormalization(axis=axis, dtype=policy, **options)
    known = {name: value for name, value in options.items() if name in ("center", "scale")}
    theirs = keras.layers.BatchNormalization(axis=axis, dtype=policy, **known)
    if axis == 0 and "virtual_batch_size" in options:
        pytest.skip("the channels cannot be the axis of the ghost batches")
    mine, other = ops_of(ours, shape), ops_of(theirs, shape)
    assert mine <= other, mine - other
