"""Paths and URLs of any form, which reports, notebooks and the tab read as TensorBoard does."""

import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from werkzeug.test import Client

import kbn.dashboard
from kbn.__main__ import main
from kbn.callbacks import CovariateShift
from kbn.dashboard.folder import UnreadableFiles, open_folder
from kbn.dashboard.plugin import CovariateShiftPlugin
from kbn.dashboard.run_names import short_name
from kbn.records import file_systems
from kbn.records.tags import Place
from tests.support.logs import write
from tests.support.servers import Server

SHIFT = "wasserstein"
# Where a folder is, as the user writes it; {} is a folder of this test.
WAYS = (
    "{}/plain", "{}/trailing/", "{}//twice//", "relative/runs", "./relative/./runs", "~/runs",
    "file://{}/a", "file://localhost{}/a", "file://{}/a/",
    "{}/with space/ü-Ж", "{}/glob[1]*?", "{}/100%41",
    "ram://kbn-{}/runs", "ram://kbn-{}/with space/glob[1]*?/", "ram://kbn-{}",
)  # fmt: skip


@pytest.fixture(params=WAYS)
def way(request, tmp_path, monkeypatch):
    """Return a folder as the user writes it, with the test's own folder as current and as home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path.name if request.param.startswith("ram") else str(tmp_path)
    return request.param.format(own)


def trained(log_dir):
    """Train for four steps and return the callback that recorded them."""
    shift = CovariateShift(log_dir, np.ones((4, 3)), every_steps=1, json_lines=True)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 3)), np.ones((8, 2)), batch_size=2, verbose=0, callbacks=[shift])
    return shift


@pytest.mark.basic("*~*", "*file*/a]", "*ram*?/]")
def test_what_is_written_there_is_read_there(way, capsys, tmp_path):
    shift = trained(way)
    assert shift.lost_records == 0
    recorded = [row for row in shift.history if row.measure == SHIFT and row.site == "input"]
    board = kbn.dashboard.load(way)
    (read,) = (of[Place("dense", "input")] for of in board.series(SHIFT, "input").values())
    assert read.steps.tolist() == [row.step for row in recorded] == [0, 1, 2, 3, 4]
    assert read.values.tolist() == [row.value for row in recorded]
    assert (board.runs, board.skipped) == (["."], [])
    assert main(["report", way, "-o", str(tmp_path / "report.html")]) == 0
    name = short_name(file_systems.located(way))
    assert capsys.readouterr().out.startswith(f"{name}: mean shift ")
    lines = f"{file_systems.located(way)}/covariate_shift/history.jsonl"
    with file_systems.open_file(lines) as file:
        assert len(file.read().splitlines()) == len(shift.history)


@pytest.mark.basic("*localhost*", "*ram*runs*")
def test_a_url_is_never_a_folder_of_this_machine(way, tmp_path):
    trained(way)
    assert not list(tmp_path.rglob("*:*"))
    assert (not list(tmp_path.rglob("*tfevents*"))) == way.startswith("ram://")


def tab_of(path):
    """Return the function that asks the tab of a TensorBoard in this process."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(path)
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, path)
    context = SimpleNamespace(data_provider=provider, flags=SimpleNamespace(logdir=path))
    apps = CovariateShiftPlugin(context).get_plugin_apps()
    return lambda route: Client(apps[route]).get(route).get_json()


@pytest.mark.parametrize("way", ["file://{}/deep", "ram://kbn-{}/deep"], indirect=True)
def test_the_tab_shows_it(way):
    trained(way)
    ask = tab_of(way)
    state = ask("/state")
    assert (state["runs"], state["names"]) == (["."], {".": "deep"})
    assert state["skipped"] == []
    assert ask("/verdict")[0].startswith("deep: mean shift ")


@pytest.mark.thorough
@pytest.mark.parametrize("fast", ["auto", "false"])
def test_the_tab_of_a_real_tensorboard_shows_a_file_url(fast, tmp_path):
    write(tmp_path / "a" / "run", {SHIFT: {"a": [0, 1]}})
    server = Server(f"file://{tmp_path}/a", f"--load_fast={fast}")
    try:
        found = server.wait_for("/data/plugin/kbn/state", lambda state: state["runs"])
        assert found["runs"] == ["run"]
    finally:
        server.close()


def test_the_checks_of_the_tab_take_any_flag(tmp_path):
    write(tmp_path / "a", {SHIFT: {"a": [0, 1]}})
    (file,) = tmp_path.rglob("*tfevents*")
    file.write_bytes(file.read_bytes()[:-5])
    for path in (f"file://{tmp_path}", tmp_path, f"{tmp_path}/"):
        assert len(UnreadableFiles([path, "gs://bucket/x", "file://host/x"]).sentences()) == 1


def test_the_checks_of_the_tab_take_a_list_of_folders(tmp_path):
    """As in TensorBoard, a name may precede each path, and the scheme of a URL is no name."""
    for run in "abc":
        write(tmp_path / run, {SHIFT: {"a": [0, 1]}})
    for file in tmp_path.rglob("*tfevents*"):
        file.write_bytes(file.read_bytes()[:-5])
        os.utime(file, (0, 0))
    spec = f"one:{tmp_path}/a,file://{tmp_path}/b,{tmp_path}/c,gs://bucket/x"
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "a"))
    context = SimpleNamespace(data_provider=MultiplexerDataProvider(multiplexer, spec),
                              flags=SimpleNamespace(logdir="", logdir_spec=spec))  # fmt: skip
    state = Client(CovariateShiftPlugin(context).get_plugin_apps()["/state"]).get("/state")
    assert len(state.get_json()["skipped"]) == 3


@pytest.mark.parametrize("way", ["file://{}/a", "ram://kbn-{}/a"], indirect=True)
def test_a_damaged_file_is_reported(way):
    trained(f"{way}/run")
    folder = f"{file_systems.located(way)}/run/covariate_shift"
    name = next(one for one in file_systems.gfile().listdir(folder) if "tfevents" in one)
    with file_systems.open_file(f"{folder}/{name}") as file:
        data = file.read()
    with file_systems.gfile().GFile(f"{folder}/{name}", "wb") as file:
        file.write(data[:-5])
    (sentence,) = kbn.dashboard.load(way).skipped
    assert sentence.startswith(f"run/covariate_shift/{name}: read up to byte ")


NOT_THERE = {
    "nowhere": (FileNotFoundError, r"log_dir must be an existing folder\..*log_dir='nowhere'"),
    "ram://kbn-nowhere/a": (FileNotFoundError, r"existing folder\..*'ram://kbn-nowhere/a'"),
    "file:///kbn/nowhere": (FileNotFoundError, r"existing folder\..*'/kbn/nowhere'"),
    "": (FileNotFoundError, r"existing folder\. Received: log_dir=''"),
    "foo://bar/x": (OSError, r"cannot be read \(Unimpl.*'foo' not implemented.*'foo://bar/x'"),
    "s3://bucket/x": (OSError, r"cannot be read \(.*'s3' not implemented.*log_dir='s3://bucket/x'"),
    "file://host/x": (ValueError, r"must begin with 'file:///'\. Received: 'file://host/x'"),
    "file://x": (ValueError, r"must begin with 'file:///'\. Received: 'file://x'"),
}


@pytest.mark.parametrize("log_dir", NOT_THERE)
def test_what_is_not_there_is_said_in_one_line(log_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kind, message = NOT_THERE[log_dir]
    with pytest.raises(kind, match=message):
        kbn.dashboard.load(log_dir)
    assert main(["report", log_dir]) == 2
    printed = capsys.readouterr()
    # An old rich ends a progress bar that it does not show with an empty line.
    assert (printed.out, printed.err.strip().count("\n")) == ("", 0)
    assert printed.err.strip()


def test_a_url_in_a_path_of_pathlib_is_refused(tmp_path):
    for url in ("gs://bucket/x", "file:///x", "ram://x"):
        with pytest.raises(ValueError, match=r"a URL must be a string\. Received: PosixPath"):
            kbn.dashboard.load(pathlib.Path(url))
    write(tmp_path / "a:b", {SHIFT: {"a": [0, 1]}})
    assert open_folder(tmp_path / "a:b").runs() == ["."]


UNREACHABLE = """
import sys
from kbn.records import file_systems
from kbn.__main__ import main
file_systems.PATIENCE = 0.1
sys.exit(main(["report", "gs://kbn-bucket/runs"]))
"""


@pytest.mark.thorough
def test_a_bucket_that_does_not_answer_is_said_in_one_line(tmp_path):
    """TensorFlow would try for minutes, because the proxy may come back."""
    proxy = dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:1")
    done = subprocess.run(
        [sys.executable, "-c", UNREACHABLE], cwd=tmp_path, env={**os.environ, **proxy},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "kbn report: log_dir cannot be read (no answer after 0.1 seconds). "
        "Received: log_dir='gs://kbn-bucket/runs'"
    )


def test_folders_that_cannot_be_listed_and_links(tmp_path):
    for run in ("a", "b/c"):
        write(tmp_path / "runs" / run, {SHIFT: {"x": [0, 1]}})
    for name, target in (("up", ".."), ("again", "../runs/a"), ("other", "../runs/a")):
        (tmp_path / "runs" / name).symlink_to(target, target_is_directory=True)
    assert open_folder(tmp_path / "runs").runs() == ["a", "again", "b/c", "other"]
