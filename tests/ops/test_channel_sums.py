"""The loops of the portable path: values, gradients and second-order gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from kbn.backend.tensorflow import channel_sums as blocks
from kbn.ops import channel_sums

MODES = {"eager": None, "graph": False, "xla": True}
SHAPES = [((100, 3), -1), ((40, 7, 3), -1), ((9, 3, 17), 1), ((4, 5, 6, 3), -1), ((3, 50), 0)]
each_mode = pytest.mark.parametrize("jit", MODES.values(), ids=MODES)
each_shape = pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Rows of a few lanes, so that small arrays take many steps and leave a rest."""
    monkeypatch.setattr(blocks, "LANES", 16)


def run(function, jit, *arguments):
    tensors = [tf.constant(argument) for argument in arguments]
    call = function if jit is None else tf.function(function, jit_compile=jit)
    return [result.numpy() for result in call(*tensors)]


def setting(shape, axis, seed=0):
    rng = np.random.default_rng(seed)
    axis %= len(shape)
    axes = [i for i in range(len(shape)) if i != axis]
    along = [1] * len(shape)
    along[axis] = shape[axis]
    x, dy = (rng.normal(1, 2, shape) for _ in range(2))
    pivot, scale, bias = (rng.normal(size=along) for _ in range(3))
    return axes, x, dy, pivot, scale, bias


@pytest.mark.basic("(9, 3, 17)*", "(3, 50)*")
@each_mode
@each_shape
def test_sums(shape, axis, jit):
    axes, x, dy, pivot, *_ = setting(shape, axis)
    kept = {"axis": tuple(axes), "keepdims": True}
    same, first, second = run(lambda x, p: channel_sums.shifted(x, p, axes), jit, x, pivot)
    np.testing.assert_array_equal(same, x)
    np.testing.assert_allclose(first, (x - pivot).sum(**kept))
    np.testing.assert_allclose(second, np.square(x - pivot).sum(**kept))
    first, second = run(lambda dy, x, p: channel_sums.products(dy, x, p, axes), jit, dy, x, pivot)
    np.testing.assert_allclose(first, dy.sum(**kept), rtol=1e-6)
    np.testing.assert_allclose(second, (dy * (x - pivot)).sum(**kept), rtol=1e-6)


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


def plain_shifted(x, pivot, axes):
    deviation = x - pivot
    return (
        tf.identity(x),
        tf.reduce_sum(deviation, axes, keepdims=True),
        tf.reduce_sum(tf.square(deviation), axes, keepdims=True),
    )


def plain_products(dy, x, pivot, axes):
    return (
        tf.reduce_sum(dy, axes, keepdims=True),
        tf.reduce_sum(dy * (x - pivot), axes, keepdims=True),
    )


def plain_affine(x, center, scale, bias, axes):
    return (x - center) * scale + bias


def first_and_second_order(function):
    def measured(*arguments):
        with tf.GradientTape() as outer:
            outer.watch(arguments)
            with tf.GradientTape() as inner:
                inner.watch(arguments)
                results = tf.nest.flatten(function(*arguments))
                loss = tf.add_n([tf.reduce_sum(tf.sin(result)) for result in results])
            first = inner.gradient(loss, arguments, unconnected_gradients="zero")
            norm = tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in first])
        return [*first, *outer.gradient(norm, arguments, unconnected_gradients="zero")]

    return measured


CASES = {
    "shifted": (channel_sums.shifted, plain_shifted, "x"),
    "products": (channel_sums.products, plain_products, "dxp"),
    "affine": (channel_sums.affine, plain_affine, "xpsb"),
}


@pytest.mark.basic("*(4, 5, 6, 3)*")
@each_mode
@each_shape
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_plain_formulas(case, shape, axis, jit):
    ours, plain, names = CASES[case]
    axes, *values = setting(shape, axis)
    values = dict(zip("xdpsb", values, strict=True))
    arguments = [values[name] for name in names]
    constant = [tf.constant(values["p"])] if case == "shifted" else []
    call = first_and_second_order(lambda *a: ours(*a, *constant, axes))
    right = first_and_second_order(lambda *a: plain(*a, *constant, axes))
    for mine, other in zip(run(call, jit, *arguments), run(right, None, *arguments), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-8)


def test_nothing_is_added_without_a_bias():
    axes, x, _, center, scale, _ = setting((6, 3), -1)
    graph = tf.function(lambda x: channel_sums.affine(x, center, scale, None, axes))
    types = [op.type for op in graph.get_concrete_function(tf.constant(x)).graph.get_operations()]
    assert (types.count("Sub"), types.count("Mul")) == (1, 1)
    assert not {"Add", "AddV2"} & set(types)


@each_mode
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_widened_inside(dtype, jit):
    axes, x, *_ = setting((50_000, 2), -1)
    x = keras.ops.cast(100 + x, dtype)
    _, first, second = run(
        lambda x, p: channel_sums.shifted(x, p, axes), jit, x, np.zeros((1, 2), "float32")
    )
    assert first.dtype == second.dtype == "float32"
    wide = keras.ops.convert_to_numpy(keras.ops.cast(x, "float64"))
    np.testing.assert_allclose(first[0], wide.sum(0), rtol=1e-4)
    np.testing.assert_allclose(second[0], np.square(wide).sum(0), rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_xla_converts_no_whole_activation(dtype):
    x, pivot = tf.zeros((40_000, 8), dtype), tf.zeros((1, 8))
    step = tf.function(lambda x, p: channel_sums.shifted(x, p, [0])[1:], jit_compile=True)
    program = step.experimental_get_compiler_ir(x, pivot)(stage="optimized_hlo")
    written = program.split("ENTRY")[1]  # what lies outside of fusions
    assert dtype.replace("float", "f") + "[40000,8]" in written
    assert "f32[40000,8]" not in written
