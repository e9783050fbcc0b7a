"""The portable path's sums in TensorFlow's graphs, and by blocks in XLA programs for CPUs."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from kbn.backend.tensorflow import channel_sums as blocks
from kbn.ops import channel_sums
from tests.ops.test_channel_sums import setting


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Rows of a few lanes, so that small arrays take many steps and leave a rest."""
    monkeypatch.setattr(blocks, "LANES", 16)


def run(function, jit, *arguments):
    tensors = [tf.constant(argument) for argument in arguments]
    return [result.numpy() for result in tf.function(function, jit_compile=jit)(*tensors)]


@pytest.mark.basic("8")
@pytest.mark.parametrize("examples", [8, 30])  # each is compiled by XLA
def test_any_number_of_rows_and_any_block(examples, monkeypatch):
    @settings(max_examples=examples)
    @given(st.integers(0, 300), st.integers(1, 9), st.integers(1, 90), st.integers(1, 5))
    def agrees(rows, channels, lanes, many):
        monkeypatch.setattr(blocks, "LANES", lanes)
        monkeypatch.setattr(blocks, "ROWS", many)
        axes, x, _, pivot, *_ = setting((rows, channels), -1)
        _, first, second = run(lambda x, p: channel_sums.shifted(x, p, axes), True, x, pivot)
        np.testing.assert_allclose(first[0], (x - pivot).sum(0), atol=1e-9)
        np.testing.assert_allclose(second[0], np.square(x - pivot).sum(0), atol=1e-9)

    agrees()


@pytest.mark.parametrize(("shape", "axis"), [((None, 3), -1), ((None, 3, None), 1)], ids=str)
def test_sizes_may_be_unknown_when_traced(shape, axis):
    along = [3 if i == axis % len(shape) else 1 for i in range(len(shape))]
    axes = [i for i, size in enumerate(along) if size == 1]
    step = tf.function(
        lambda x, p: channel_sums.shifted(x, p, axes)[1:], jit_compile=True,
        input_signature=[tf.TensorSpec(shape, "float64"), tf.TensorSpec(along, "float64")],
    )  # fmt: skip
    for size in (0, 1, 5, 16, 100):
        _, x, _, pivot, *_ = setting([size if n is None else n for n in shape], axis)
        first, second = step(x, pivot)
        kept = {"axis": tuple(axes), "keepdims": True}
        np.testing.assert_allclose(first, (x - pivot).sum(**kept), atol=1e-10)
        np.testing.assert_allclose(second, np.square(x - pivot).sum(**kept), atol=1e-9)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_sums_work_inside_a_branch_or_a_loop(jit):
    axes, x, _, pivot, *_ = setting((100, 3), -1)

    def branch(x, p):
        return tf.cond(p[0, 0] < 9, lambda: channel_sums.shifted(x, p, axes), lambda: (x, p, p))

    def loop(x, p):
        results = (x, p, p)
        for _ in tf.range(2):
            results = channel_sums.shifted(x, p, axes)
        return results

    for function in (branch, loop):
        same, first, _ = run(function, jit, x, pivot)
        np.testing.assert_array_equal(same, x)
        np.testing.assert_allclose(first[0], (x - pivot).sum(0))


def test_nothing_is_added_without_a_bias():
    axes, x, _, center, scale, _ = setting((6, 3), -1)
    graph = tf.function(lambda x: channel_sums.affine(x, center, scale, None, axes))
    types = [op.type for op in graph.get_concrete_function(tf.constant(x)).graph.get_operations()]
    assert (types.count("Sub"), types.count("Mul")) == (1, 1)
    assert not {"Add", "AddV2"} & set(types)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_xla_converts_no_whole_activation(dtype):
    x, pivot = tf.zeros((40_000, 8), dtype), tf.zeros((1, 8))
    step = tf.function(lambda x, p: channel_sums.shifted(x, p, [0])[1:], jit_compile=True)
    program = step.experimental_get_compiler_ir(x, pivot)(stage="optimized_hlo")
    written = program.split("ENTRY")[1]  # what lies outside of fusions
    assert dtype.replace("float", "f") + "[40000,8]" in written
    assert "f32[40000,8]" not in written
