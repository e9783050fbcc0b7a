"""A log that 0.1.0 wrote: tab and report read the same out of it as 0.1.0 did."""

import json
from types import SimpleNamespace

import pytest
from werkzeug.test import Client

import kbn.dashboard
from kbn.dashboard import figures, report
from kbn.dashboard.plugin import CovariateShiftPlugin
from kbn.records import catalogue
from tests.support import ROOT

FIGURES = (
    "heat_map", "worst_layers", "compare", "percentiles", "ridge", "gradient_shift", "landscape",
    "statistics_gap",
)  # fmt: skip
LOG = ROOT / "tests/golden/log-0.1.0"
EXPECTED = json.loads((LOG / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def board():
    return kbn.dashboard.load(LOG)


@pytest.fixture(scope="module")
def tab(board):
    """Ask the tab's routes, without a server."""
    flags = SimpleNamespace(logdir=str(LOG))
    context = SimpleNamespace(data_provider=board._log._provider, flags=flags)
    apps = CovariateShiftPlugin(context).get_plugin_apps()

    def ask(route, **query):
        answer = Client(apps[route]).get(route, query_string=query)
        assert answer.status_code == 200, answer.text
        return answer.get_json()

    return ask


def test_the_catalogue_has_all_of_its_measures_in_the_order_of_0_1_0():
    recorded = dict.fromkeys(measure for _, measure, *_ in EXPECTED["series"])
    assert len(recorded) == 48
    assert [name for name in catalogue.measures() if name in recorded] == list(recorded)


def test_every_number_is_the_same(board):
    columns = ["run", "measure", "layer", "site"]
    found = [
        [*key, rows.step.tolist(), [repr(value) for value in rows.value]]
        for key, rows in board.to_frame().groupby(columns, sort=False)
    ]
    assert found == EXPECTED["series"]


def test_the_reports_numbers_are_the_same(board):
    found, expected = report.numbers(board), EXPECTED["numbers"]
    for key in ("runs", "measure", "skipped"):
        assert found[key] == expected[key]
    assert found["mean_by_run"] == pytest.approx(expected["mean_by_run"], rel=1e-12)
    assert len(found["layers"]) == len(expected["layers"])
    for one, other in zip(found["layers"], expected["layers"], strict=True):
        names = {key: value for key, value in other.items() if isinstance(value, str)}
        assert {key: one[key] for key in names} == names
        assert {key: value for key, value in one.items() if key not in names} == pytest.approx(
            {key: value for key, value in other.items() if key not in names}, rel=1e-12
        )
    # Its words may change, but not what it is about.
    starts = [sentence.partition(" ")[0] for sentence in expected["verdict"]]
    assert [sentence.partition(" ")[0] for sentence in found["verdict"]] == starts


def test_the_tab_lists_the_same(tab):
    state = tab("/state")
    found = {key: state[key] for key in EXPECTED["state"]}
    found["measures"] = [one["name"] for one in state["measures"]]
    assert found == EXPECTED["state"]
    assert {figure["name"] for figure in state["figures"]} >= set(FIGURES)


def test_every_histogram_is_read(board):
    assert EXPECTED["histograms"] == {
        run: {
            " ".join(place): board._log.histograms(run, place).steps.tolist()
            for place in board._log.histogram_places(run)
        }
        for run in board.runs
    }


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn(name, tab):
    layer = {"layer": "sigmoid_1"} if "layer" in figures.FIGURES[name].required else {}
    assert tab("/figure", name=name, **layer)["data"]


def test_every_figure_is_in_the_report(board, tmp_path):
    report.write(board, LOG, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    titles = [f"<h2>{figures.FIGURES[name].title}</h2>" for name in FIGURES]
    places = [page.index(title) for title in titles]
    assert places == sorted(places)
