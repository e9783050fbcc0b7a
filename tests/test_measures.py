import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from kbn import measures
from kbn.sketch import DistributionSketch

RNG = np.random.default_rng(0)
A = RNG.normal(1, 2, (1000, 3))


def sketch(x):
    return DistributionSketch.of(x, max_samples=10**6)


def test_a_shift_by_k_is_k_over_sigma():
    shifted = measures.wasserstein_normalised(sketch(A + 0.7), sketch(A))
    assert shifted == pytest.approx(np.mean(0.7 / A.std(0)), rel=1e-5)


def test_scaling_a_zero_mean_sample():
    centred = A - A.mean(0)
    expected = np.mean(0.5 * np.abs(centred).mean(0) / centred.std(0))
    assert measures.wasserstein_normalised(sketch(1.5 * centred), sketch(centred)) == pytest.approx(
        expected, rel=1e-4
    )


def test_unchanged_when_both_are_scaled_and_shifted():
    b = RNG.normal(0, 1, (1000, 3))
    plain = measures.wasserstein_normalised(sketch(b), sketch(A))
    moved = measures.wasserstein_normalised(sketch(3 * b - 5), sketch(3 * A - 5))
    assert moved == pytest.approx(plain, rel=1e-4)


def test_gaussians_have_their_closed_form():
    grid = scipy.stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)[:, None]
    d_mu, d_sigma = 0.8, 0.5
    expected = d_sigma * math.sqrt(2 / math.pi) * math.exp(-(d_mu**2) / (2 * d_sigma**2))
    expected += d_mu * math.erf(d_mu / (math.sqrt(2) * d_sigma))
    assert measures.wasserstein(1.5 * grid + d_mu, grid)[0] == pytest.approx(expected, rel=1e-3)


@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=20),
    st.lists(st.floats(-100, 100), min_size=1, max_size=20),
)
def test_wasserstein_is_scipys_for_samples_of_any_sizes(a, b):
    mine = measures.wasserstein(np.sort(a)[:, None], np.sort(b)[:, None])[0]
    assert mine == pytest.approx(scipy.stats.wasserstein_distance(a, b), rel=1e-9, abs=1e-9)


def test_nan_leaves_the_rest_of_its_channel_comparable():
    broken = A.copy()
    broken[5, 1] = np.nan
    kept = np.delete(A[:, 1], 5)
    mine = measures.wasserstein(sketch(broken + 1).values, sketch(A).values)
    expected = scipy.stats.wasserstein_distance(kept + 1, A[:, 1])
    np.testing.assert_allclose(mine, [1, expected, 1], rtol=1e-5)


@pytest.mark.parametrize(("scale", "delta", "expected"), [(1, 0.5, 0.25), (2, 0, 1.125), (1, 0, 0)])
def test_jeffreys_has_its_known_answers(scale, delta, expected):
    standard = (A - A.mean(0)) / A.std(0)
    moved = measures.jeffreys_gaussian(sketch(standard * scale + delta), sketch(standard))
    assert moved == pytest.approx(expected, abs=1e-4)


def test_nothing_moved_is_exactly_zero():
    for measure in (measures.wasserstein_normalised, measures.jeffreys_gaussian):
        assert measure(sketch(A), sketch(A)) == 0


MEASURES = pytest.mark.parametrize(
    "measure", [measures.wasserstein_normalised, measures.jeffreys_gaussian]
)


@MEASURES
def test_constant_channels_are_left_out(measure):
    dead = A.copy()
    dead[:, 0] = 0.1
    moved = dead + 0.5
    whole = measure(sketch(moved), sketch(dead))
    assert whole == pytest.approx(measure(sketch(moved[:, 1:]), sketch(dead[:, 1:])))


@MEASURES
@pytest.mark.parametrize(("now", "expected"), [(0.1, 0.0), (0.2, math.inf)])
def test_constants_alone_are_0_or_inf(measure, now, expected):
    assert measure(sketch(np.full((9, 2), now)), sketch(np.full((9, 2), 0.1))) == expected


@MEASURES
def test_without_finite_values_a_distance_is_nan(measure):
    assert math.isnan(measure(sketch(np.full((9, 2), np.nan)), sketch(np.ones((9, 2)))))
