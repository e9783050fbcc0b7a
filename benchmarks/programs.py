"""The programs that XLA gets of the layer: loops, sums and passes over the activation.

    python -m benchmarks.programs

It prints the table of docs/devices.md as Markdown. It needs no GPU, because XLA's input is the same
on every device.
"""

import contextlib
import math
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf

import kbn
from kbn.backend.tensorflow import channel_sums

SHAPES = {
    "4-D NHWC": ((32, 14, 14, 64), -1),
    "4-D NCHW": ((32, 64, 14, 14), 1),
    "2-D": ((256, 1024), -1),
}
POLICIES = ("float32", "mixed_float16")
HOST = ("infeed", "outfeed", "send", "recv", "custom-call")
"""Instructions that may copy to or from the host."""


class Program(NamedTuple):
    """Counts of an XLA program before XLA optimizes it.

    Attributes:
        loops: number of loops.
        sums: number of reductions of an activation.
        passes: the fewest passes over activations: the longest chain of sums in which each needs
            the one before, and one pass for each activation that is returned. A GPU computes sums
            that do not need each other, and the elementwise operations around them, in one pass.
        host: number of instructions that may copy to or from the host.
    """

    loops: int
    sums: int
    passes: int
    host: int


@contextlib.contextmanager
def simulated_gpu() -> Iterator[None]:
    """Let the layer trace what it traces if XLA compiles for a GPU."""
    with mock.patch.object(channel_sums, "runs_on_cpu", return_value=False):
        yield


def layer_program(layer: keras.layers.Layer, shape: tuple[int, ...], stage: str = "hlo") -> str:
    """Return the text of a training step of a layer: outputs, and all gradients."""
    layer.build(shape)

    @tf.function(jit_compile=True)
    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        sources = [x, layer.gamma.value, layer.beta.value]
        # The gradient of the outputs depends on the outputs, as it does in a network.
        return y, tape.gradient(y, sources, output_gradients=keras.ops.relu(y))

    x = tf.zeros(shape, layer.compute_dtype)
    return str(step.experimental_get_compiler_ir(x)(stage=stage))


def counts(text: str, size: int) -> Program:
    """Count what `Program` lists in a program whose activations have `size` values."""
    entry = text[text.index("\nENTRY") :]
    depths: dict[str, int] = {}
    sums = 0
    for name, operation, operands in INSTRUCTION.findall(entry):
        names = re.findall(r"%([\w.-]+)", operands)
        is_sum = operation == "reduce" and _elements(operands) == size
        sums += is_sum
        depths[name] = max((depths.get(operand, 0) for operand in names), default=0) + is_sum
    results = entry[entry.index("->") : entry.index("{\n")]
    written = sum(math.prod(map(int, dims.split(","))) == size for dims in SHAPE.findall(results))
    operations = [operation for _, operation, _ in INSTRUCTION.findall(text)]
    return Program(
        operations.count("while"),
        sums,
        max(depths.values()) + written,
        sum(operation in HOST for operation in operations),
    )


INSTRUCTION = re.compile(r"%([\w.-]+) = (?:\(.*?\)|\S+) ([a-z][\w-]*)\((.*)")
SHAPE = re.compile(r"\[([\d,]+)\]")


def _elements(operands: str) -> int:
    """Return the number of values of the first operand."""
    found = SHAPE.search(operands)
    return math.prod(map(int, found.group(1).split(","))) if found else 1


def table() -> list[str]:
    """Return the lines of the table, for a GPU: kbn's counts beside those of Keras's layer."""
    head = "loops", "sums of an activation", "passes over activations", "copies to or from the host"
    lines = ["| layer | dtype | " + " | ".join(head) + " |", "|---" * (2 + len(head)) + "|"]
    classes = kbn.BatchNormalization, keras.layers.BatchNormalization
    for name, (shape, axis) in SHAPES.items():
        for policy in POLICIES:
            with simulated_gpu():
                texts = [layer_program(cls(axis=axis, dtype=policy), shape) for cls in classes]
            found = [counts(text, math.prod(shape)) for text in texts]
            pairs = [f"{mine} / {other}" for mine, other in zip(*found, strict=True)]
            lines.append(f"| {name} | {policy} | " + " | ".join(pairs) + " |")
    return lines


def main() -> None:
    """Print the table."""
    print("\n".join(table()))


if __name__ == "__main__":
    main()
