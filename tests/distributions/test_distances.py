"""The measures against answers that are known: closed forms, SciPy, and plain counting."""

import math
import warnings

import numpy as np
import pytest
import scipy.integrate
import scipy.spatial
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from kbn.distributions import distances as measures
from kbn.distributions.by_channel import ByChannel
from kbn.distributions.reduction import sketched
from kbn.distributions.samples import BINS, jensen_shannon_of, population_stability_of
from kbn.records import catalogue

A = np.random.default_rng(0).normal(1, 2, (1000, 3))
NORMAL = scipy.stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)[:, None]


def sketch(x):
    return sketched(x, max_samples=10**6)


def column(values):
    return np.array(values, "float64")[:, None]


# SciPy's own answers lose digits where values are tiny beside the rest.
FLOATS = st.floats(-100, 100, width=32, allow_subnormal=False)
SAMPLES = st.lists(FLOATS | st.sampled_from([-1.5, 0, 0.1, 2]), min_size=1, max_size=20)
FUNCTIONS = [row.function for row in measures.DISTANCES.values()]
ALL = pytest.mark.parametrize("measure", FUNCTIONS, ids=measures.DISTANCES)


def test_the_catalogue_has_each_distance_and_its_worst_channel():
    rows = catalogue.measures()
    assert tuple(measures.DISTANCES) == catalogue.distances()
    for row in measures.DISTANCES.values():
        for name in (row.name, f"{row.name}_worst"):
            assert rows[name].is_distance
            assert (rows[name].unit, rows[name].scale, rows[name].still) == (
                row.unit, row.scale, 0)  # fmt: skip
            assert rows[name].meaning.startswith(row.meaning)


# --- Wasserstein-1 -------------------------------------------------------------------------------


def test_a_shift_by_k_is_k_over_sigma():
    shifted = measures.wasserstein_normalized(sketch(A + 0.7), sketch(A)).mean()
    assert shifted == pytest.approx(np.mean(0.7 / A.std(0)), rel=1e-5)


def test_scaling_a_zero_mean_sample():
    centered = A - A.mean(0)
    expected = np.mean(0.5 * np.abs(centered).mean(0) / centered.std(0))
    scaled = measures.wasserstein_normalized(sketch(1.5 * centered), sketch(centered)).mean()
    assert scaled == pytest.approx(expected, rel=1e-4)


def test_unchanged_when_both_are_scaled_and_shifted(rng):
    b = rng.normal(0, 1, (1000, 3))
    plain = measures.wasserstein_normalized(sketch(b), sketch(A))
    moved = measures.wasserstein_normalized(sketch(3 * b - 5), sketch(3 * A - 5))
    np.testing.assert_allclose(moved.distance, plain.distance, rtol=1e-4)
    assert moved.mean() == pytest.approx(plain.mean(), rel=1e-4)


def test_gaussians_have_their_closed_form():
    d_mu, d_sigma = 0.8, 0.5
    expected = d_sigma * math.sqrt(2 / math.pi) * math.exp(-(d_mu**2) / (2 * d_sigma**2))
    expected += d_mu * math.erf(d_mu / (math.sqrt(2) * d_sigma))
    found = measures.wasserstein(1.5 * NORMAL + d_mu, NORMAL)[0]
    assert found == pytest.approx(expected, rel=1e-3)


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


# --- Jeffreys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "delta", "expected"),
    [(1, 0.5, 0.25), (1, 1.7, 1.7**2), (2, 0, 1.125), (0.5, 0, 1.125), (1, 0, 0)],
)
def test_jeffreys_has_its_known_answers(scale, delta, expected):
    standard = (A - A.mean(0)) / A.std(0)
    moved = measures.jeffreys_gaussian(sketch(standard * scale + delta), sketch(standard))
    assert moved.mean() == pytest.approx(expected, abs=1e-4)


def test_jeffreys_knows_no_direction(rng):
    b = rng.normal(0, 1, (800, 3))
    there, back = (
        measures.jeffreys_gaussian(*pair)
        for pair in ((sketch(A), sketch(b)), (sketch(b), sketch(A)))
    )
    np.testing.assert_allclose(there.distance, back.distance, rtol=1e-12)


# --- Wasserstein-2 of Gaussians ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "delta", "expected"),
    [(1, 0.5, 0.5), (2, 0, 1), (0.5, 0, 0.5), (1.3, -0.4, 0.5), (0, 0, 1), (0, 3, math.sqrt(10))],
)
def test_wasserstein_of_gaussians_has_its_known_answers(scale, delta, expected):
    standard = (A - A.mean(0)) / A.std(0)
    pair = sketch(standard * scale + delta), sketch(standard)
    for one, other in (pair, pair[::-1]):
        found = measures.wasserstein_gaussian(one, other)
        assert found.usable.all()
        assert found.mean() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rows", [(300, 300), (500, 211), (1, 7)])
def test_wasserstein_of_gaussians_is_its_formula(rows, rng):
    a, b = rng.normal(2, 3, (rows[0], 4)), rng.normal(-1, 0.5, (rows[1], 4))
    expected = np.sqrt(np.square(a.mean(0) - b.mean(0)) + np.square(a.std(0) - b.std(0)))
    found = measures.wasserstein_gaussian(sketch(a), sketch(b))
    np.testing.assert_allclose(found.distance, expected, rtol=1e-6)
    assert found.mean() == pytest.approx(expected.mean(), rel=1e-6)
    assert found.worst() == pytest.approx(expected.max(), rel=1e-6)


# --- Jensen-Shannon ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        ((1, 0), (0.5, 0.5), 0.311278),
        ((1, 0), (0, 1), 1),
        ((0.3, 0, 0.7, 0), (0, 0.1, 0, 0.9), 1),
        ((0.2, 0.8), (0.2, 0.8), 0),
    ],
)
def test_jensen_shannon_has_its_known_answers(p, q, expected):
    assert jensen_shannon_of(column(p), column(q))[0] == pytest.approx(expected, abs=5e-7)
    assert jensen_shannon_of(column(q), column(p))[0] == pytest.approx(expected, abs=5e-7)


WEIGHTS = st.lists(st.tuples(*[st.integers(0, 50)] * 2), min_size=1, max_size=20).filter(
    lambda pairs: all(sum(each) > 0 for each in zip(*pairs, strict=True))
)


@given(WEIGHTS)
def test_jensen_shannon_is_scipys(weights):
    p, q = (np.array(each) / sum(each) for each in zip(*weights, strict=True))
    expected = scipy.spatial.distance.jensenshannon(p, q, base=2) ** 2
    mine = jensen_shannon_of(p[:, None], q[:, None])[0]
    # SciPy takes a root, of a number that rounding may leave below 0.
    assert mine == pytest.approx(np.nan_to_num(expected), abs=1e-12)


@pytest.mark.parametrize("rows", [1, 2, 3, 64, 1000])
def test_jensen_shannon_of_disjoint_samples_is_1(rows, rng):
    a = rng.normal(size=(rows, 4))
    b = a.max(0) + 0.1 + rng.random((rows, 4))
    for pair in ((sketch(a), sketch(b)), (sketch(b), sketch(a))):
        found = measures.jensen_shannon(*pair)
        np.testing.assert_allclose(found.distance, 1, atol=1e-12)
        assert found.mean() == pytest.approx(1)


def bins_of(values, edges):
    """Return the share of `values` in each bin, its upper edge included, by counting."""
    found = np.searchsorted(edges, values, side="left")
    return np.bincount(found, minlength=len(edges) + 1) / len(values)


def deciles(values):
    return np.quantile(values, np.arange(1, 10) / 10)


@pytest.mark.parametrize("rows", [(300, 300), (500, 211), (7, 4)])
def test_jensen_shannon_is_over_deciles_of_both(rows, rng):
    a, b = rng.normal(size=(rows[0], 3)), rng.normal(0.5, 2, (rows[1], 3))
    found = measures.jensen_shannon(sketch(a), sketch(b)).distance
    for channel in range(3):
        x, y = a[:, channel], b[:, channel]
        edges = deciles(np.concatenate([x, y]))
        p, q = bins_of(x, edges), bins_of(y, edges)
        expected = scipy.spatial.distance.jensenshannon(p, q, base=2) ** 2
        assert found[channel] == pytest.approx(expected, rel=1e-9)


# --- population stability index ------------------------------------------------------------------


def test_psi_has_its_known_answer():
    p, q = column([0.5, 0.5]), column([0.6, 0.4])
    assert population_stability_of(p, q)[0] == pytest.approx(0.0405465, abs=5e-8)
    assert population_stability_of(q, p)[0] == pytest.approx(0.0405465, abs=5e-8)


def test_psi_of_samples_has_the_same_answer_over_deciles():
    reference = np.arange(100.0)  # ten values between deciles
    now = np.concatenate([np.arange(50).repeat(60) / 50, 50 + np.arange(50).repeat(40)])
    now[:3000] *= 50  # 12 % in each lower bin, 8 % in each upper one
    found = measures.population_stability(sketch(column(now)), sketch(column(reference)))
    assert found.mean() == pytest.approx(0.0405465, abs=5e-8)


@pytest.mark.parametrize("rows", [(300, 300), (500, 211), (30, 7)])
def test_psi_counts_an_empty_bin_as_half_a_value(rows, rng):
    a, b = rng.normal(3, 1, (rows[0], 3)), rng.normal(size=(rows[1], 3))
    found = measures.population_stability(sketch(a), sketch(b)).distance
    emptied = 0
    for channel in range(3):
        edges = deciles(b[:, channel])
        p, q = bins_of(a[:, channel], edges), bins_of(b[:, channel], edges)
        emptied += (p == 0).sum() + (q == 0).sum()
        expected = 0.0
        for now, before in zip(p, q, strict=True):
            if now or before:
                now, before = now or 0.5 / rows[0], before or 0.5 / rows[1]
                expected += (now - before) * math.log(now / before)
        assert found[channel] == pytest.approx(expected, rel=1e-9)
    assert emptied


def test_psi_where_deciles_coincide():
    """Half the reference is zero, as after a ReLU: five deciles are one."""
    reference = np.concatenate([np.zeros(50), 1 + np.arange(50.0)])
    now = np.concatenate([np.zeros(70), 1 + np.arange(50.0).repeat(3) / 5])
    found = measures.population_stability(sketch(column(now)), sketch(column(reference)))
    edges = deciles(reference)
    p, q = bins_of(now, edges), bins_of(reference, edges)
    assert (q == 0).sum() == 4
    p, q = np.maximum(p[q > 0], 0.5 / 220), q[q > 0]
    assert found.mean() == pytest.approx(np.sum((p - q) * np.log(p / q)), rel=1e-9)


# --- Kolmogorov-Smirnov and energy ---------------------------------------------------------------


@pytest.mark.parametrize("delta", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("sigma", [1, 0.3])
def test_kolmogorov_smirnov_of_a_normal_shift(delta, sigma):
    moved, grid = sketch(sigma * (NORMAL + delta)), sketch(sigma * NORMAL)
    expected = 2 * scipy.stats.norm.cdf(delta / 2) - 1
    assert measures.kolmogorov_smirnov(moved, grid).mean() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("delta", [0.1, 0.5, 2.0])
def test_energy_of_a_normal_shift(delta):
    expected = math.exp(-(delta**2) / 4) * 2 / math.sqrt(math.pi) + delta * math.erf(delta / 2)
    expected = 2 * expected - 4 / math.sqrt(math.pi)
    found = measures.energy(sketch(NORMAL + delta), sketch(NORMAL)).mean()
    assert found == pytest.approx(expected, rel=1e-3)


@given(SAMPLES, SAMPLES)
def test_kolmogorov_smirnov_is_scipys_for_samples_of_any_sizes(a, b):
    mine = measures.kolmogorov_smirnov(sketch(column(a)), sketch(column(b))).mean()
    with warnings.catch_warnings(action="ignore"):  # about the p-value, which nobody wants
        expected = scipy.stats.ks_2samp(a, b, method="asymp").statistic
    assert mine == pytest.approx(expected, abs=1e-12)
    assert 0 <= mine <= 1


@given(SAMPLES, SAMPLES)
def test_energy_is_scipys_for_samples_of_any_sizes(a, b):
    mine = measures.energy(sketch(column(a)), sketch(column(b))).mean()
    assert mine == pytest.approx(scipy.stats.energy_distance(a, b) ** 2, rel=1e-9, abs=1e-9)


# --- what holds for all --------------------------------------------------------------------------


@ALL
@given(SAMPLES)
def test_nothing_moved_is_exactly_zero(measure, values):
    same = measure(sketch(column(values)), sketch(column(values)))
    assert (same.mean(), same.worst()) == (0, 0)


@ALL
def test_nothing_moved_is_exactly_zero_over_channels_of_every_kind(measure):
    x = np.stack([A[:, 0], np.maximum(A[:, 1], 0), np.full(1000, 0.1), A[:, 2].round(1)], axis=1)
    with_nan = x.copy()
    with_nan[::7, 0] = np.nan
    with_nan[:, 1] = np.inf
    for values in (x, with_nan, x.astype("float32")):
        same = measure(sketch(values), sketch(values))
        assert (same.mean(), same.worst()) == (0, 0)


@ALL
def test_no_measure_is_negative_or_nan_if_something_moved(measure):
    for scale in (1e-3, 1, 1e3):
        found = measure(sketch(scale * (A + 0.01)), sketch(scale * A))
        assert (found.distance > 0).all()
        assert found.usable.all()


def one_by_one(measure, a, b):
    """Return what `measure` says of each channel alone."""
    channels = [
        measure(sketch(a[:, [i]]), sketch(b[:, [i]]))
        for i in range(a.shape[1])
    ]  # fmt: skip
    return ByChannel(*(np.concatenate(parts) for parts in zip(*channels, strict=True)))


@ALL
@pytest.mark.parametrize("rows", [(200, 200), (200, 61), (1, 1), (5, 1)])
def test_all_channels_at_once_are_each_channel_alone(measure, rows, rng):
    # float64: the kernel that float32 goes through rounds by how many channels there are.
    a, b = (rng.normal(i, 1 + i, (n, 5)) for i, n in enumerate(rows))
    a[:, 1], b[:, 1] = np.maximum(a[:, 1], 0), np.maximum(b[:, 1], 0)
    a[:, 2], b[:, 2] = a[:, 2].round(), b[:, 2].round()
    b[:, 3] = 0.5
    together, alone = measure(sketch(a), sketch(b)), one_by_one(measure, a, b)
    np.testing.assert_array_equal(together.usable, alone.usable)
    np.testing.assert_allclose(together.moved, alone.moved, rtol=1e-12)
    found, expected = (each.distance[alone.usable] for each in (together, alone))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert together.worst() == pytest.approx(alone.worst(), rel=1e-12)


@ALL
def test_channels_with_nan_are_compared_by_their_other_values(measure, rng):
    a, b = rng.normal(size=(100, 4)), rng.normal(1, 2, (100, 4))
    whole = measure(sketch(a), sketch(b))
    broken = a.copy()
    broken[[3, 50, 99], 1] = np.nan, np.inf, -np.inf
    broken[:, 2] = np.nan
    found = measure(sketch(broken), sketch(b))
    left = measure(sketch(np.delete(a[:, [1]], [3, 50, 99], axis=0)), sketch(b[:, [1]]))
    assert found.distance[[0, 3]] == pytest.approx(whole.distance[[0, 3]], rel=1e-12)
    assert found.distance[1] == pytest.approx(left.distance[0], rel=1e-12)
    assert np.isnan(found.moved).tolist() == [False, False, True, False]
    known = found.distance[[0, 1, 3]]
    assert found.mean() == pytest.approx(known.mean(), rel=1e-12)
    assert found.worst() == known.max()


@ALL
def test_the_worst_is_the_channel_that_moved_most(measure):
    moved = A + np.array([0.1, 0.9, 0.3])
    found = measure(sketch(moved), sketch(A))
    assert found.worst() == found.distance.max() == found.distance[1] > found.mean()
    assert found.mean() == pytest.approx(found.distance.mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("distance", "moved", "usable", "mean", "worst"),
    [
        ([1, 3], [1, 3], [True, True], 2, 3),
        ([1, 9], [1, 3], [True, False], 1, 1),
        ([1, 9, 2], [1, np.nan, 3], [True, True, True], 1.5, 2),
        ([np.nan, 9], [0, 0], [False, False], 0, 0),
        ([np.nan, 9], [0, 0.1], [False, False], np.inf, np.inf),
        ([np.nan, 9], [0, np.nan], [False, True], 0, 0),
        ([1, 9], [np.nan, np.nan], [True, True], np.nan, np.nan),
        ([], [], [], np.nan, np.nan),
    ],
)
def test_which_channels_take_part(distance, moved, usable, mean, worst):
    found = ByChannel(np.array(distance, float), np.array(moved, float), np.array(usable, bool))
    np.testing.assert_equal([found.mean(), found.worst()], [mean, worst])


SCALED = pytest.mark.parametrize(
    "measure",
    [
        measures.wasserstein_normalized,
        measures.jeffreys_gaussian,
        measures.population_stability,
    ],
)


@SCALED
def test_constant_channels_are_left_out(measure):
    dead = A.copy()
    dead[:, 0] = 0.1
    moved = dead + 0.5
    whole, rest = (
        measure(sketch(moved), sketch(dead)),
        measure(sketch(moved[:, 1:]), sketch(dead[:, 1:])),
    )
    assert whole.usable.tolist() == [False, True, True]
    assert whole.mean() == pytest.approx(rest.mean())
    assert whole.worst() == pytest.approx(rest.worst())


@pytest.mark.parametrize(
    "name", ["wasserstein_gaussian", "jensen_shannon", "kolmogorov_smirnov", "energy"]
)
def test_constant_channels_are_used_if_no_spread_is_needed(name):
    dead = A.copy()
    dead[:, 0] = 0.1
    assert measures.DISTANCES[name].function(sketch(dead + 0.5), sketch(dead)).usable.all()


IF_A_TENTH_MOVED = {
    "wasserstein": math.inf,
    "jeffreys": math.inf,
    "wasserstein_gaussian": 0.1,
    "jensen_shannon": 1,
    "psi": math.inf,
    "kolmogorov_smirnov": 1,
    "energy": 0.2,
}


@pytest.mark.parametrize(("name", "expected"), IF_A_TENTH_MOVED.items())
def test_constants_alone(name, expected):
    measure, before = measures.DISTANCES[name].function, sketch(np.full((9, 2), 0.1))
    moved = measure(sketch(np.full((9, 2), 0.2)), before)
    assert moved.mean() == moved.worst() == pytest.approx(expected, rel=1e-12)
    same = measure(sketch(np.full((9, 2), 0.1)), before)
    assert same.mean() == same.worst() == 0


@ALL
def test_without_finite_values_a_distance_is_nan(measure):
    nothing, something = sketch(np.full((9, 2), np.nan)), sketch(np.ones((9, 2)))
    for pair in ((nothing, something), (something, nothing), (nothing, nothing)):
        assert math.isnan(measure(*pair).mean())
        assert math.isnan(measure(*pair).worst())


# --- noise floors --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [50, 256, 2000])
def test_noise_floor_of_wasserstein(n):
    """The reference says 1.75/√n, which holds at some 50 values; for many it is 1.822/√n.

    E W₁ = ∫ E|F_n − G_n| → 2/√(πn) · ∫ √(Φ(1 − Φ)).
    """
    rng = np.random.default_rng(n)
    a, b = (np.sort(rng.normal(size=(n, 1000)), axis=0) for _ in range(2))
    floor = measures.wasserstein(a, b).mean() * math.sqrt(n)
    assert floor == pytest.approx(1.75, rel=0.25)
    x = np.linspace(-12, 12, 100_001)
    spread = np.sqrt(scipy.stats.norm.cdf(x) * scipy.stats.norm.sf(x))
    limit = 2 / math.sqrt(math.pi) * scipy.integrate.trapezoid(spread, x)
    assert limit == pytest.approx(1.822, abs=1e-3)
    assert floor == pytest.approx(limit, rel=0.05)


@pytest.mark.parametrize("n", [256, 2000])
def test_noise_floor_of_psi(n):
    rng = np.random.default_rng(n)
    a, b = (sketch(rng.normal(size=(n, 300))) for _ in range(2))
    floor = 2 * (BINS - 1) / n
    assert measures.population_stability(a, b).mean() == pytest.approx(floor, rel=0.1)
