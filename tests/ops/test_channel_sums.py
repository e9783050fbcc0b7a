"""The sums of the portable path: values, gradients and second-order gradients, on each backend."""

import numpy as np
import pytest
from keras import ops

from kbn import backend
from kbn.ops import channel_sums
from tests.support.on_backend import BACKEND, array, compiled, gradient, tensors

MODES = {
    "eager": lambda function: function,
    "compiled": compiled,
    "xla": lambda function: compiled(function, xla=True),
}
if BACKEND != "tensorflow":
    del MODES["xla"]  # JAX compiles with XLA anyway
if BACKEND == "torch":
    del MODES["compiled"]
SHAPES = [((100, 3), -1), ((40, 7, 3), -1), ((9, 3, 17), 1), ((4, 5, 6, 3), -1), ((3, 50), 0)]
each_mode = pytest.mark.parametrize("mode", MODES)
each_shape = pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Rows of a few lanes, so that small arrays take many steps and leave a rest."""
    if BACKEND == "tensorflow":
        from kbn.backend.tensorflow import channel_sums as blocks

        monkeypatch.setattr(blocks, "LANES", 16)


def run(function, mode, *arguments):
    with backend.in_double():
        return [array(result) for result in MODES[mode](function)(*tensors(list(arguments)))]


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
def test_sums(shape, axis, mode):
    axes, x, dy, pivot, *_ = setting(shape, axis)
    kept = {"axis": tuple(axes), "keepdims": True}
    same, first, second = run(lambda x, p: channel_sums.shifted(x, p, axes), mode, x, pivot)
    np.testing.assert_array_equal(same, x)
    np.testing.assert_allclose(first, (x - pivot).sum(**kept))
    np.testing.assert_allclose(second, np.square(x - pivot).sum(**kept))
    first, second = run(lambda dy, x, p: channel_sums.products(dy, x, p, axes), mode, dy, x, pivot)
    np.testing.assert_allclose(first, dy.sum(**kept), rtol=1e-6)
    np.testing.assert_allclose(second, (dy * (x - pivot)).sum(**kept), rtol=1e-6)


def plain_shifted(x, pivot, axes):
    deviation = x - pivot
    return (
        x + 0.0,
        ops.sum(deviation, axes, keepdims=True),
        ops.sum(ops.square(deviation), axes, keepdims=True),
    )


def plain_products(dy, x, pivot, axes):
    return (
        ops.sum(dy, axes, keepdims=True),
        ops.sum(dy * (x - pivot), axes, keepdims=True),
    )


def plain_affine(x, center, scale, bias, axes):
    return ((x - center) * scale + bias,)


def first_and_second_order(function):
    """Return a function to the gradients of Σ sin(results), and those of their square norm."""

    def loss(*arguments):
        results = function(*arguments)
        results = results if isinstance(results, tuple) else (results,)
        return sum(ops.sum(ops.sin(result)) for result in results)

    def norm(*arguments):
        return sum(ops.sum(ops.square(each)) for each in gradient(loss)(*arguments))

    return lambda *arguments: [*gradient(loss)(*arguments), *gradient(norm)(*arguments)]


CASES = {
    "shifted": (channel_sums.shifted, plain_shifted, "x"),
    "products": (channel_sums.products, plain_products, "dxp"),
    "affine": (channel_sums.affine, plain_affine, "xpsb"),
}


@pytest.mark.basic("*(4, 5, 6, 3)*")
@each_mode
@each_shape
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_plain_formulas(case, shape, axis, mode):
    ours, plain, names = CASES[case]
    axes, *values = setting(shape, axis)
    values = dict(zip("xdpsb", values, strict=True))
    arguments = [values[name] for name in names]
    constant = [values["p"]] if case == "shifted" else []

    def measured(function):
        def call(*given):
            return function(*given, *tensors(constant), axes)

        return first_and_second_order(call)

    found = run(measured(ours), mode, *arguments)
    for mine, other in zip(found, run(measured(plain), "eager", *arguments), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-8)


@each_mode
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_widened_inside(dtype, mode):
    axes, x, *_ = setting((50_000, 2), -1)
    x = ops.cast(100 + x.astype("float32"), dtype)

    def sums(x):
        return channel_sums.shifted(x, ops.zeros((1, 2), "float32"), axes)[1:]

    first, second = (array(each) for each in MODES[mode](sums)(x))
    assert first.dtype == second.dtype == "float32"
    wide = array(x).astype("float64")
    np.testing.assert_allclose(first[0], wide.sum(0), rtol=1e-4)
    np.testing.assert_allclose(second[0], np.square(wide).sum(0), rtol=1e-4)
