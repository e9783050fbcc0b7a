"""Places that are alike are measured at once: the numbers are those of each alone."""

import keras
import numpy as np
import pytest

from kbn.callbacks.probing import shift_measures
from kbn.callbacks.probing.shift_measures import measured
from kbn.distributions import reduction
from kbn.distributions.distances import DISTANCES
from kbn.distributions.reduction import Reduction, sketched
from kbn.records import catalogue
from kbn.records.tags import Place


def places(shift, rng):
    """Return sketches of places alike and not, some of them odd."""
    usual = {f"usual_{i}": rng.normal(i + shift, 1 + shift, (40, 5)) for i in range(4)}
    nan, constant = rng.normal(shift, 1, (40, 5)), rng.normal(shift, 1, (40, 5))
    nan[:, 1], nan[3, 2] = np.nan, np.inf
    constant[:, 0] = 0.1
    found = {
        **usual,
        "nan": nan,
        "constant": constant,
        "still": np.full((40, 5), 0.5),
        "nothing": np.full((40, 5), np.nan),
        "wide": rng.normal(shift, 1, (40, 9)),
        "long": rng.normal(shift, 1, (90, 5)),
        "half": rng.normal(shift, 1, (40, 5)).astype("float16"),
        "empty": np.zeros((0, 5)),
    }
    return {Place(name, "output"): sketched(x) for name, x in found.items()}


@pytest.mark.parametrize("at_once", [1, 500, 2**18])
def test_measured_together_and_alone_are_equal(at_once, monkeypatch, rng):
    monkeypatch.setattr(shift_measures, "VALUES_AT_ONCE", at_once)
    now, before = places(0.5, rng), places(0.0, rng)
    del before[Place("usual_2", "output")]  # no reference yet
    found = measured(catalogue.distances(), now, before)
    assert list(found) == list(now)
    for place, sketch in now.items():
        alone = {"mean": sketch.pooled_mean(), "std": sketch.pooled_std(),
                 "kurtosis": sketch.kurtosis(), "dead": sketch.dead_share,
                 "percentile_50": float(sketch.quantile(0.5))}  # fmt: skip
        for name in catalogue.distances() if place in before else ():
            by_channel = DISTANCES[name].function(sketch, before[place])
            alone |= {name: by_channel.mean(), f"{name}_worst": by_channel.worst()}
        assert {name: found[place][name] for name in alone} == pytest.approx(alone, nan_ok=True)
        assert ("wasserstein" in found[place]) == (place in before)


@pytest.mark.parametrize("at_once", [1, 500, 2**18])
@pytest.mark.parametrize("most", [2**13, 60])
@pytest.mark.parametrize("shape", [(40, 5), (8, 5, 4), (40,), (0, 5), (3, 70_000)], ids=str)
def test_sketched_together_and_alone_are_equal(shape, most, at_once, monkeypatch, rng):
    monkeypatch.setattr(reduction, "WHOLE_AT_ONCE", at_once)
    one = Reduction(shape, 1, most)
    xs = [rng.normal(i, 1 + i, shape).astype("float32") for i in range(4)]
    xs[2][..., :2] = np.nan
    arrays = [
        {name: keras.ops.convert_to_numpy(each) for name, each in one.on_device(x).items()}
        for x in map(keras.ops.convert_to_tensor, xs)
    ]
    for together, reduced in zip(one.on_host(arrays), arrays, strict=True):
        (alone,) = one.on_host([reduced])
        for name in ("values", "mean", "variance", "count"):
            np.testing.assert_allclose(
                getattr(together, name), getattr(alone, name), rtol=1e-12, atol=1e-300
            )
        np.testing.assert_array_equal(together.quantile([0, 0.3, 1]), alone.quantile([0, 0.3, 1]))
        for name in ("size", "finite_count", "dead_share", "zero_share"):
            assert getattr(together, name) == getattr(alone, name)
        merged = [together.pooled_mean(), together.pooled_std()]
        np.testing.assert_allclose(merged, [alone.pooled_mean(), alone.pooled_std()], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])  # with a kernel, and without one
def test_a_non_finite_place_does_not_change_the_others(dtype, rng):
    """Else what did not move would seem to: by inf, where channels are constant."""
    one = Reduction((40, 5), 1, 2**13)
    xs = [np.tile(rng.normal(size=5) + 0.1, (40, 1)), rng.normal(3, 1, (40, 5)), np.ones((40, 5))]

    def sketches():
        return one.on_host([
            {name: keras.ops.convert_to_numpy(each) for name, each in one.on_device(x).items()}
            for x in (keras.ops.convert_to_tensor(x.astype(dtype)) for x in xs)
        ])  # fmt: skip

    before = sketches()
    xs[2] = np.full((40, 5), np.nan)
    now = sketches()
    for name in ("mean", "variance", "count"):
        for i in (0, 1):
            np.testing.assert_array_equal(getattr(now[i], name), getattr(before[i], name))
    places = [Place(str(i), "output") for i in range(3)]
    found = measured(
        catalogue.distances(), *(dict(zip(places, each, strict=True)) for each in (now, before))
    )
    assert {found[place][name] for place in places[:2] for name in catalogue.distances()} == {0.0}


def test_a_reference_with_another_number_of_channels_is_ignored(rng):
    """Where Python runs a model, a layer may be called with others."""

    def sketches(*widths):
        return {Place(f"{i}", "output"): sketched(rng.normal(size=(40, width)))
                for i, width in enumerate(widths)}  # fmt: skip

    found = measured(catalogue.distances(), sketches(8, 16, 5), sketches(16, 8, 5))
    assert ["psi" in values for values in found.values()] == [False, False, True]
