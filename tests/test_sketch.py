import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbn.reduction import sample_positions
from kbn.sketch import BASIS_POINTS, HISTOGRAM_POINTS, DistributionSketch

RNG = np.random.default_rng(0)
FRACTIONS = np.array(sorted({*BASIS_POINTS, 1500, 5000, 8500})) / 10_000


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=200))
def test_quantiles_are_those_of_numpy(values):
    x = np.array(values, "float32")
    expected = np.quantile(x.astype("float64"), FRACTIONS)
    np.testing.assert_allclose(DistributionSketch.of(x).quantile(FRACTIONS), expected, rtol=1e-9)


def test_integers_0_to_100_have_their_percentiles():
    sketch = DistributionSketch.of(np.arange(101.0))
    np.testing.assert_allclose(sketch.quantile([0.15, 0.5, 0.85]), [15, 50, 85])


def test_normal_percentiles_lie_1_036433_sigma_from_the_mean():
    x = np.random.default_rng(0).normal(2, 3, 10**6)
    quantiles = DistributionSketch.of(x, max_samples=10**6).quantile([0.15, 0.85])
    np.testing.assert_allclose(quantiles, [2 - 1.036433 * 3, 2 + 1.036433 * 3], atol=0.02)


def test_histogram_edges_are_quantiles_and_counts_add_up():
    x = np.random.default_rng(0).standard_t(2, (500, 7)).astype("float32")
    histogram = DistributionSketch.of(x).histogram()
    edges = np.quantile(x.astype("float64"), np.array(HISTOGRAM_POINTS) / 10_000)
    np.testing.assert_allclose(histogram[:, 0], edges[:-1], rtol=1e-12)
    np.testing.assert_allclose(histogram[:, 1], edges[1:], rtol=1e-12)
    assert histogram[:, 2].sum() == pytest.approx(3500)


def test_moments_are_over_all_values_even_beyond_max_samples():
    x = np.random.default_rng(0).normal(5, 2, (4000, 6)).astype("float32")
    sketch = DistributionSketch.of(x, max_samples=600)
    assert sketch.values.shape == (100, 6)
    np.testing.assert_allclose(sketch.mean, x.mean(0, dtype="float64"), rtol=1e-6)
    np.testing.assert_allclose(sketch.variance, x.var(0, dtype="float64"), rtol=1e-5)
    assert sketch.pooled_std() == pytest.approx(x.std(dtype="float64"), rel=1e-5)


def test_mean_and_std_are_over_all_channels_of_a_wide_layer():
    x = (RNG.normal(size=(256, 700)) + 3 * RNG.normal(size=700)).astype("float32")
    sketch = DistributionSketch.of(x)
    assert sketch.values.size <= 2**14
    assert sketch.values.shape[1] < 700
    assert sketch.pooled_mean() == pytest.approx(x.mean(dtype="float64"), rel=1e-5)
    assert sketch.pooled_std() == pytest.approx(x.std(dtype="float64"), rel=1e-5)


def test_non_finite_values_and_zeros_are_counted_and_kept_out():
    x = np.array([[0.0, np.nan], [1.0, np.inf], [0.0, 4.0], [3.0, -np.inf]])
    sketch = DistributionSketch.of(x)
    assert (sketch.non_finite_share, sketch.zero_share) == (3 / 8, 2 / 8)
    assert sketch.pooled_mean() == pytest.approx(8 / 5)
    np.testing.assert_allclose(sketch.quantile([0, 1]), [0, 4])
    assert sketch.histogram()[:, 2].sum() == pytest.approx(5)


def test_nothing_finite_gives_an_empty_histogram_and_nan():
    sketch = DistributionSketch.of(np.full((3, 2), np.nan))
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
def test_channels_lie_along_the_axis(shape, axis, channels):
    x = np.random.default_rng(0).normal(size=shape)
    sketch = DistributionSketch.of(x, channel_axis=axis)
    assert sketch.values.shape == (x.size // channels, channels)
    if x.ndim > 1:
        np.testing.assert_allclose(
            sketch.mean, np.moveaxis(x, axis, -1).reshape(-1, channels).mean(0)
        )


@pytest.mark.parametrize("dtype", ["int32", "bool", "float16", "bfloat16", "float64"])
def test_any_dtype_is_sketched(dtype):
    x = keras.ops.cast(keras.ops.arange(12), dtype)
    sketch = DistributionSketch.of(x)
    assert sketch.quantile(1.0) == (1 if dtype == "bool" else 11)
