import contextlib
import math

import keras
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from kbn import backend
from kbn.distributions import moments_on_device, reduction
from kbn.distributions.channel_moments import ChannelMoments
from kbn.distributions.positions import sample_positions
from kbn.distributions.reduction import Reduction, sketched
from kbn.distributions.sketch import BASIS_POINTS, HISTOGRAM_POINTS

FRACTIONS = np.array(sorted({*BASIS_POINTS, 1500, 5000, 8500})) / 10_000


@pytest.fixture(
    params=["whole", "sums", "blocks", "whole_by_keras", "sums_by_keras", "blocks_by_keras"]
)
def way(request, monkeypatch):
    """Take each of the ways from an activation to its sketch, whatever its size."""
    if "whole" not in request.param:
        monkeypatch.setattr(reduction, "WHOLE", -1)
    if "blocks" in request.param:
        monkeypatch.setattr(moments_on_device, "BLOCK", 100)
    if "keras" in request.param:
        monkeypatch.setattr(backend, "kernel", lambda dtype: backend.Kernel("not now"))
    return request.param


def reduced(x, axis=-1, max_samples=2**14, bounds=None):
    """Reduce inside a trace, as the probe does."""
    one = Reduction(x.shape, axis, max_samples, bounds)
    (arrays,) = backend.compile_for(lambda _, x: [one.on_device(x)], [], x)()
    if "whole" not in arrays:
        held = sum(array.size for array in arrays.values())
        assert held <= max_samples + 3 * x.shape[axis] + 4
    (sketch,) = one.on_host([arrays])
    return sketch


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=200))
def test_quantiles_are_those_of_numpy(values):
    x = np.array(values, "float32")
    expected = np.quantile(x.astype("float64"), FRACTIONS)
    np.testing.assert_allclose(sketched(x).quantile(FRACTIONS), expected, rtol=1e-9)


def test_integers_0_to_100_have_their_percentiles():
    sketch = sketched(np.arange(101.0))
    np.testing.assert_allclose(sketch.quantile([0.15, 0.5, 0.85]), [15, 50, 85])


def test_normal_percentiles_are_1_036433_sigma_from_the_mean():
    x = np.random.default_rng(0).normal(2, 3, 10**6)
    quantiles = sketched(x, max_samples=10**6).quantile([0.15, 0.85])
    np.testing.assert_allclose(quantiles, [2 - 1.036433 * 3, 2 + 1.036433 * 3], atol=0.02)


def test_histogram_edges_are_quantiles_and_counts_add_up():
    x = np.random.default_rng(0).standard_t(2, (500, 7)).astype("float32")
    histogram = sketched(x).histogram()
    edges = np.quantile(x.astype("float64"), np.array(HISTOGRAM_POINTS) / 10_000)
    np.testing.assert_allclose(histogram[:, 0], edges[:-1], rtol=1e-12)
    np.testing.assert_allclose(histogram[:, 1], edges[1:], rtol=1e-12)
    assert histogram[:, 2].sum() == pytest.approx(3500)


def test_moments_are_over_all_values_even_beyond_max_samples(way):
    x = np.random.default_rng(0).normal(5, 2, (4000, 6)).astype("float32")
    sketch = sketched(x, max_samples=600)
    assert sketch.values.shape == (100, 6)
    np.testing.assert_allclose(sketch.mean, x.mean(0, dtype="float64"), rtol=1e-6)
    np.testing.assert_allclose(sketch.variance, x.var(0, dtype="float64"), rtol=1e-5)
    assert sketch.pooled_std() == pytest.approx(x.std(dtype="float64"), rel=1e-5)


@pytest.mark.thorough
def test_a_wide_layer_in_blocks_without_a_rest(python):
    """In a process of its own: it once ended the interpreter."""
    code = """
import numpy as np
from kbn.distributions import moments_on_device, reduction

reduction.WHOLE, moments_on_device.BLOCK = -1, 1500
x = np.random.default_rng(0).normal(3, 2, (256, 700)).astype("float32")
sketch = reduction.sketched(x)
assert abs(sketch.pooled_mean() - x.mean()) < 1e-4
assert abs(sketch.pooled_std() - x.std()) < 1e-4
"""
    python("-c", code)


def test_mean_and_std_are_over_all_channels_of_a_wide_layer(way, monkeypatch, rng):
    if "blocks" in way:
        monkeypatch.setattr(moments_on_device, "BLOCK", 2100)
    x = (rng.normal(size=(256, 700)) + 3 * rng.normal(size=700)).astype("float32")
    sketch = sketched(x)
    assert sketch.values.size <= 2**14
    assert sketch.values.shape[1] < 700
    assert sketch.pooled_mean() == pytest.approx(x.mean(dtype="float64"), rel=1e-5)
    assert sketch.pooled_std() == pytest.approx(x.std(dtype="float64"), rel=1e-5)


@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_every_way_has_numpys_moments(axis, way, rng):
    x = rng.normal(3, 2, (23, 4, 3, 5)).astype("float32")
    x[::3, 0] = 0.25  # a constant channel, where axis is 1
    moved = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    sketch = reduced(x, axis)
    np.testing.assert_allclose(sketch.mean, moved.mean(0, dtype="float64"), rtol=1e-5)
    np.testing.assert_allclose(sketch.variance, moved.var(0, dtype="float64"), rtol=1e-4)
    np.testing.assert_array_equal(sketch.count, [len(moved)] * x.shape[axis])
    np.testing.assert_array_equal(sketch.values, np.sort(moved, axis=0))
    assert sketch.pooled_mean() == pytest.approx(x.mean(dtype="float64"), rel=1e-5)
    assert sketch.pooled_std() == pytest.approx(x.std(dtype="float64"), rel=1e-5)


def test_every_way_leaves_out_non_finite_values(way, rng):
    x = rng.normal(3, 2, (57, 6)).astype("float32")
    x[5, 0], x[[6, 7], 1], x[:, 2] = np.nan, [np.inf, -np.inf], np.nan
    finite = [x[np.isfinite(x[:, i]), i].astype("float64") for i in range(6)]
    sketch = reduced(x)
    np.testing.assert_array_equal(sketch.count, [56, 55, 0, 57, 57, 57])
    expected = [(each.mean(), each.var()) if each.size else (0, 0) for each in finite]
    np.testing.assert_allclose(sketch.mean, [mean for mean, _ in expected], rtol=1e-5)
    np.testing.assert_allclose(sketch.variance, [var for _, var in expected], rtol=1e-4)
    every = np.concatenate(finite)
    assert sketch.pooled_mean() == pytest.approx(every.mean(), rel=1e-5)
    assert sketch.pooled_std() == pytest.approx(every.std(), rel=1e-5)
    assert sketch.non_finite_share == 60 / (6 * 57)
    assert sketch.finite_count == every.size


def test_a_small_spread_far_from_zero_is_kept(way, rng):
    x = (1000 + rng.normal(size=(400, 3))).astype("float32")
    sketch = reduced(x)
    np.testing.assert_allclose(sketch.variance, x.var(0, dtype="float64"), rtol=1e-3)


def test_what_is_constant(way, rng):
    x = rng.normal(size=(300, 5)).astype("float32")
    x[:, 1], x[:, 2], x[:, 3] = 0.1, 0, 1e6
    assert reduced(x).constant.tolist() == [False, True, True, True, False]


def test_dead_channels_are_those_of_zeros_alone(way, rng):
    x = rng.normal(size=(40, 8)).astype("float32")
    x[:, [1, 4]] = 0
    x[3, 4] = np.nan  # zero wherever it is finite
    x[:, 5] = np.nan
    x[:, 6] = 0.5
    x[::2, 7] = 0
    sketch = reduced(x)
    assert sketch.dead_share == 2 / 8
    assert sketch.zero_share == np.mean(x == 0)


def test_shares_of_a_sample_are_those_of_the_sample(way, rng):
    x = np.maximum(rng.normal(size=(4000, 6)), 0).astype("float32")
    sketch = reduced(x, max_samples=600, bounds=(0, 6))
    rows, columns = sample_positions(4000, 6, 600)
    assert sketch.zero_share == np.mean(x[rows][:, columns] == 0)
    assert sketch.zero_share == pytest.approx(0.5, abs=0.1)


@pytest.mark.basic("*whole-*")
@pytest.mark.parametrize(
    ("bounds", "low", "high"), [((0, 1), 0.01, 0.99), ((-1, 1), -0.98, 0.98), ((0, 6), 0.06, 5.94)]
)
def test_saturated_is_within_1_percent_of_the_bounds(bounds, low, high, way, rng):
    x = rng.uniform(*bounds, (500, 4)).astype("float32")
    x[:20], x[20:30] = bounds[0], bounds[1]
    x[30] = np.nan
    share = reduced(x, bounds=bounds).saturated_share
    assert share == pytest.approx(np.mean((x <= low) | (x >= high)), abs=1e-9)
    assert share > 30 / 500
    assert reduced(x).saturated_share is None


@pytest.mark.parametrize("share_of_nan", [0, 0.1])
def test_kurtosis_is_scipys_mean_over_channels(share_of_nan, rng):
    x = rng.standard_t(5, (500, 6)) * [1, 2, 3, 4, 5, 6] + 10
    x[rng.random(x.shape) < share_of_nan] = np.nan
    expected = scipy.stats.kurtosis(x, fisher=False, nan_policy="omit").mean()
    assert sketched(x).kurtosis() == pytest.approx(expected, rel=1e-9)
    with_constants = np.concatenate([x, np.full((500, 1), 0.1), np.full((500, 1), np.nan)], axis=1)
    assert sketched(with_constants).kurtosis() == pytest.approx(expected, rel=1e-9)


def test_kurtosis_of_a_normal_is_3_and_of_two_values_1():
    normal = scipy.stats.norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    assert sketched(normal).kurtosis() == pytest.approx(3, abs=0.02)
    assert sketched(np.array([0.0, 1.0] * 8)).kurtosis() == pytest.approx(1)


@pytest.mark.parametrize("value", [0, 0.1, np.nan])
def test_without_a_spread_there_is_no_kurtosis(value):
    assert math.isnan(sketched(np.full((20, 3), value)).kurtosis())


def test_merged_moments_are_those_of_all_values(rng):
    x = rng.normal([0, 5, -3], [1, 2, 0.1], (200, 3))
    x[:150, 1] = np.nan
    merged = ChannelMoments.of(np.stack([x, x + 1])).merged()
    expected = [
        [np.nanmean(x), np.nanmean(x) + 1], [np.nanvar(x), np.nanvar(x)], [450, 450]
    ]  # fmt: skip
    np.testing.assert_allclose(merged, expected, rtol=1e-12)


def test_non_finite_values_and_zeros_are_counted_and_kept_out():
    x = np.array([[0.0, np.nan], [1.0, np.inf], [0.0, 4.0], [3.0, -np.inf]])
    sketch = sketched(x)
    assert (sketch.non_finite_share, sketch.zero_share) == (3 / 8, 2 / 8)
    assert sketch.pooled_mean() == pytest.approx(8 / 5)
    np.testing.assert_allclose(sketch.quantile([0, 1]), [0, 4])
    assert sketch.histogram()[:, 2].sum() == pytest.approx(5)


def test_nothing_finite_gives_an_empty_histogram_and_nan():
    sketch = sketched(np.full((3, 2), np.nan))
    assert sketch.histogram().shape == (0, 3)
    assert np.isnan([sketch.pooled_mean(), sketch.pooled_std(), sketch.quantile(0.5)]).all()


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 2000))
def test_positions_are_bounded_distinct_evenly_spread_and_fixed(rows, columns, most):
    kept = sample_positions(rows, columns, most)
    assert 1 <= len(kept.rows) * len(kept.columns) <= most
    for chosen, size in ((kept.rows, rows), (kept.columns, columns)):
        assert len(np.unique(chosen)) == len(chosen)
        edges = np.arange(len(chosen) + 1) * size // len(chosen)
        assert ((edges[:-1] <= chosen) & (chosen < edges[1:])).all()
    again = sample_positions(rows, columns, most)
    np.testing.assert_array_equal(kept.rows, again.rows)


def test_the_sample_does_not_fall_in_step_with_the_image():
    kept = sample_positions(64 * 32 * 32, 16, 16 * 64)
    assert len(np.unique(kept.rows % 32)) > 16


@pytest.mark.parametrize(
    ("shape", "axis", "channels"), [((9, 4, 3), -1, 3), ((9, 4, 3), 1, 4), ((9,), -1, 1)]
)
def test_channels_are_along_the_axis(shape, axis, channels):
    x = np.random.default_rng(0).normal(size=shape)
    sketch = sketched(x, channel_axis=axis)
    assert sketch.values.shape == (x.size // channels, channels)
    if x.ndim > 1:
        np.testing.assert_allclose(
            sketch.mean, np.moveaxis(x, axis, -1).reshape(-1, channels).mean(0)
        )


@pytest.mark.parametrize("dtype", ["int32", "bool", "float16", "bfloat16", "float64"])
def test_any_dtype_is_sketched(dtype):
    with backend.in_double() if dtype == "float64" else contextlib.nullcontext():
        x = keras.ops.cast(keras.ops.arange(12), dtype)
    sketch = sketched(x)
    assert sketch.quantile(1.0) == (1 if dtype == "bool" else 11)
