"""`kbn report`: one file that opens from disk with the network off."""

import contextlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from playwright.sync_api import expect

from kbn.__main__ import main
from kbn.callbacks.writing.event_file import EventFile, Record
from kbn.records import catalogue
from kbn.records.history import Rows
from kbn.records.tags import Place
from tests.support.logs import HOSTILE, hostile_log, write

SHIFT = "wasserstein"


def report(capsys, *arguments):
    """Run the command here; return its status, and what it printed to either stream."""
    status = main(["report", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


class Text(HTMLParser):
    """Collects the text outside scripts, and the names of elements and attributes."""

    def __init__(self, page):
        super().__init__()
        self.words, self.elements, self.attributes, self.inside = [], [], [], None
        self.feed(page)
        self.all = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        self.elements.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.words.append(data)


@pytest.fixture(scope="module")
def written(two_runs, tmp_path_factory):
    target = tmp_path_factory.mktemp("report") / "new" / "report.html"
    assert main(["report", str(two_runs[0]), "-o", str(target)]) == 0
    return target


def test_the_report_contains_everything(written, two_runs):
    page = Text(written.read_text(encoding="utf-8"))
    for part in ("Findings", "moved least", "Where and when layers move", "Runs compared",
                 "Percentiles of activations", "Distribution of one layer", "Gradient shift",
                 "Landscape of the loss", "Moving statistics", "normalized: GradientShift",
                 "every_steps 4", "tensorflow", "plotly", "probe_data, kept (256, 6)"):  # fmt: skip
        assert part in page.all, part


def test_nothing_is_loaded_from_elsewhere(written):
    page = written.read_text(encoding="utf-8")
    assert not set(Text(page).attributes) & {"src", "href"}
    assert "default-src 'none'" in page


def test_the_numbers_as_json(two_runs, capsys, tmp_path):
    status, printed, _ = report(capsys, two_runs[0], "--json", "-o", tmp_path / "none.html")
    numbers = json.loads(printed)
    assert (status, numbers["runs"]) == (0, ["normalized", "plain"])
    history = two_runs[1]["plain"][0].history
    values = [row.value for row in history if row[1:4] == ("sigmoid_1", "input", SHIFT)][1:]
    (found,) = (one for one in numbers["layers"]
                if (one["run"], one["layer"]) == ("plain", "sigmoid_1"))  # fmt: skip
    assert found["mean"] == pytest.approx(sum(values) / len(values))
    assert found["farthest"] == max(values)
    assert not list(tmp_path.iterdir())


def test_json_is_strict_if_a_run_diverged(tmp_path, capsys):
    write(tmp_path, {SHIFT: {"a": [0, float("inf")]}})
    _, printed, _ = report(capsys, tmp_path, "--json")
    numbers = json.loads(printed, parse_constant=lambda name: pytest.fail(name))
    assert numbers["layers"][0]["mean"] == "Infinity"


def test_some_runs_alone(two_runs, tmp_path, capsys):
    target = tmp_path / "one.html"
    status, printed, _ = report(capsys, two_runs[0], "-o", target, "--runs", "plain")
    assert status == 0
    assert f"Report: {target}" in printed
    assert "normalized" not in Text(target.read_text(encoding="utf-8")).all


@pytest.mark.parametrize(("arguments", "message"), [
    (("{folder}/nowhere",), "must be an existing folder"),
    (("{folder}", "--runs", "other"), "No run matches 'other'. The runs are ['a']"),
])  # fmt: skip
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys):
    write(tmp_path / "a", {SHIFT: {"x": [0, 1]}})
    status, _, error = report(capsys, *(each.format(folder=tmp_path) for each in arguments))
    assert (status, error.count("\n")) == (2, 1)
    assert message in error
    assert error.startswith("kbn report: ")


def test_an_empty_folder_says_what_to_add(tmp_path, capsys):
    target = tmp_path / "report.html"
    assert report(capsys, tmp_path, "-o", target)[0] == 0
    assert "Add kbn.callbacks.CovariateShift(log_dir" in Text(target.read_text("utf-8")).all


def test_unreadable_files_are_listed(tmp_path, capsys):
    write(tmp_path / "a", {SHIFT: {"x": [0, 1, 2]}})
    (file,) = tmp_path.rglob("*tfevents*")
    file.write_bytes(file.read_bytes()[:-9])
    (tmp_path / "events.out.tfevents.0.host").touch()
    target = tmp_path / "report.html"
    _, printed, _ = report(capsys, tmp_path, "-o", target)
    page = Text(target.read_text(encoding="utf-8"))
    for text in (printed, page.all):
        assert "events.out.tfevents.0.host: empty" in text
        assert "incomplete or damaged" in text


def test_a_hostile_log_stays_text(tmp_path, capsys):
    hostile_log(tmp_path)
    target = tmp_path / "report.html"
    assert report(capsys, tmp_path, "-o", target)[0] == 0
    page = Text(target.read_text(encoding="utf-8"))
    assert not {"img", "svg", "a", "b"} & set(page.elements)
    assert not [name for name in page.attributes if name.startswith("on")]
    for name in HOSTILE:
        assert " ".join(name.split()) in page.all


def test_no_backend_is_needed(two_runs, tmp_path):
    """Neither Keras nor TensorFlow is imported on the way."""
    code = f"""
import sys
sys.modules["keras"] = sys.modules["tensorflow"] = None
from kbn.__main__ import main
assert main(["report", {str(two_runs[0])!r}, "-o", "report.html"]) == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").stat().st_size > 1e6


@pytest.mark.parametrize("measures", [
    {"gradient_shift": {"a": [0, 1]}}, {"mean_gap": {"a": [0, 1]}}, {"psi": {"a": [0, 1]}},
    {"mean": {"a": [0, 1]}}, {"beta_smoothness": {"model": [0, 1]}},
])  # fmt: skip
def test_a_report_on_any_records(measures, tmp_path, capsys):
    write(tmp_path, measures)
    assert report(capsys, tmp_path, "-o", tmp_path / "report.html")[0] == 0
    page = Text((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert ("Where and when layers move" in page.all) == ("psi" in measures)
    found = json.loads(report(capsys, tmp_path, "--json")[1])
    assert found["measure"] == ("psi" if "psi" in measures else None)


def test_texts_that_are_not_as_expected_are_no_obstacle(tmp_path, capsys):
    write(tmp_path, {"wasserstein": {"a": [0, 1]}})
    for number, text in enumerate(["", "no table", "| a | b | c |\n| --- | --- | --- |\n| 1 |"]):
        file = EventFile(str(tmp_path / f"r{number}" / "covariate_shift"), restarts=False,
                         json_lines=False)  # fmt: skip
        rows = Rows(0, {Place("a", "input"): {"wasserstein": 0.0}})
        file.write(0, Record(rows, texts={catalogue.SETTINGS: text, catalogue.LAYERS: text}))
    assert report(capsys, tmp_path, "-o", tmp_path / "report.html")[0] == 0


OWN = {"digits": "digits", "digits/covariate_shift": "digits/covariate_shift", "digits/": "digits"}


@pytest.mark.parametrize("log_dir", OWN)
def test_sentences_about_the_folder_itself_name_it(log_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("digits", {SHIFT: {"a": [0, 1]}, "dead": {"a": [0, 0.9]}})
    target = tmp_path / "report.html"
    _, printed, _ = report(capsys, log_dir, "-o", target)
    name = OWN[log_dir]
    first, alarm, last = printed.splitlines()
    assert first.startswith(f"{name}: mean shift 1 σ over 1 record; ")
    assert alarm.startswith(f"{name}: a (input): more than half of the channels are zero")
    assert last == f"Report: {target}"
    assert first in Text(target.read_text(encoding="utf-8")).all
    numbers = json.loads(report(capsys, log_dir, "--json")[1])
    assert (numbers["runs"], numbers["verdict"]) == (["."], [first, alarm])
    for pattern in (".", name, f"*{name[-3:]}"):
        assert report(capsys, log_dir, "-o", target, "--runs", pattern)[1] == printed
    _, _, error = report(capsys, log_dir, "--runs", "other")
    assert f"The runs are ['{name}']" in error


def test_the_current_folder_is_named_too(tmp_path, capsys, monkeypatch):
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    write(".", {SHIFT: {"a": [0, 1]}})
    write("deep", {SHIFT: {"a": [0, 3]}})
    _, printed, _ = report(capsys, ".")
    assert [line.split(":")[0] for line in printed.splitlines()] == [
        "deep (the folder itself)", "deep",
        "deep (the folder itself) moved least (1), deep most (3, 3.0 times as far).", "Report",
    ]  # fmt: skip


def test_settings_and_refused_series_name_the_folder(tmp_path, capsys):
    file = EventFile(str(tmp_path / "covariate_shift"), restarts=False, json_lines=False)
    settings = "| CovariateShift | setting |\n| --- | --- |\n| a | b |"
    rows = Rows(0, {Place("a", "input"): {SHIFT: 0.0}})
    file.write(0, Record(rows, texts={catalogue.SETTINGS: settings}))
    target = tmp_path / "report.html"
    report(capsys, tmp_path, "-o", target)
    assert f"{tmp_path.name}: CovariateShift" in Text(target.read_text(encoding="utf-8")).all


def test_the_report_is_not_written_into_a_url(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("runs", {SHIFT: {"a": [0, 1]}})
    status, _, error = report(capsys, "runs", "-o", "gs://bucket/report.html")
    assert status == 2
    assert error == (
        "kbn report: output must be a path of this machine. "
        "Received: output='gs://bucket/report.html'\n"
    )
    assert report(capsys, "runs", "-o", f"file://{tmp_path}/new/report.html")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "runs"]


def everything(descriptor):
    """Return what was written to a terminal that nobody writes to any more."""
    found = b""
    with contextlib.suppress(OSError):
        while part := os.read(descriptor, 4096):
            found += part
    return found.decode()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_and_nothing_otherwise(terminal, tmp_path):
    for run in "ab":
        write(tmp_path / "runs" / run, {SHIFT: {"x": [0, 1]}})
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "kbn", "report", "runs", "--json"], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=theirs if terminal else subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:  # fmt: skip
        os.close(theirs)
        printed = process.stdout.read()
        shown = everything(ours) if terminal else process.stderr.read()
    os.close(ours)
    assert process.returncode == 0
    assert json.loads(printed)["runs"] == ["a", "b"]
    assert ("Reading" in shown and "100%" in shown) if terminal else shown == ""


# --- in the browser ------------------------------------------------------------------------------


@pytest.fixture
def offline(browser):
    """A page without a network, and what it complained of."""
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.complaints = []
    page.on("console", lambda message: message.type in ("error", "warning")
            and page.complaints.append(message.text))  # fmt: skip
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.requests = []
    page.on("request", lambda request: page.requests.append(request.url))
    yield page
    context.close()


def opened(page, target):
    page.goto(target.as_uri())
    figures = page.locator(".figure")
    for number in range(figures.count()):
        figures.nth(number).locator(".main-svg").first.wait_for()
    return figures


@pytest.mark.browser
def test_every_figure_is_drawn_offline(written, offline, screenshot):
    figures = opened(offline, written)
    assert figures.count() >= 7  # of one layer or two the distribution
    expect(figures.nth(0).locator(".hm image")).to_have_count(2)  # a heat map of each run
    assert offline.complaints == []
    assert [url for url in offline.requests if not re.match("file:|data:|blob:", url)] == []
    screenshot(offline, "report")


@pytest.mark.thorough
@pytest.mark.browser
def test_a_hostile_log_runs_nothing(tmp_path, capsys, offline, screenshot):
    hostile_log(tmp_path)
    target = tmp_path / "report.html"
    report(capsys, tmp_path, "-o", target)
    figures = opened(offline, target)
    assert figures.count() >= 4
    assert offline.evaluate("window.pwned") is None
    assert offline.complaints == []
    ticks = figures.nth(0).locator(".ytick text").all_text_contents()
    assert any(tick.endswith("= 1</script> input") for tick in ticks), ticks
    assert offline.locator("svg a").count() == 0
    screenshot(offline, "hostile_report")
