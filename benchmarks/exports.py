"""What converters make of nets with kbn's layer and with Keras's: operators and bytes.

    python -m benchmarks.exports [NET ...]     # all nets by default: about 15 minutes

It prints the tables of docs/exports.md as Markdown.
"""

import contextlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import kbn
from benchmarks.export_nets import NETS, build, samples

BATCH = 2
LAYERS = {"kbn": kbn.BatchNormalization, "keras": keras.layers.BatchNormalization}


class Export(NamedTuple):
    """What a converter made of a net.

    Attributes:
        operators: number of operators in the file.
        size: bytes of the file; of a SavedModel, those of saved_model.pb.
        loaded: TFLite: number of parts that the XNNPACK delegate runs, or None if it refuses the
            file. ONNX: number of operators after onnxruntime has loaded the file. Else None.
        quantum: the step of the outputs; 0 if they are floats.
        outputs: the outputs for `samples(net, BATCH)`.
        expected: the outputs of the net itself.
    """

    operators: int
    size: int
    loaded: int | None
    quantum: float
    outputs: np.ndarray
    expected: np.ndarray


def export(net: str, layer: str, converter: str, batch: int | None) -> Export:
    """Convert a net.

    Args:
        net: a name in `NETS`.
        layer: a name in `LAYERS`.
        converter: a name in `CONVERTERS`.
        batch: the batch size, or None for any.
    """
    model, x = build(net, LAYERS[layer], batch), samples(net, BATCH)
    expected = keras.ops.convert_to_numpy(model(x))
    # TensorFlow prints each SavedModel's endpoints.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated")
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")
        return Export(*CONVERTERS[converter](model, x), expected)


def available(converter: str) -> bool:
    """Return whether the packages of a converter are installed."""
    if converter != "ONNX":
        return True
    try:
        import onnx
        import onnxruntime
        import tf2onnx
    except ImportError:
        return False
    return bool(onnx and onnxruntime and tf2onnx)


def _tflite(model: keras.Model, x: np.ndarray, **settings: Any) -> tuple[Any, ...]:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    for name, value in settings.items():
        setattr(converter, name, value)
    return _tflite_sizes(converter.convert(), x)


def _tflite_int8(model: keras.Model, x: np.ndarray) -> tuple[Any, ...]:
    data = np.random.default_rng(1).normal(size=(16, *x.shape)).astype("float32")
    spec = tf.lite.TargetSpec(supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8])
    return _tflite(
        model,
        x,
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: ([batch] for batch in data),
        target_spec=spec,
        inference_input_type=tf.int8,
        inference_output_type=tf.int8,
    )


def _litert(model: keras.Model, x: np.ndarray) -> tuple[Any, ...]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        model.export(path, format="litert", verbose=False)
        return _tflite_sizes(path.read_bytes(), x)


def _tflite_sizes(content: bytes, x: np.ndarray) -> tuple[Any, ...]:
    plain = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = tf.lite.Interpreter(
        model_content=content, experimental_op_resolver_type=plain, num_threads=1
    )
    operators = len(interpreter._get_ops_details())
    outputs, quantum = _run_tflite(interpreter, x)
    return operators, len(content), _partitions(content), quantum, outputs


def _partitions(content: bytes) -> int | None:
    try:
        interpreter = tf.lite.Interpreter(model_content=content)
        interpreter.allocate_tensors()
    except RuntimeError:  # XNNPACK refuses the file
        return None
    return sum(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())


def _run_tflite(interpreter: Any, x: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the outputs as floats, and the step between two values of them."""
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(source["index"], x.shape)
    interpreter.allocate_tensors()
    scale, zero = source["quantization"]
    if scale:
        x = np.clip(np.round(x / scale) + zero, -128, 127).astype("int8")
    interpreter.set_tensor(source["index"], x)
    interpreter.invoke()
    outputs = interpreter.get_tensor(result["index"])
    scale, zero = result["quantization"]
    return (outputs.astype("float32") - zero) * scale if scale else outputs, float(scale)


def _onnx(model: keras.Model, x: np.ndarray) -> tuple[Any, ...]:
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model.export(path, format="onnx", verbose=False)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # It warns that a saved optimized model suits one machine.
        options.optimized_model_filepath = str(Path(folder) / "loaded.onnx")
        session = onnxruntime.InferenceSession(path, options)
        (outputs,) = session.run(None, {session.get_inputs()[0].name: x})
        file, loaded = onnx.load(path), onnx.load(options.optimized_model_filepath)
        operators = len(file.graph.node)
        _shorten_names(file.graph, {})
        return operators, file.ByteSize(), len(loaded.graph.node), 0.0, outputs


def _shorten_names(graph: Any, names: dict[str, str]) -> None:
    """Name tensors and free axes by numbers of one width, and nodes not at all.

    tf2onnx gives other names in every export, so the bytes of two exports would not compare.
    """

    def short(name: str) -> str:
        return name and names.setdefault(name, f"{len(names):04}")

    for tensor in (*graph.input, *graph.initializer, *graph.output):
        tensor.name = short(tensor.name)
    axes = [each.type.tensor_type.shape.dim for each in (*graph.input, *graph.output)]
    for axis in filter(lambda axis: axis.dim_param, chain.from_iterable(axes)):
        axis.dim_param = short(axis.dim_param)
    for node in graph.node:
        node.name = ""
        node.input[:], node.output[:] = map(short, node.input), map(short, node.output)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _shorten_names(attribute.g, names)
    graph.name = ""
    del graph.value_info[:]


def _saved_model(model: keras.Model, x: np.ndarray) -> tuple[Any, ...]:
    """Count the nodes of the serving function after its variables became constants."""
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False)
        loaded = tf.saved_model.load(folder)
        frozen = convert_variables_to_constants_v2(loaded.signatures["serving_default"])
        size = (Path(folder) / "saved_model.pb").stat().st_size
        outputs = loaded.serve(x).numpy()
    return len(frozen.graph.as_graph_def().node), size, None, 0.0, outputs


def _tflite_dynamic(model: keras.Model, x: np.ndarray) -> tuple[Any, ...]:
    return _tflite(model, x, optimizations=[tf.lite.Optimize.DEFAULT])


Converter = Callable[[keras.Model, np.ndarray], tuple[Any, ...]]
CONVERTERS: dict[str, Converter] = {
    "TFLite": _tflite,
    "TFLite, dynamic range": _tflite_dynamic,
    "TFLite, int8": _tflite_int8,
    "LiteRT": _litert,
    "ONNX": _onnx,
    "SavedModel": _saved_model,
}


def worse(ours: Export, theirs: Export) -> list[str]:
    """Return what is larger with kbn's layer: "operators", "size", "loaded"."""
    pairs = {name: (getattr(ours, name), getattr(theirs, name)) for name in COUNTS}
    return [name for name, (mine, other) in pairs.items() if (mine or 0) > (other or 0)]


COUNTS = ("operators", "loaded", "size")


def cell(ours: Export, theirs: Export) -> str:
    """Return the counts of two exports as text. What is larger with kbn's layer is bold."""
    larger = worse(ours, theirs)
    texts = []
    for name in COUNTS:
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine is not None and other is not None:
            texts.append(f"**{mine:,}** / {other:,}" if name in larger else f"{mine:,} / {other:,}")
    return "; ".join(texts)


def main() -> None:
    """Print one table for any batch size and one for a fixed one."""
    names = [name for name in CONVERTERS if available(name)]
    for batch in (None, BATCH):
        print(f"\nBatch size: {batch or 'any'}\n")
        print("| net | " + " | ".join(names) + " |")
        print("|---" * (1 + len(names)) + "|")
        for net in sys.argv[1:] or NETS:
            cells = [cell(*(export(net, layer, name, batch) for layer in LAYERS)) for name in names]
            print(f"| {net} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
