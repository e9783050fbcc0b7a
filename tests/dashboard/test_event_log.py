"""The reader of event files against TensorBoard's own loader, on logs of every kind."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.backend.event_processing.tag_types import TENSORS
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
from tensorboard.util.tensor_util import make_tensor_proto

from kbn.callbacks.writing.event_file import EventFile, Record
from kbn.dashboard.folder import open_folder
from kbn.dashboard.reader import RunReader
from kbn.records import catalogue, tags
from kbn.records import event_framing as records
from kbn.records.history import Rows
from kbn.records.tags import Place
from tests.support.logs import buckets, write

SHIFT, PSI = "wasserstein", "psi"


def of_tensorboard(folder):
    """Return a reader of what TensorBoard's own loader reads."""
    multiplexer = EventMultiplexer(size_guidance={TENSORS: 0}, tensor_size_guidance={})
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    return RunReader(MultiplexerDataProvider(multiplexer, str(folder)))


def content(log):
    """Return everything that a reader reads, as plain values."""
    runs = log.runs()
    series = {
        (run, measure, place): [of.steps.tolist(), list(map(repr, of.values.tolist()))]
        for run in runs for measure in log.measures([run])
        for place, of in log.series(run, measure).items()
    }  # fmt: skip
    histograms = {
        (run, place): [of.steps.tolist(), [one.tolist() for one in of.buckets]]
        for run in runs for place in log.histogram_places(run)
        for of in [log.histograms(run, place)]
    }  # fmt: skip
    texts = {run: log.texts(run, catalogue.SETTINGS) for run in runs}
    return {
        "runs": runs, "foreign": log.foreign, "newest": log.newest(), "written": log.written(),
        "series": series, "histograms": histograms, "texts": texts, "refused": log.refused(),
    }  # fmt: skip


def check_same(folder):
    found, expected = content(open_folder(folder)), content(of_tensorboard(folder))
    for part in expected:
        assert found[part] == expected[part], part
    return found


def put(folder, number, *events):
    """Write an event file from events."""
    folder.mkdir(parents=True, exist_ok=True)
    data = b"".join(records.framed(event.SerializeToString()) for event in events)
    (folder / f"events.out.tfevents.{number}.host").write_bytes(data)


def scalar(layer, value, *, described=True, measure=SHIFT, **content):
    """Return a value as kbn writes it, or with other contents."""
    one = Summary.Value(tag=tags.tag(measure, Place(layer, "input")))
    if described:
        one.metadata.plugin_data.plugin_name = "scalars"
        one.metadata.data_class = 1
    if content:
        one.MergeFrom(Summary.Value(**content))
    else:
        one.tensor.CopyFrom(make_tensor_proto(np.float32(value)))
    return one


def event(step, *values, **others):
    return Event(wall_time=1e9 + step, step=step, summary=Summary(value=values), **others)


VERSION = Event(wall_time=1.0, file_version="brain.Event:2")
START = {"session_log": SessionLog(status=SessionLog.START)}


def test_what_every_callback_wrote(two_runs):
    found = check_same(two_runs[0])
    assert len(found["series"]) > 100
    assert found["histograms"]
    assert found["texts"]["normalized"]


KINDS = ("abc", "abcd", "cb", "bac", "ab", "d", "da", "dac", "bd", "bda")


@pytest.mark.parametrize("kinds", [KINDS[:4], KINDS], ids=len)
def test_records_of_several_kinds(kinds, tmp_path):
    """Layers that come and go, histograms in some records, costs and texts between."""
    rng = np.random.default_rng(0)
    for restarts in (False, True, True):
        file = EventFile(str(tmp_path / "covariate_shift"), restarts=restarts, json_lines=False)
        for step in range(40):
            layers = kinds[step % len(kinds)]
            found = {Place(layer, "input"): {SHIFT: rng.normal(), "mean": rng.normal()}
                     for layer in layers}  # fmt: skip
            shapes = {place: buckets(rng) for place in found} if step % 4 == 0 else {}
            file.write(step, Record(Rows(step, found), shapes))
            cost = {Place("record", "bytes"): {catalogue.MONITOR: 1.0}}
            texts = {catalogue.SETTINGS: f"step {step}"} if step % 10 == 0 else {}
            file.write(step, Record(Rows(step, cost), texts=texts))
    found = check_same(tmp_path)
    assert len(found["series"][".", SHIFT, Place("d", "input")][0]) > 5


@pytest.mark.parametrize("steps", [(0, 1, 2**40), (5, 3, 4), (7, 7, 7), (-3, -1, 2)])
@pytest.mark.parametrize("version", [True, False])
def test_steps_of_any_order(steps, version, tmp_path):
    events = [event(step, scalar("a", n, described=not n)) for n, step in enumerate(steps)]
    put(tmp_path, 1, *[VERSION] * version, *events)
    assert check_same(tmp_path)["series"]


def test_a_resumed_run_replaces_what_it_writes_again(tmp_path):
    values = [event(n, scalar("a", n, described=not n), scalar("b", n)) for n in range(9)]
    again = [event(n, scalar("a", 10 * n)) for n in range(4, 7)]
    restart = Event(wall_time=2.0, step=4, **START)
    put(tmp_path, 1, VERSION, Event(step=0, **START), *values)
    put(tmp_path, 2, VERSION, restart, *again)
    found = check_same(tmp_path)["series"]
    assert found[".", SHIFT, Place("a", "input")][0] == list(range(7))
    assert found[".", SHIFT, Place("b", "input")][0] == list(range(4))


ODD = {
    "a float in tensor_content": {"tensor": {"dtype": 1, "tensor_content": b"\0\0\0\x40"}},
    "a double": {"tensor": {"dtype": 2, "double_val": [1e300]}},
    "an integer": {"tensor": {"dtype": 3, "int_val": [7]}},
    "one value in a vector": {"tensor": make_tensor_proto(np.float32([3]))},
    "a simple value": {"simple_value": 2.5},
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_numbers_of_other_forms(content, tmp_path):
    put(
        tmp_path, 1, VERSION, event(0, scalar("a", 1.0)), event(1, scalar("a", 0, **content)),
        event(2, scalar("a", 3.0, described=False), scalar("c", 0, **content)),
        event(3, scalar("a", 4.0, described=False), scalar("c", 0, **content)),
    )  # fmt: skip
    check_same(tmp_path)


@pytest.mark.parametrize("bad", [[1.0, 2.0], "oops", []])
def test_what_is_no_number_is_refused_for_the_same_reason(bad, tmp_path):
    put(tmp_path, 1, VERSION, event(0, scalar("a", 1.0), scalar("b", 1.0)),
        event(1, scalar("a", 0, tensor=make_tensor_proto(bad))))  # fmt: skip
    found = check_same(tmp_path)
    assert len(found["refused"]) == 1
    assert len(found["series"]) == 1


def test_others_and_old_formats(tmp_path):
    histogram = HistogramProto(min=0, max=2, num=3, bucket_limit=[1, 2], bucket=[1, 2])
    put(tmp_path / "old", 1, VERSION,
        event(1, Summary.Value(tag="activations/a/input", histo=histogram)),
        event(2, Summary.Value(tag="epoch_loss", simple_value=1.0)),
        Event(wall_time=3.0, step=3, graph_def=b""))  # fmt: skip
    put(tmp_path / "undescribed", 1, VERSION, event(1, scalar("a", 1.0, described=False)))
    unclassed = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
    for number in (1, 2):
        put(tmp_path / "unclassed", number, VERSION,
            event(number, scalar("a", 1.0, described=False, metadata=unclassed,
                                 tensor=make_tensor_proto(np.float32(2)))))  # fmt: skip
    with tf.summary.create_file_writer(str(tmp_path / "tensorflow")).as_default():
        for step in range(4):
            tf.summary.scalar(f"{SHIFT}/a/input", 0.5 * step, step)
            tf.summary.histogram("activations/a/input", [1.0, 2.0, 2.0], step, buckets=3)
            tf.summary.text(catalogue.SETTINGS, f"text {step}", step)
            tf.summary.image("picture", np.zeros((1, 4, 4, 3)), step)
    write(tmp_path / "kbn", {SHIFT: {"a": [0.0, 1.0]}})
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "events.out.tfevents.1.host.profile-empty").touch()
    found = check_same(tmp_path)
    assert found["runs"] == ["kbn", "old", "tensorflow", "unclassed"]


def test_damage_in_the_middle_of_a_run(tmp_path):
    values = [event(n, scalar("a", n, described=not n)) for n in range(9)]
    put(tmp_path, 1, VERSION, *values[:5])
    put(tmp_path, 2, VERSION, *values[5:])
    first = tmp_path / "events.out.tfevents.1.host"
    data = first.read_bytes()
    first.write_bytes(data[:-30] + b"\1" + data[-29:])
    found = check_same(tmp_path)["series"]
    assert found[".", SHIFT, Place("a", "input")][0] == [0, 1, 2, 3, 5, 6, 7, 8]


def test_a_record_that_is_no_event_ends_the_file(tmp_path):
    write(tmp_path, {SHIFT: {"a": [0.0, 1.0]}})
    (file,) = tmp_path.rglob("*tfevents*")
    file.write_bytes(file.read_bytes() + records.framed(b"\x0a\xff no event"))
    log = open_folder(tmp_path)
    assert log.series(".", SHIFT)[Place("a", "input")].steps.tolist() == [0, 100]
    (sentence,) = log.unreadable
    assert "the rest is incomplete or damaged" in sentence


VALUES = st.lists(st.tuples(st.sampled_from("abc"), st.floats(width=32), st.booleans()), max_size=5)


@given(drawn=st.lists(st.tuples(st.integers(0, 3), VALUES), max_size=12))
@settings(max_examples=60)
def test_any_sequence_of_records(drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    put(folder, 1, VERSION, *(
        event(step, *(scalar(layer, value, described=described) for layer, value, described in of))
        for step, of in drawn
    ))  # fmt: skip
    check_same(folder)
