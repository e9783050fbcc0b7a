"""Reading what the callbacks wrote: through TensorBoard's provider, from a folder."""

import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

import kbn
from kbn.callbacks import CovariateShift, GradientShift, MovingStatistics
from kbn.dashboard.board import Dashboard
from kbn.dashboard.cache import Cache
from kbn.dashboard.folder import UnreadableFiles, open_folder
from kbn.dashboard.ordering import natural
from kbn.dashboard.reader import RunReader
from kbn.records import catalogue, tags
from kbn.records import event_framing as records
from kbn.records.tags import Place
from tests.support.logs import HOSTILE, buckets, write

SHIFT = "wasserstein"


def only_file(folder):
    (file,) = folder.rglob("*tfevents*")
    return file


def test_the_reader_returns_what_the_callbacks_recorded(two_runs):
    folder, callbacks = two_runs
    log = open_folder(folder)
    assert log.runs() == ["normalized", "plain"]
    for run, each in callbacks.items():
        rows = {(r.measure, Place(r.layer, r.site), r.step): r.value
                for callback in each for r in callback.history if r.layer != "record"}  # fmt: skip
        read = {
            (measure, place, int(step)): value
            for measure in log.measures([run])
            for place, of in log.series(run, measure).items()
            for step, value in zip(of.steps, of.values, strict=True)
        }
        assert read.keys() == rows.keys()
        np.testing.assert_array_equal(list(read.values()), [rows[key] for key in read])


def test_places_are_in_the_order_of_the_model(tmp_path):
    layers = ["stem", "block_10", "block_9", "a_head"]
    write(tmp_path / "one", {SHIFT: {layer: [0, 1] for layer in layers}})
    assert [place.layer for place in open_folder(tmp_path).places("one", SHIFT)] == layers


@pytest.mark.parametrize(("kind", "measure"), [
    (GradientShift, "gradient_shift"), (MovingStatistics, "mean_gap"), (CovariateShift, SHIFT),
])  # fmt: skip
def test_layers_of_every_callback_are_in_the_order_of_the_model(kind, measure, tmp_path):
    x, y = np.ones((8, 3)), np.ones((8, 1))
    names = ["z-2", "a.10", "b_9"]
    model = keras.Sequential([kbn.BatchNormalization(momentum=0.5, name=name) for name in names])
    model.compile("sgd", "mse")
    layers = {"layers": "*"} if kind is GradientShift else {}
    model.fit(x, y, verbose=0, callbacks=[kind(tmp_path, (x, y), **layers)])
    found = open_folder(tmp_path).places(".", measure)
    assert list(dict.fromkeys(place.layer for place in found if place.layer != tags.MODEL)) == names


def test_runs_in_natural_order_and_the_folder_itself(tmp_path):
    for run in ("run_10", "run_2", "deep/er/run"):
        write(tmp_path / run, {SHIFT: {"a": [0.0]}})
    assert open_folder(tmp_path).runs() == ["deep/er/run", "run_2", "run_10"]
    write(tmp_path, {SHIFT: {"a": [0.0, 3.0]}})
    log = open_folder(tmp_path)
    assert log.runs() == [".", "deep/er/run", "run_2", "run_10"]
    np.testing.assert_array_equal(log.series(".", SHIFT)[Place("a", "input")].values, [0, 3])
    assert open_folder(tmp_path / "run_2").runs() == ["."]
    # Somebody may point at what one callback wrote.
    alone = open_folder(tmp_path / "run_2" / "covariate_shift")
    assert (alone.runs(), alone.measures(["."])) == (["."], [SHIFT])


def test_nothing_is_thinned(tmp_path):
    write(tmp_path, {SHIFT: {"a": np.arange(2500)}})
    series = open_folder(tmp_path).series(".", SHIFT)[Place("a", "input")]
    np.testing.assert_array_equal(series.values, np.arange(2500))
    np.testing.assert_array_equal(series.steps, 100 * np.arange(2500))


def test_some_places_alone(tmp_path):
    write(tmp_path, {SHIFT: {layer: [1.0] for layer in "abc"}}, sites=tags.SITES)
    wanted = {Place("b", "output"), Place("c", "input"), Place("unknown", "input")}
    assert set(open_folder(tmp_path).series(".", SHIFT, wanted)) == wanted - {
        Place("unknown", "input")
    }
    assert open_folder(tmp_path).series(".", "psi") == {}
    assert open_folder(tmp_path).series("none", SHIFT) == {}


def test_histograms_are_the_buckets_that_were_written(tmp_path):
    rng = np.random.default_rng(0)
    written = [buckets(rng, shift) for shift in (0, 1, 2)]
    write(tmp_path, {SHIFT: {"a": [0, 1, 2]}}, histograms={"a": written})
    log = open_folder(tmp_path)
    found = log.histograms(".", Place("a", "input"))
    np.testing.assert_array_equal(found.steps, [0, 100, 200])
    np.testing.assert_array_equal(found.buckets, written)
    assert log.histogram_places(".") == [Place("a", "input")]
    assert log.histograms(".", Place("b", "input")).buckets == []


def test_texts_of_every_callback(two_runs):
    folder, _ = two_runs
    found = open_folder(folder).texts("normalized", catalogue.SETTINGS)
    assert set(found) == {"covariate_shift", "gradient_shift", "loss_landscape",
                          "moving_statistics"}  # fmt: skip
    assert "| every\\_steps | 4 |" in found["covariate_shift"]


def test_runs_of_others_are_counted_and_left_alone(tmp_path):
    write(tmp_path / "ours", {SHIFT: {"a": [0.0]}})
    folder = tmp_path / "train"
    folder.mkdir()
    summary = Summary(value=[Summary.Value(tag="epoch_loss", simple_value=1.0)])
    events = [Event(file_version="brain.Event:2"), Event(step=1, summary=summary)]
    data = b"".join(records.framed(event.SerializeToString()) for event in events)
    (folder / "events.out.tfevents.1.host").write_bytes(data)
    log = open_folder(tmp_path)
    assert (log.runs(), log.foreign) == (["ours"], 1)


def test_an_empty_folder_has_no_runs_and_none_raises(tmp_path):
    assert open_folder(tmp_path).runs() == []
    with pytest.raises(FileNotFoundError, match=r"must be an existing folder.*nowhere'"):
        open_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_truncated_file_is_read_to_its_end_and_reported(cut, tmp_path):
    write(tmp_path, {SHIFT: {"a": [1.0, 2.0, 3.0]}})
    file = only_file(tmp_path)
    data = file.read_bytes()
    file.write_bytes(data[:-cut])
    series = open_folder(tmp_path).series(".", SHIFT)[Place("a", "input")]
    np.testing.assert_array_equal(series.values, [1, 2])
    (sentence,) = UnreadableFiles([tmp_path]).sentences()
    assert sentence.startswith("covariate_shift/events.out.tfevents")
    assert f"of {len(data) - cut:,}; the rest is incomplete" in sentence


def test_damage_of_every_kind_is_reported_and_the_rest_is_read(tmp_path):
    write(tmp_path / "good", {SHIFT: {"a": [1.0]}})
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "events.out.tfevents.1.host").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "events.out.tfevents.2.host").write_bytes(b"\x00\x01 no event file" * 9)
    (tmp_path / "other" / "events.out.tfevents.3.host").symlink_to("nowhere")
    assert open_folder(tmp_path).runs() == ["good"]
    found = UnreadableFiles([tmp_path]).sentences()
    assert [one.split(": ", 1)[1] for one in found] == [
        "empty",
        "not read (it does not begin like an event file)",
        "not read (No such file or directory)",
    ]


def test_a_changed_file_is_checked_again(tmp_path):
    write(tmp_path, {SHIFT: {"a": [1.0, 2.0]}})
    file, damage = only_file(tmp_path), UnreadableFiles([tmp_path, tmp_path / "nowhere"])
    whole = file.read_bytes()
    assert damage.sentences() == []
    file.write_bytes(whole[:-3])
    assert len(damage.sentences()) == 1
    file.write_bytes(whole)
    assert damage.sentences() == []


def test_a_file_that_is_being_written_is_not_reported(tmp_path):
    write(tmp_path, {SHIFT: {"a": [1.0, 2.0]}})
    file = only_file(tmp_path)
    file.write_bytes(file.read_bytes()[:-3])
    damage = UnreadableFiles([tmp_path], settled=60.0)
    assert damage.sentences() == []
    os.utime(file, (0, 0))
    assert len(damage.sentences()) == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_any_layer_name_comes_back_as_it_was(name, tmp_path):
    write(tmp_path, {SHIFT: {name: [1.0, 2.0]}})
    assert open_folder(tmp_path).places(".", SHIFT) == [Place(name, "input")]


@given(st.text(min_size=1), st.sampled_from(["input", "output:3", "probe"]))
def test_tags_are_read_as_they_were_written(layer, site):
    assert tags.parse(tags.tag(SHIFT, Place(layer, site))) == (SHIFT, Place(layer, site))


@pytest.mark.parametrize(
    "tag", ["", "loss", "wasserstein", "wasserstein/input", "epoch/a/input", "wasserstein/a/b",
            "monitor/record/bytes"]
)  # fmt: skip
def test_tags_of_others_are_none(tag):
    assert tags.parse(tag) is None


def test_numbers_in_names_count_as_numbers():
    names = ["b", "a10", "a9", "a", "10", "9", "²"]
    assert sorted(names, key=natural) == ["9", "10", "a", "a9", "a10", "b", "²"]
    assert sorted(["1", "02", "3"], key=natural) == ["1", "02", "3"]
    huge = "9" * 5000  # longer than Python turns into a number
    assert sorted(["10" + huge, huge, "1"], key=natural) == ["1", huge, "10" + huge]


def test_a_folder_that_changes_is_read_again(tmp_path):
    write(tmp_path / "one", {SHIFT: {"a": [1.0]}})
    assert open_folder(tmp_path).newest() == {"one": 0}
    shutil.rmtree(tmp_path / "one")
    write(tmp_path / "one", {SHIFT: {"a": [1.0, 2.0]}})
    assert open_folder(os.fspath(tmp_path)).newest() == {"one": 100}


def test_written_changes_for_a_rewritten_run_and_a_late_callback(tmp_path):
    def written():
        return open_folder(tmp_path).written()

    for run in ("still", "one"):
        write(tmp_path / run, {SHIFT: {"a": [1.0, 2.0]}})
    seen = [written()]
    assert written() == seen[0]
    shutil.rmtree(tmp_path / "one")
    write(tmp_path / "one", {SHIFT: {"a": [1.0, 3.0]}})
    seen.append(written())
    write(
        tmp_path / "one", {"gradient_shift": {"a": [1.0]}}, kind="gradient_shift", sites=["probe"]
    )
    seen.append(written())
    assert len({of["one"] for of in seen}) == 3
    assert len({of["still"] for of in seen}) == 1


@pytest.mark.parametrize("bad", [[1.0, 2.0], "oops"])
def test_a_scalar_that_is_no_number_is_reported_and_hides_nothing(bad, tmp_path):
    write(tmp_path, {SHIFT: {"a": [0.0, 1.0]}})
    with tf.summary.create_file_writer(str(tmp_path / "covariate_shift")).as_default():
        metadata = SummaryMetadata(
            plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"),
            data_class="DATA_CLASS_SCALAR",
        )
        tf.summary.write(f"{SHIFT}/b/input", bad, step=0, metadata=metadata)
    log = open_folder(tmp_path)
    read = log.series(".", SHIFT)
    assert [place.layer for place in read] == ["a"]
    (sentence,) = log.refused()
    assert sentence.startswith(f"covariate_shift: {SHIFT}/b/input is not shown (")
    assert sentence in Dashboard(log).verdict()
    shared = Cache()  # what another log has read is told all the same
    for _ in range(2):
        log = RunReader(open_folder(tmp_path)._provider, recent=shared)
        log.series(".", SHIFT)
        assert log.refused() == [sentence]


def test_a_folder_below_home_and_links_are_followed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "elsewhere/one", {SHIFT: {"a": [1.0, 2.0]}})
    file = only_file(tmp_path / "elsewhere")
    file.write_bytes(file.read_bytes()[:-1])
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "runs/circle").symlink_to(tmp_path / "runs", target_is_directory=True)
    assert "link/one" in open_folder("~/runs").runs()
    (sentence,) = UnreadableFiles(["~/runs"]).sentences()
    assert sentence.startswith("link/one/")
