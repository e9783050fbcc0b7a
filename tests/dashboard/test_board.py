"""Dashboard: the figures of a log in a notebook."""

import numpy as np
import pytest

import kbn.dashboard
from kbn.dashboard.figures import FIGURES
from kbn.records import catalogue
from tests.support.logs import buckets, write

SHIFT = "wasserstein"


@pytest.fixture(scope="module")
def board(two_runs):
    return kbn.dashboard.load(two_runs[0])


def test_every_figure_of_a_real_log(board):
    drawn = [
        board.heat_map(), board.heat_map("kurtosis", site="output"), board.percentiles(),
        board.percentiles("sigmoid_1", site="output"), board.percentiles(["sigmoid_1"]),
        board.ridge("sigmoid_2"), board.compare(), board.compare("std", "sigmoid_1"),
        board.gradient_shift(), board.gradient_shift("dense_1"), board.landscape(),
        board.statistics_gap(), board.statistics_gap("norm_1"), board.worst_layers(),
    ]  # fmt: skip
    assert all(len(figure.data) for figure in drawn)
    assert [trace.name for trace in board.compare().data if trace.showlegend] == [
        "normalized", "plain"]  # fmt: skip


def test_inputs_are_shown_by_default(board):
    assert {site for _, site in board.heat_map().data[0].meta} == {"input"}
    assert {site for _, site in board.heat_map(site="output").data[0].meta} == {"output"}


def test_runs_layers_and_measures_of_a_log(board):
    assert board.runs == ["normalized", "plain"]
    assert set(board.layers) == {"sigmoid_1", "sigmoid_2", "dense_1", "dense_2", "out", "norm_1",
                                 "norm_2"}  # fmt: skip
    assert board.measures[:3] == ["percentile_15", "percentile_50", "percentile_85"]
    assert board.skipped == []
    assert "GradientShift" in board.settings()["plain"]["gradient_shift"]


def test_to_frame_has_every_number(board, two_runs):
    frame = board.to_frame()
    assert list(frame.columns) == ["run", "step", "layer", "site", "measure", "value"]
    rows = [
        row
        for callbacks in two_runs[1].values()
        for callback in callbacks
        for row in callback.history
    ]
    assert len(frame) == sum(row.layer != "record" for row in rows)
    one = frame[(frame.run == "plain") & (frame.layer == "sigmoid_1") & (frame.site == "input")
                & (frame.measure == SHIFT)]  # fmt: skip
    expected = [row.value for row in two_runs[1]["plain"][0].history
                if row[1:4] == ("sigmoid_1", "input", SHIFT)]  # fmt: skip
    np.testing.assert_array_equal(one.value, expected)


def test_help_on_a_figure_is_its_docstring(board):
    for figure in FIGURES.values():
        method = getattr(board, figure.name)
        assert (method.__name__, method.__doc__) == (figure.name, figure.draw.__doc__)
        assert figure.name in dir(board)


def test_the_old_name_of_compare_is_deprecated(board):
    with pytest.warns(
        DeprecationWarning, match="deprecated"
    ) as caught:  # Plotly 6.0 has one of its own
        old = board.compared("std", layer="sigmoid_1")
    (message,) = [str(each.message) for each in caught if "compared" in str(each.message)]
    assert "Dashboard.compared is deprecated; use Dashboard.compare instead." in message
    assert old == board.compare("std", layer="sigmoid_1")


def test_some_runs_alone(two_runs):
    assert kbn.dashboard.load(two_runs[0], runs=["pl*"]).runs == ["plain"]
    with pytest.raises(ValueError, match=r"No run matches.*'normalized', 'plain'.*runs=\['x'\]"):
        kbn.dashboard.load(two_runs[0], runs=["x"])
    with pytest.raises(ValueError, match=r"No run matches 'x'\. .*runs=\['plain', 'x'\]"):
        kbn.dashboard.load(two_runs[0], runs=["plain", "x"])
    with pytest.raises(ValueError, match=r"No pattern given\. The runs are.*runs=\[\]"):
        kbn.dashboard.load(two_runs[0], runs=[])


def test_runs_and_layers_at_other_sites_are_shown_too(tmp_path):
    write(tmp_path / "in", {SHIFT: {"a": [0, 1]}})
    write(tmp_path / "out", {SHIFT: {"a": [0, 2], "b": [0, 3]}}, sites=["output"])
    write(tmp_path / "both", {SHIFT: {"a": [0, 4]}}, sites=["input", "output"])
    board = kbn.dashboard.load(tmp_path)
    assert {(one.run, *one.place): one.mean for one in board.moved()} == {
        ("in", "a", "input"): 1, ("out", "a", "output"): 2, ("out", "b", "output"): 3,
        ("both", "a", "input"): 4,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"site must be one of.*site='probe'"):
        board.moved(site="probe")


def test_forty_runs_have_percentiles(tmp_path):
    for run in range(40):
        write(tmp_path / f"run_{run}", {name: {"a": [0, 1]} for name in catalogue.PERCENTILES})
    assert len(kbn.dashboard.load(tmp_path).percentiles().data) == 3 * 40


def test_a_measure_that_is_never_finite_is_no_error(tmp_path):
    write(tmp_path, {SHIFT: {"a": [np.nan, np.nan], "b": [np.nan, np.inf]}})
    board = kbn.dashboard.load(tmp_path)
    for draw in (board.heat_map, board.worst_layers, board.compare, board.verdict):
        draw()
    assert "No run has finite values" in board.compare().layout.annotations[0].text


def test_after_the_first_record_there_is_nothing_to_compare_with(tmp_path):
    write(tmp_path, {SHIFT: {"a": [0.0]}})
    board = kbn.dashboard.load(tmp_path)
    (sentence,) = board.verdict()
    assert sentence.startswith("No run has wasserstein after its first record")
    assert "after its first record" in board.worst_layers().layout.annotations[0].text


@pytest.mark.parametrize(("draw", "message"), [
    (lambda board: board.heat_map("wasserstain"), r"measure must be one of.*'wasserstain'"),
    (lambda board: board.heat_map(site="middle"), r"site must be one of \['input', 'output'\].*"
     "'middle'"),
    (lambda board: board.ridge("sigmoid_3"), r"Did you mean one of \['sigmoid_\d', 'sigmoid_\d'\]"
     r"\? Received: layer='sigmoid_3'"),
    (lambda board: board.percentiles("sigmoid_1", site="probe"), r"site must be one of.*'probe'"),
    (lambda board: board.ridge("norm_1", site="input"), r"at site 'input'.*layer='norm_1'"),
    (lambda board: board.compare(SHIFT, "dense_1"), r"No run recorded this layer.*'dense_1'"),
])  # fmt: skip
def test_errors_list_the_allowed_values(board, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(board)


def test_an_empty_folder_draws_figures_that_say_so(tmp_path):
    board = kbn.dashboard.load(tmp_path)
    for draw in (board.heat_map, board.percentiles, board.compare, board.gradient_shift,
                 board.landscape, board.statistics_gap, board.worst_layers):  # fmt: skip
        assert draw().layout.annotations[0].text.startswith("No run has")
    assert board.verdict() == ["No run has wasserstein: how far layers moved is unknown."]
    assert board.to_frame().empty


@pytest.mark.parametrize(("measures", "distance"), [
    ({"psi": {"a": [0, 1]}, "mean": {"a": [0, 1]}}, "psi"),
    ({"psi": {"a": [0, 1]}, SHIFT: {"a": [0, 1]}}, SHIFT),
    ({"gradient_shift": {"a": [0, 1]}}, None),
])  # fmt: skip
def test_the_distance_that_was_recorded_is_shown(measures, distance, tmp_path):
    write(tmp_path, measures)
    board = kbn.dashboard.load(tmp_path)
    assert board.distance == distance
    title = board.heat_map().layout.title.text
    assert title.startswith(f"{distance or SHIFT} of every layer")
    assert len(board.moved()) == bool(distance)
    if distance == "psi":
        with pytest.raises(ValueError, match=r"measure must be one of .*measure='wasserstein'"):
            board.verdict("wasserstein")


def test_the_verdict_agrees_with_the_table(tmp_path):
    write(tmp_path, {SHIFT: {"a": [0, 1], "b": [0, 3]}})
    write(tmp_path, {SHIFT: {"a": [0, 9]}}, sites=["output"])
    board = kbn.dashboard.load(tmp_path, runs=".")
    assert {one.place.site for one in board.moved()} == {"input"}
    (sentence,) = board.verdict()
    assert "mean shift 2 σ over 1 record;" in sentence
    assert "largest in b (input)" in sentence


def test_a_layer_may_be_called_model(tmp_path):
    write(tmp_path, {"gradient_shift": {"model": [0, 1]}}, sites=["probe"])
    write(tmp_path, {"loss_lowest": {"model": [0, 1]}}, sites=["probe"], kind="loss_landscape")
    assert kbn.dashboard.load(tmp_path).layers == ["model"]
    write(tmp_path / "other", {"loss_lowest": {"model": [0, 1]}}, sites=["probe"])
    assert kbn.dashboard.load(tmp_path, "other").layers == []


def test_six_layers_spread_over_the_depth_by_default(tmp_path):
    values = {f"layer_{i}": [0.0, 1.0] for i in range(50)}
    write(tmp_path, dict.fromkeys(catalogue.PERCENTILES, values))
    figure = kbn.dashboard.load(tmp_path).percentiles()
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles == [f"layer_{i} input, ." for i in (0, 10, 20, 29, 39, 49)]


def test_one_layers_histograms_over_several_runs(tmp_path):
    rng = np.random.default_rng(0)
    for run in "ab":
        write(tmp_path / run, {SHIFT: {"x": [0, 1]}}, histograms={"x": [buckets(rng)] * 2})
    assert len(kbn.dashboard.load(tmp_path).ridge("x").data) == 4
