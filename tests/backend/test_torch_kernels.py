"""kbn's CPU kernels for PyTorch: every memory layout, gradients of both orders, and threads."""

import keras
import numpy as np
import pytest
import torch

import kbn
from kbn.backend import native_library
from kbn.backend.torch import native_kernels, normalization
from tests.support.on_backend import array, gradient
from tests.support.oracle import BatchNormalizationOracle

SHAPE, AXIS = (6, 5, 4, 3), 3


def contiguous(x):
    return torch.tensor(x)


def of_a_convolution(x):
    """Channels are second in memory, and last among the axes."""
    return torch.tensor(x).movedim(-1, 1).contiguous().movedim(1, -1)


def channels_last_of_nchw(x):
    return torch.tensor(x).permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)


def with_gaps(x):
    return torch.tensor(np.repeat(x, 2, axis=1))[:, ::2]


def repeated(x):
    """All samples are the same memory."""
    return torch.tensor(x[:1]).expand(SHAPE)


LAYOUTS = (contiguous, of_a_convolution, channels_last_of_nchw, with_gaps, repeated)
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda each: each.__name__)


def made(fused, axis=AXIS, **options):
    layer = kbn.BatchNormalization(axis=axis, fused=fused, momentum=0.5, **options)
    layer.build(SHAPE)
    layer.gamma.assign(np.linspace(0.5, 2, SHAPE[axis]))
    layer.beta.assign(np.linspace(-1, 1, SHAPE[axis]))
    return layer


@every_layout
@pytest.mark.parametrize("axis", [3, 1])
def test_every_memory_layout_agrees_with_the_oracle(layout, axis, rng):
    x = layout(rng.normal(3, 2, SHAPE).astype("float32"))
    layer = made(True, axis)
    parameters = {"gamma": array(layer.gamma), "beta": array(layer.beta)}
    oracle = BatchNormalizationOracle(SHAPE[axis], axis, 0.5, **parameters)
    for training in (True, False):
        expected = oracle(x.numpy(), training)
        np.testing.assert_allclose(array(layer(x, training=training)), expected, atol=2e-5)
    np.testing.assert_allclose(array(layer.moving_mean), oracle.mean, rtol=1e-6)
    np.testing.assert_allclose(array(layer.moving_variance), oracle.variance, rtol=1e-6)


def test_the_output_has_the_layout_of_the_input(rng):
    x = of_a_convolution(rng.normal(size=SHAPE).astype("float32"))
    assert x.stride() != torch.empty(SHAPE).stride()
    assert made(True)(x, training=True).stride() == x.stride()


@every_layout
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("axis", [3, 1])
def test_gradients_of_both_orders_are_those_of_the_portable_path(layout, training, axis, rng):
    x = layout(rng.normal(3, 2, SHAPE).astype("float32"))
    factors = of_a_convolution(rng.normal(size=SHAPE).astype("float32"))
    found = []
    for fused in (True, False):
        layer = made(fused, axis)

        def loss(x, gamma, beta, layer=layer):
            with keras.StatelessScope([(layer.gamma, gamma), (layer.beta, beta)]):
                return (layer(x, training=training).sin() * factors).sum()

        def norm(*given, loss=loss):
            return sum(each.square().sum() for each in gradient(loss)(*given))

        given = x, layer.gamma.value.detach(), layer.beta.value.detach()
        found.append([array(each) for of in (loss, norm) for each in gradient(of)(*given)])
    for mine, other in zip(*found, strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype, rng):
    x = torch.tensor(rng.normal(3, 2, SHAPE)).to(getattr(torch, dtype))
    dy = torch.tensor(rng.normal(size=SHAPE)).to(x.dtype)
    found = []
    for fused in (True, False):
        layer, given = made(fused, dtype=f"mixed_{dtype}"), x.detach().requires_grad_()
        y = layer(given, training=True)
        found.append([y, *torch.autograd.grad(y, [given, layer.gamma.value], dy)])
    for mine, other in zip(*found, strict=True):
        assert mine.dtype == other.dtype
        mine, other = (each.detach().double().numpy() for each in (mine, other))
        np.testing.assert_allclose(mine, other, rtol=0.02, atol=0.02)


def test_a_large_mean_costs_no_accuracy(rng):
    """torch.batch_norm is off by about 1e-2 here."""
    x = rng.normal(1e4, 1, (64, 8, 8, 4)).astype("float32")
    layer = kbn.BatchNormalization(fused=True)
    y = array(layer(torch.tensor(x), training=True)).astype("float64")
    x = x.astype("float64")
    expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3)
    assert np.abs(y - expected).max() < 2e-6


def test_results_do_not_depend_on_the_number_of_threads(rng):
    x = torch.tensor(rng.normal(3, 2, (32, 28, 28, 16)).astype("float32"), requires_grad=True)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            layer = kbn.BatchNormalization(fused=True)
            y = layer(x, training=True)
            found.append([y, *torch.autograd.grad(y.sin().sum(), [x, layer.gamma.value])])
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("size", [0, 1])
def test_batches_without_a_variance_leave_it(size):
    layer = made(True)
    layer(torch.ones((size, 1, 1, 3)), training=True)
    np.testing.assert_array_equal(array(layer.moving_variance), 1)
    np.testing.assert_array_equal(array(layer.moving_mean), 0.5 if size else 0)
    assert layer.skipped_updates.tolist() == [1, 1, 1]


def test_the_path_says_why(monkeypatch):
    x = torch.ones(SHAPE)
    layer = made("auto")
    assert str(layer.execution_path(x, training=True)) == "fused: kbn's CPU kernels"
    reason = "portable: the fused kernel does not support float64"
    assert str(made("auto", dtype="float64").execution_path(x, training=True)) == reason
    with keras.device("meta"):
        path = str(layer.execution_path(x, training=True))
    assert path == "portable: kbn's kernels run on CPUs, and the device is meta"
    without = native_library.Library(None, "KBN_NATIVE=0 is set")
    monkeypatch.setattr(normalization.native_kernels, "load", lambda: without)
    path = str(layer.execution_path(x, training=True))
    assert path == "portable: kbn's CPU kernels cannot be used: KBN_NATIVE=0 is set"
    with pytest.raises(ValueError, match="fused=True, but kbn's CPU kernels cannot be used"):
        made(True)(x, training=True)


def test_a_library_that_cannot_be_loaded_gives_its_reason(monkeypatch):
    monkeypatch.setenv("KBN_NATIVE", "0")
    assert native_library.load.__wrapped__() == (None, "KBN_NATIVE=0 is set")
    assert native_kernels.load().reason == ""


@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler warns of its own code
def test_a_compiled_model_takes_the_portable_path(rng):
    """torch.compile cannot look into the kernels."""
    layer, eager, seen = made("auto"), made("auto"), []

    def call(x):
        seen.append(str(layer.execution_path(x, training=True)))
        return layer(x, training=True)

    x = torch.tensor(rng.normal(size=SHAPE).astype("float32"))
    y = torch.compile(call, backend="eager")(x)
    assert "portable: torch.compile compiles the portable path" in seen
    np.testing.assert_allclose(array(y), array(eager(x, training=True)), atol=1e-5)
    np.testing.assert_allclose(array(layer.moving_mean), array(eager.moving_mean), rtol=1e-5)
