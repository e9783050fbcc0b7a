"""Figures against numbers that are known, and names that are not what they seem."""

import html

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbn.dashboard.figures import (
    FIGURES,
    compare,
    gradient_shift,
    heat_map,
    landscape,
    percentiles,
    ridge,
    statistics_gap,
    style,
    worst_layers,
)
from kbn.diagnosis.summary import Moved
from kbn.records import catalogue
from kbn.records.series import Histograms, Series, matrix
from kbn.records.tags import Place
from tests.support.logs import HOSTILE, buckets

SHIFT = "wasserstein"


def places(values, steps=None, site="input"):
    """Return places layer_0, … with these values, (layers, steps)."""
    steps = np.arange(len(values[0])) if steps is None else np.asarray(steps)
    return {Place(f"layer_{i}", site): Series(steps, np.asarray(of, float))
            for i, of in enumerate(values)}  # fmt: skip


def texts(figure):
    """Return all strings of a figure."""

    def walk(value):
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for key, each in value.items():
                if key not in ("meta", "template", "legendgroup"):  # which Plotly does not show
                    yield from walk(each)
        elif isinstance(value, list | tuple | np.ndarray):
            for each in value:
                yield from walk(each)

    return list(walk(figure.to_plotly_json()))


# --- what a figure says of itself ---------------------------------------------------------------


def test_each_module_that_draws_is_found_in_the_order_of_the_pages():
    assert list(FIGURES) == [
        "heat_map", "worst_layers", "compare", "percentiles", "ridge", "gradient_shift",
        "landscape", "statistics_gap",
    ]  # fmt: skip
    orders = [figure.order for figure in FIGURES.values()]
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
def test_a_figure_explains_itself(figure):
    assert figure.text.endswith(".")
    assert not figure.title.endswith(".")
    assert not figure.needs or figure.needs in catalogue.measures()
    assert figure.draw.__doc__


def test_options_are_those_of_the_drawing_function():
    options = {name: (figure.options, figure.required) for name, figure in FIGURES.items()}
    assert options["heat_map"] == (["measure", "site"], [])
    assert options["compare"] == (["measure", "layer", "site"], [])
    assert options["ridge"] == (["layer", "site"], ["layer"])
    assert options["landscape"] == ([], [])


# --- heat map ------------------------------------------------------------------------------------


def test_the_heat_map_is_logarithmic_with_the_first_layer_at_the_top():
    figure = heat_map.plot({"run": places([[0, 1, 10], [100, 0.01, np.nan]])}, SHIFT)
    (trace,) = figure.data
    np.testing.assert_allclose(trace.z, [[-2, 0, 1], [2, -2, np.nan]])  # 0 is as the least
    np.testing.assert_array_equal(trace.customdata, np.float32([[0, 1, 10], [100, 0.01, np.nan]]))
    assert list(trace.y) == ["layer_0 input", "layer_1 input"]
    assert figure.layout.yaxis.autorange == "reversed"
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-2, 2)
    assert figure.layout.coloraxis.colorbar.title.text == "σ of the reference"
    assert list(map(list, trace.meta)) == [["layer_0", "input"], ["layer_1", "input"]]


def test_the_scale_has_a_bound_and_runs_share_it():
    runs = {"a": places([[1e-9, 1.0]]), "b": places([[np.inf, 10.0]])}
    one, other = heat_map.plot(runs, SHIFT).data
    np.testing.assert_allclose(one.z, [[1 - heat_map.DECADES, 0]])
    np.testing.assert_allclose(other.z, [[1, 1]])


@pytest.mark.parametrize("measure", ["dead", "gradient_cosine"])
def test_shares_and_cosines_are_linear(measure):
    figure = heat_map.plot({"run": places([[0, 0.5], [-0.5, 1]])}, measure)
    np.testing.assert_allclose(figure.data[0].z, [[0, 0.5], [-0.5, 1]])


def test_a_measure_that_is_zero_throughout_is_drawn():
    figure = heat_map.plot({"run": places([[0, 0], [0, 0]])}, SHIFT)
    np.testing.assert_array_equal(figure.data[0].z, np.zeros((2, 2)))


def test_of_many_steps_the_greatest_of_each_column_is_shown(rng):
    values = rng.random((3, 4 * heat_map.COLUMNS))
    (trace,) = heat_map.plot({"run": places(values)}, SHIFT).data
    assert trace.customdata.shape == (3, heat_map.COLUMNS)
    expected = values.reshape(3, -1, 4).max(axis=2)
    np.testing.assert_array_equal(trace.customdata, expected.astype("float32"))


@pytest.mark.parametrize(("measure", "usual", "far"), [
    ("gradient_cosine", 1.0, -1.0), ("variance_log_ratio", 0.5, -2.0), ("std", 1.0, 3.0),
])  # fmt: skip
def test_of_many_steps_the_farthest_of_each_column_is_shown(measure, usual, far):
    values = np.full(2 * heat_map.COLUMNS, usual)
    values[1::2] = far
    shown = heat_map.plot({"run": places([values])}, measure).data[0].customdata
    np.testing.assert_array_equal(shown, np.full((1, heat_map.COLUMNS), far))


def test_places_with_other_steps_are_unknown_elsewhere():
    both = {Place("a", "input"): Series(np.array([0, 2]), np.array([1.0, 3.0])),
            Place("b", "input"): Series(np.array([1, 2]), np.array([2.0, 4.0]))}  # fmt: skip
    steps, values = matrix(both)
    np.testing.assert_array_equal(steps, [0, 1, 2])
    np.testing.assert_array_equal(values, [[1, np.nan, 3], [np.nan, 2, 4]])


@pytest.mark.parametrize(("layers", "named"), [(1, 1), (40, 40), (300, 60)])
def test_as_many_names_as_fit(layers, named):
    figure = heat_map.plot({"run": places(np.ones((layers, 2)))}, SHIFT)
    names = figure.layout.yaxis.ticktext
    assert len(names) == named
    assert names[0] == "layer_0 input"
    assert figure.layout.height < 1200


def test_many_runs_share_the_page():
    runs = {f"run_{i}": places(np.ones((100, 2))) for i in range(10)}
    assert heat_map.plot(runs, SHIFT).layout.height < 2500


# --- bands and lines -----------------------------------------------------------------------------


def test_percentiles_are_drawn_as_bands():
    low, middle, high = catalogue.PERCENTILES
    measures = {low: places([[1, 2]]), middle: places([[3, 4]]), high: places([[5, 6]])}
    figure = percentiles.plot({"run": measures}, [Place("layer_0", "input")])
    assert [list(trace.y) for trace in figure.data] == [[1, 2], [5, 6], [3, 4]]
    assert figure.data[1].fill == "tonexty"
    assert figure.layout.annotations[0].text == "layer_0 input, run"


def test_runs_without_a_layer_leave_its_plot_empty():
    _, middle, _ = catalogue.PERCENTILES
    runs = {"a": {middle: places([[1, 2]])}, "b": {}}
    assert len(percentiles.plot(runs, [Place("layer_0", "input")]).data) == 1


def test_runs_compared_by_one_layer_or_the_median_of_all(rng):
    values = rng.random((21, 4))
    runs = {"a": places(values), "b": places(values + 1)}
    figure = compare.plot(runs, SHIFT)
    lines = [trace for trace in figure.data if trace.fill is None and trace.line.width]
    np.testing.assert_allclose(lines[0].y, np.median(values, axis=0))
    np.testing.assert_allclose(figure.data[0].y, np.quantile(values, 0.1, axis=0))
    assert [trace.name for trace in figure.data if trace.showlegend] == ["a", "b"]
    one = compare.plot(runs, SHIFT, Place("layer_3", "input"))
    np.testing.assert_array_equal([trace.y for trace in one.data], [values[3], values[3] + 1])


@pytest.mark.parametrize(("measure", "label"), [
    (SHIFT, "wasserstein<br>σ of the reference"), ("std", "std<br>unit of the activation"),
    ("kurtosis", "kurtosis"),
])  # fmt: skip
def test_an_axis_names_its_measure_and_the_unit_if_it_has_one(measure, label, rng):
    figure = compare.plot({"a": places(rng.random((1, 2)))}, measure)
    assert figure.layout.yaxis.title.text == label


def test_non_finite_values_leave_gaps_without_a_warning():
    values = np.array([[1, np.nan, np.inf, 4], [2, np.nan, 3, np.inf]])
    figure = compare.plot({"run": places(values)}, SHIFT)
    np.testing.assert_array_equal(figure.data[-1].x, [0, 2, 3])
    np.testing.assert_array_equal(figure.data[-1].y, [1.5, 3, 4])


def test_gradients_landscape_and_statistics_have_a_plot_per_measure():
    def of(names, layer="layer_0"):
        return {name: {Place(layer, "probe"): Series(np.arange(2), np.ones(2))} for name in names}

    shift = gradient_shift.plot({"run": of(catalogue.scalars("gradient_shift"))})
    assert len(shift.data) == 2
    land = landscape.plot({"run": of(catalogue.scalars("loss_landscape"), "model")})
    assert len(land.data) == 3 + 2 + 1
    assert sum(bool(trace.showlegend) for trace in land.data) == 1
    gap = statistics_gap.plot({"run": of(catalogue.scalars("moving_statistics"))})
    assert len(gap.data) == 4
    assert len(statistics_gap.plot({"run": of(["mean_gap"])}).data) == 1


# --- ridge ---------------------------------------------------------------------------------------


def test_densities_have_area_one(rng):
    shape = buckets(rng)
    values, heights = ridge.density(shape)
    assert np.sum(np.diff(values)[::2] * heights[::2]) == pytest.approx(1, rel=1e-9)
    np.testing.assert_array_equal(values.reshape(-1, 2), shape[:, :2])


@pytest.mark.parametrize("width", [0.0, 1.0])
def test_buckets_without_width_have_a_density(width):
    values, heights = ridge.density(np.array([[0.5, 0.5, 10], [0.5, 0.5 + width, 10]]))
    assert np.isfinite(values).all()
    assert np.isfinite(heights).all()
    assert np.all(np.diff(values) >= 0)
    assert np.sum(np.diff(values)[::2] * heights[::2]) == pytest.approx(1)


def test_the_ridge_has_a_line_per_step_and_no_more_than_fit(rng):
    shapes = [buckets(rng, i / 10) for i in range(60)]
    run = Histograms(np.arange(60) * 100, shapes)
    none = Histograms(np.arange(2), [np.zeros((0, 3)), np.zeros((3, 3))])
    figure = ridge.plot({"run": run, "none": none}, Place("a", "input"))
    assert len(figure.data) == ridge.RIDGES
    assert [figure.data[0].name, figure.data[-1].name] == ["step 0", "step 5900"]
    low, high = figure.layout.xaxis.range
    assert low == pytest.approx(-3.5, abs=1.5)
    assert high == pytest.approx(9, abs=1.5)


# --- names ---------------------------------------------------------------------------------------


@given(st.text())
def test_text_is_what_plotly_shows_as_it_is(name):
    shown = style.text(name)
    assert not set(shown) & {"<", ">", "$"}
    assert "%{" not in shown
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    assert html.unescape(shown) == plain
    assert len(html.unescape(style.short(name))) <= style.LONGEST


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_in_every_figure(name, rng):
    place, series = Place(name, "input"), Series(np.arange(3), np.array([0.0, 1.0, 2.0]))
    measures = {m: {place: series, Place(name, "probe"): series} for m in catalogue.measures()}
    of_model = {m: {Place("model", "probe"): series} for m in catalogue.scalars("loss_landscape")}
    moved = [Moved(name, place, 1.0, 2.0, 3, 4)]
    shapes = Histograms(np.arange(2), [buckets(rng), buckets(rng)])
    drawn = [
        heat_map.plot({name: {place: series}}, SHIFT),
        percentiles.plot({name: measures}, [place]),
        compare.plot({name: {place: series}}, SHIFT, place),
        gradient_shift.plot({name: measures}),
        landscape.plot({name: measures | of_model}),
        statistics_gap.plot({name: measures}),
        ridge.plot({name: shapes}, place),
        worst_layers.plot(moved, SHIFT),
    ]
    for figure in drawn:
        for text in texts(figure):
            own = text.replace("<br>", "").replace("<extra></extra>", "")
            assert "<" not in own, text
            assert "$" not in own, text


@pytest.mark.parametrize("draw", [
    lambda: heat_map.plot({}, SHIFT),
    lambda: percentiles.plot({"a": {}}, [Place("a", "input")]),
    lambda: compare.plot({"a": {}}, SHIFT),
    lambda: gradient_shift.plot({}),
    lambda: landscape.plot({"a": {}}),
    lambda: statistics_gap.plot({"a": {}}),
    lambda: ridge.plot({"a": Histograms(np.zeros(0, int), [])}, Place("a", "input")),
    lambda: worst_layers.plot([], SHIFT),
])  # fmt: skip
def test_without_data_a_figure_says_what_is_missing(draw):
    assert draw().layout.annotations[0].text.startswith("No run has")


@pytest.mark.parametrize("dark", [True, False])
def test_themes(dark):
    figure = style.themed(heat_map.plot({"run": places([[1, 2]])}, SHIFT), dark=dark)
    color = figure.layout.template.layout.font.color
    assert (color == "#f2f5fa") == dark
