import contextlib
import errno
import io
import json
import math
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from tensorboard.plugins.custom_scalar import layout_pb2

import kbn
from kbn.callbacks import CovariateShift
from kbn.records import catalogue, tags
from kbn.records.json_lines import json_line
from kbn.records.tags import Place, Row
from tests.support import events, models
from tests.support.on_backend import BACKEND, array, on_tensorflow, tf
from tests.support.warned import user_warnings

X, Y = models.X, models.Y
SCALARS = set(catalogue.scalars("covariate_shift"))
DISTANCES = {f"{name}{end}" for name in catalogue.distances() for end in ("", "_worst")}
DEFAULTS = {"wasserstein", "jeffreys", "wasserstein_worst", "jeffreys_worst"}
ALWAYS = SCALARS - DISTANCES - {"saturated"} | DEFAULTS
TEXTS = catalogue.COST, catalogue.LAYERS, catalogue.SETTINGS
SUMMARIES = {catalogue.HEAT_MAP, catalogue.WORST_LAYERS, *TEXTS, "custom_scalars__config__"}


def fit(model, *callbacks, **options):
    options = {"batch_size": 8, "epochs": 1, "verbose": 0, **options}  # 8 steps an epoch
    return model.fit(X, Y, callbacks=list(callbacks), **options)


def steps(shift):
    return sorted({row.step for row in shift.history})


def watched(shift):
    """Return the rows about layers; those of the record itself say what it cost."""
    return [row for row in shift.history if row.layer != "record"]


def written_scalars(run):
    """Return every scalar of the event file by step and tag."""
    return {
        (step, tag): float(value)
        for tag in events.tags(run)
        if tag.split("/")[0] in {*SCALARS, catalogue.MONITOR} and tag not in TEXTS
        for step, value in events.series(run, tag).items()
    }


def kept_scalars(shift):
    return {(r.step, tags.tag(r.measure, Place(r.layer, r.site))): r.value for r in shift.history}


@pytest.mark.basic("functional", "shared")
@pytest.mark.parametrize("kind", models.BUILDERS)
def test_history_equals_the_event_file(kind, tmp_path):
    shift = CovariateShift(tmp_path, X[:16], every_steps=3)
    fit(models.compiled(kind), shift)
    run = tmp_path / "covariate_shift"
    assert written_scalars(run) == kept_scalars(shift)
    assert len(kept_scalars(shift)) == len(shift.history)
    assert steps(shift) == [0, 3, 6]
    assert {row.measure for row in watched(shift)} == ALWAYS
    cost = {f"{catalogue.MONITOR}/record/{site}" for site in ("milliseconds", "bytes")}
    about_layers = {tag for tag in events.tags(run) if tag not in cost | SUMMARIES}
    assert {*events.tags(run)} == about_layers | cost | SUMMARIES
    assert {tag.split("/")[0] for tag in about_layers} == {catalogue.HISTOGRAM, *ALWAYS}
    assert len(os.listdir(run)) == 1


def test_every_measure_is_written_if_requested(tmp_path):
    shift = CovariateShift(
        tmp_path,
        X[:16],
        layers=["twice", "dropout*"],
        measures=catalogue.distances(),
        every_steps=4,
    )
    fit(models.compiled("shared"), shift)
    by_place = {}
    for row in watched(shift):
        by_place.setdefault((row.layer, row.site), set()).add(row.measure)
    assert {place: SCALARS - found for place, found in by_place.items()} == {
        place: set() if place in {("twice:0", "output"), ("twice:1", "output")} else {"saturated"}
        for place in by_place
    }
    assert len(by_place) == 8
    assert written_scalars(tmp_path / "covariate_shift") == kept_scalars(shift)


def test_a_distance_alone(tmp_path):
    shift = CovariateShift(tmp_path, X[:16], measures="psi", every_steps=4)
    fit(models.compiled("functional"), shift)
    found = {row.measure for row in watched(shift)}
    assert found == ALWAYS - DEFAULTS | {"psi", "psi_worst"}
    (text,) = events.series(tmp_path / "covariate_shift", catalogue.WORST_LAYERS).values()
    assert text.item().decode().startswith("| place | psi at step 8 |")


def test_written_values_are_those_that_the_layers_compute(tmp_path):
    """Against the weights at that step and plain NumPy, for inputs and outputs."""
    model = models.compiled("functional")
    shift = CovariateShift(tmp_path, X[:16], layers=["dense", "bn"], every_steps=4)
    kernels, affines = [], []

    class Keep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kernels.append(array(self.model.get_layer("dense").kernel))
            affines.append(self.model.get_layer("bn").get_weights()[:2])

    fit(model, shift, Keep())
    before = X[:16].astype("float64") @ kernels[3]
    after = X[:16].astype("float64") @ kernels[7]
    values = {row[1:4]: row.value for row in shift.history if row.step == 8}
    assert values["bn", "input", "mean"] == pytest.approx(after.mean(), abs=1e-6)
    assert values["bn", "input", "std"] == pytest.approx(after.std(), rel=1e-5)
    moved = np.abs(np.sort(after, 0) - np.sort(before, 0)).mean(0) / before.std(0)
    assert values["bn", "input", "wasserstein"] == pytest.approx(moved.mean(), rel=1e-4)
    assert values["dense", "input", "wasserstein"] == 0
    assert values["dense", "output", "percentile_85"] == pytest.approx(
        np.quantile(after, 0.85), rel=1e-5
    )
    normal = (after - after.mean(0)) / np.sqrt(
        after.var(0) + 1e-3
    )  # batch statistics: training mode
    gamma, beta = affines[7]
    assert values["bn", "output", "std"] == pytest.approx((gamma * normal + beta).std(), rel=1e-5)


@pytest.mark.basic("shared")
@pytest.mark.parametrize("kind", models.BUILDERS)
def test_while_no_weight_changes_nothing_moves(kind, tmp_path):
    """Dropout is on, and its masks are the same in every record."""
    model = models.BUILDERS[kind]()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    layers = ["twice", "dropout*"] if kind == "shared" else "*"
    shift = CovariateShift(
        tmp_path, X[:15], layers=layers, every_steps=1, measures=catalogue.distances()
    )
    fit(model, shift)
    assert len(steps(shift)) == 9
    moved = {(row.measure, row.value) for row in shift.history if row.measure in DISTANCES}
    assert moved == {(measure, 0.0) for measure in DISTANCES}
    dropped = [r.value for r in shift.history if r.measure == "zeros" and "dropout" in r.layer]
    assert max(dropped) > 0.1


def test_a_step_as_reference(tmp_path):
    """Before it nothing is compared; from it on, with the first record at or behind it."""
    at_a_step, first = shifts = [
        CovariateShift(tmp_path / str(reference), X[:16], every_steps=2, reference=reference)
        for reference in (3, "first")
    ]
    fit(models.compiled("functional"), *shifts)
    moved = [
        {row.step: row.value for row in shift.history if row[1:4] == ("bn", "input", "wasserstein")}
        for shift in shifts
    ]
    assert list(moved[0]) == [4, 6, 8]
    assert list(moved[1]) == [0, 2, 4, 6, 8]
    assert moved[0][4] == moved[1][0] == 0
    assert 0 < moved[0][8] != moved[1][8] > 0
    assert {row.measure for row in watched(at_a_step) if row.step < 4} == ALWAYS - DEFAULTS
    assert {row.measure for row in watched(first)} == ALWAYS


def test_first_reference_measures_from_the_first_record(tmp_path):
    both = [
        CovariateShift(tmp_path / r, X[:16], every_steps=1, reference=r)
        for r in ("previous", "first")
    ]
    fit(models.compiled("functional"), *both, epochs=4)
    last = [
        [r.value for r in shift.history if r[1:4] == ("bn", "input", "wasserstein")]
        for shift in both
    ]
    assert last[0][1] == last[1][1]
    assert last[1][-1] > 2 * last[0][-1]


@pytest.mark.basic("cadence0*")
@pytest.mark.parametrize(
    ("cadence", "expected"),
    [
        ({}, [0]),
        ({"every_steps": 5}, [0, 8, 12, 16]),
        ({"every_epochs": 1}, [0, 8, 16]),
        ({"on_steps": [1, 2, 13]}, [0, 4, 16]),
    ],
)
@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs one step at a time")
def test_cadences_with_four_steps_per_execution(cadence, expected, tmp_path):
    shift = CovariateShift(tmp_path, X[:16], **cadence)
    fit(models.compiled("functional", steps_per_execution=4), shift, epochs=2)
    assert steps(shift) == expected


class Stepping(keras.Model):
    """Takes three steps of the optimizer in each call of `train_step`."""

    def __init__(self):
        super().__init__()
        self.bn, self.head = kbn.BatchNormalization(name="bn"), keras.layers.Dense(1)

    def call(self, x, training=False):
        return self.head(self.bn(x, training=training))

    def train_step(self, data):
        for _ in range(3):
            logs = super().train_step(data)
        return logs


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has another signature of train_step")
@pytest.mark.basic("3")
@pytest.mark.parametrize("every_steps", [1, 3, 6, 12])
def test_no_record_is_late_if_a_train_step_takes_several_steps(every_steps, tmp_path):
    model = Stepping()
    model.compile("sgd", "mse")
    shift = CovariateShift(tmp_path, X[:16], every_steps=every_steps)
    fit(model, shift, epochs=2)
    assert steps(shift) == list(range(0, 49, max(3, every_steps)))


@pytest.mark.thorough
def test_a_second_fit_continues_at_the_right_step(tmp_path):
    model = models.compiled("functional")
    shift = CovariateShift(tmp_path, X[:16], every_steps=4)
    fit(model, shift)
    fit(model, shift)
    assert steps(shift) == [0, 4, 8, 12, 16]
    model.compile("sgd", "mse")  # a new optimizer counts from 0
    fit(model, shift)
    assert steps(shift) == [0, 4, 8, 12, 16, 20, 24]
    run = tmp_path / "covariate_shift"
    assert list(events.series(run, "mean/bn/input")) == steps(shift)


def test_a_resumed_model_starts_at_its_step(tmp_path):
    model = models.compiled("functional")
    fit(model)
    shift = CovariateShift(tmp_path, X[:16], every_steps=4)
    fit(model, shift)
    assert steps(shift) == [8, 12, 16]


@pytest.mark.thorough
def test_another_model_is_refused(tmp_path):
    shift = CovariateShift(tmp_path, X[:16])
    fit(models.compiled("functional"), shift)
    with pytest.raises(ValueError, match=r"already recorded another model into .*covariate_shift"):
        fit(models.compiled("functional"), shift)


def test_shared_layers_and_several_tensors_have_numbered_places(tmp_path):
    inputs = keras.Input((6,))
    twice = keras.layers.Dense(6, name="twice")
    once = twice(inputs)
    outputs = keras.layers.Dense(1)(keras.layers.Add(name="add")([once, twice(once)]))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    shift = CovariateShift(tmp_path, X[:16], layers=["twice", "add"])
    fit(model, shift)
    assert list(dict.fromkeys(row[1:3] for row in shift.history)) == [
        ("twice:0", "input"), ("twice:0", "output"), ("twice:1", "input"), ("twice:1", "output"),
        ("add", "input:0"), ("add", "input:1"), ("add", "output"),
        ("record", "milliseconds"), ("record", "bytes"),
    ]  # fmt: skip


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_layers_without_data_format_follow_those_with_it(data_format, tmp_path):
    """One of 3 channels is 0 throughout; along the last axis, of 5, none is."""
    inputs = keras.Input((3, 4, 5))
    x = keras.layers.Activation("relu", name="relu")(inputs)
    x = keras.layers.Dense(5, kernel_initializer="identity", name="inner")(x)
    x = keras.layers.LayerNormalization(name="norm")(x)
    pool = keras.layers.GlobalAveragePooling2D(data_format=data_format)
    model = keras.Model(inputs, keras.layers.Dense(1)(pool(x)))
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(8, 3, 4, 5))
    x[:, 1] = -1
    shift = CovariateShift(tmp_path, x, layers=["relu", "inner", "norm"], sites="output")
    model.fit(x, np.ones((8, 1)), verbose=0, callbacks=[shift])
    dead = {row.layer: row.value for row in shift.history if row.measure == "dead"}
    of_relu = pytest.approx(1 / 3) if data_format == "channels_first" else 0
    assert dead == {"relu": of_relu, "inner": 0, "norm": 0}  # these have theirs in the last axis


def test_channels_first_layers_are_measured_by_their_channels(tmp_path):
    model = keras.Sequential(
        [kbn.BatchNormalization(axis=1, name="bn"), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(32, 3, 4, 4)).astype("float32")
    shift = CovariateShift(tmp_path, x)
    model.fit(x, np.zeros((32, 1)), verbose=0, callbacks=[shift])
    sketch = shift._references.before(1, {})[Place("bn", "input")]
    np.testing.assert_allclose(sketch.mean, x.mean((0, 2, 3)), atol=1e-6)


def test_the_layout_shows_each_place_once_as_a_band(tmp_path):
    shift = CovariateShift(tmp_path, X[:16], layers=["dense", "bn"], sites="input")
    fit(models.compiled("functional"), shift, epochs=3)
    (value,) = events.series(tmp_path / "covariate_shift", "custom_scalars__config__").values()
    layout = layout_pb2.Layout.FromString(value.item())
    charts = [chart for category in layout.category for chart in category.chart]
    assert [chart.title for chart in charts] == ["bn input", "dense input"]  # page reverses
    (band,) = charts[0].margin.series
    assert [band.lower, band.value, band.upper] == [
        f"percentile_{p}/bn/input" for p in (15, 50, 85)
    ]


def test_histograms_can_be_left_out(tmp_path):
    fit(models.compiled("functional"), CovariateShift(tmp_path, X[:16], histograms=False))
    written = events.tags(tmp_path / "covariate_shift")
    assert not [tag for tag in written if tag.startswith(catalogue.HISTOGRAM)]


class StopError(Exception):
    pass


def test_when_training_raises_the_file_is_complete_and_closed(tmp_path):
    def stop(batch, logs):
        if batch == 5:
            raise StopError

    shift = CovariateShift(tmp_path, X[:16], every_steps=1)
    model = models.compiled("functional")
    with contextlib.suppress(StopError):
        fit(model, shift, keras.callbacks.LambdaCallback(on_train_batch_end=stop))
    run = tmp_path / "covariate_shift"
    still_open = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    assert not [path for path in still_open if str(run) in path]
    assert list(events.series(run, "mean/bn/input")) == [0, 1, 2, 3, 4, 5, 6]
    fit(model, shift)
    assert steps(shift) == list(range(15))


@pytest.mark.thorough
def test_after_a_fit_that_raised_the_axis_continues_with_a_new_optimizer(tmp_path):
    def stop(batch, logs):
        if batch == 5:
            raise StopError

    shift = CovariateShift(tmp_path, X[:16], every_steps=100)
    model = models.compiled("functional")
    with contextlib.suppress(StopError):
        fit(model, shift, keras.callbacks.LambdaCallback(on_train_batch_end=stop))
    assert steps(shift) == [0]
    model.compile("sgd", "mse")
    fit(model, shift)
    assert steps(shift) == [0, 6]


@pytest.mark.thorough
def test_the_file_is_complete_even_if_the_exception_is_kept(tmp_path):
    def stop(batch, logs):
        if batch == 5:
            raise StopError

    shift = CovariateShift(tmp_path, X[:16], every_steps=1)
    with pytest.raises(StopError) as kept:  # keeps the frames of fit, as a notebook does
        fit(
            models.compiled("functional"),
            shift,
            keras.callbacks.LambdaCallback(on_train_batch_end=stop),
        )
    assert kept.value.__traceback__ is not None
    run = tmp_path / "covariate_shift"
    assert list(events.series(run, "mean/bn/input")) == steps(shift) == [0, 1, 2, 3, 4, 5, 6]


def test_the_file_is_flushed_at_every_epochs_end(tmp_path):
    read = []
    shift = CovariateShift(tmp_path, X[:16], every_steps=8)
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: read.append(
            [
                list(events.series(tmp_path / "covariate_shift", tag))
                for tag in ("mean/bn/input", catalogue.HEAT_MAP)
            ]
        )
    )
    fit(models.compiled("functional"), shift, look, epochs=2)
    assert read == [[[0, 8], [8]], [[0, 8, 16], [8, 16]]]


def test_a_record_can_be_read_as_soon_as_it_is_taken(tmp_path):
    read = []
    shift = CovariateShift(tmp_path, X[:16], every_steps=4)
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: read.append(
            len(events.series(tmp_path / "covariate_shift", "mean/bn/input"))
        )
    )
    fit(models.compiled("functional"), shift, look)
    assert read == [1, 1, 1, 2, 2, 2, 2, 3]


@pytest.mark.thorough
def test_a_failing_record_warns_once_and_training_goes_on(tmp_path):
    class Failing(CovariateShift):
        def record(self, step):
            if step in (2, 4):
                raise OSError(28, "No space left on device")
            return super().record(step)

    shift = Failing(tmp_path, X[:16], every_steps=2)
    model = models.compiled("functional")
    with user_warnings() as texts:
        fit(model, shift)
    assert len(texts) == 2
    assert texts[0] == (
        "Failing failed at step 2 and training goes on: OSError: [Errno 28] "
        "No space left on device. Lost records: 1 so far."
    )
    assert texts[1] == "Failing lost 2 records in all."
    assert (steps(shift), shift.lost_records) == ([0, 6, 8], 2)
    assert int(array(model.optimizer.iterations)) == 8


@pytest.mark.thorough
def test_a_removed_log_folder_does_not_end_training(tmp_path):
    remove = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: shutil.rmtree(tmp_path / "log", ignore_errors=True)
    )
    model = models.compiled("functional")
    shift = CovariateShift(tmp_path / "log", X[:16], every_steps=1)
    with user_warnings() as texts:
        fit(model, shift, remove, epochs=2)
    assert int(array(model.optimizer.iterations)) == 16
    run = tmp_path / "log" / "covariate_shift"
    assert texts == [
        "CovariateShift failed at step 9 and training goes on: "
        f"the files in {str(run)!r} were removed. Lost records: 9 so far.",
        "CovariateShift lost 9 records in all.",
    ]
    assert shift.lost_records == 9
    # What was recorded from there on is whole.
    assert list(events.series(run, "mean/bn/input")) == list(range(9, 17))
    assert set(events.tags(run)) >= SUMMARIES
    assert steps(shift) == list(range(17))


@pytest.mark.thorough
@pytest.mark.parametrize("where", ["file", "nowhere"])
def test_an_unwritable_log_folder_raises_before_the_first_step(where, tmp_path):
    """Root may write everywhere but below a file, and in /proc."""
    folder = tmp_path / "log" if where == "file" else Path("/proc/kbn")
    shift = CovariateShift(folder, X[:16], every_steps=4)
    if where == "file":
        (tmp_path / "log").write_text("")
    model = models.compiled("functional")
    message = rf"log_dir cannot be written .* Received: log_dir='{re.escape(str(folder))}'$"
    with pytest.raises(OSError, match=message):
        fit(model, shift)
    assert int(array(model.optimizer.iterations)) == 0
    assert (shift.lost_records, list(shift.history)) == (0, [])


class Disk:
    """Stands in for `os` where files are written; a write takes what there is room for."""

    def __init__(self):
        self.room = math.inf

    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, file, piece):
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(file, piece[: int(min(self.room, 1e9))])
        self.room -= written
        return written


@pytest.mark.thorough
@pytest.mark.parametrize("room", [0, 10, 700])
@pytest.mark.parametrize("full_from", [0, 3])
@pytest.mark.parametrize("json_lines", [False, True])
def test_on_a_full_disk_written_records_stay_and_later_ones_follow(
    room, full_from, json_lines, tmp_path, monkeypatch
):
    disk = Disk()
    monkeypatch.setattr("kbn.callbacks.writing.appended_file.os", disk)

    class Filling(CovariateShift):
        def record(self, step):
            if step == full_from:
                disk.room = room
            elif step == full_from + 2:
                disk.room = math.inf
            return super().record(step)

    shift = Filling(tmp_path, X[:16], every_steps=1, json_lines=json_lines)
    model = models.compiled("functional")
    with user_warnings() as texts:
        fit(model, shift)
    run = tmp_path / "covariate_shift"
    expected = [step for step in range(9) if step not in (full_from, full_from + 1)]
    assert steps(shift) == expected
    assert "No space left on device" in texts[0]
    assert texts[1:] == ["Filling lost 2 records in all."]
    assert shift.lost_records == 2
    assert written_scalars(run) == kept_scalars(shift)
    assert set(events.tags(run)) >= {*SUMMARIES, "activations/bn/input"}
    if json_lines:
        assert (run / "history.jsonl").read_text().splitlines() == list(
            map(json_line, shift.history)
        )


def test_a_record_is_not_lost_if_its_cost_cannot_be_written(tmp_path, monkeypatch):
    disk = Disk()
    monkeypatch.setattr("kbn.callbacks.writing.appended_file.os", disk)

    class Filling(CovariateShift):
        def record(self, step):
            sizes = [row.value for row in self.history if row.site == "bytes"]
            disk.room = sizes[-1] + 50 if step == 4 else math.inf
            return super().record(step)

    shift = Filling(tmp_path, X[:16], every_steps=1)
    with user_warnings():
        fit(models.compiled("functional"), shift)
    run = tmp_path / "covariate_shift"
    assert disk.room == math.inf
    assert steps(shift) == list(events.series(run, "mean/bn/input")) == list(range(9))
    assert 4 not in events.series(run, f"{catalogue.MONITOR}/record/bytes")
    assert written_scalars(run) == kept_scalars(shift)
    assert shift.lost_records == 0


@pytest.mark.thorough
def test_history_as_json_lines(tmp_path):
    shift = CovariateShift(tmp_path, X[:16], every_steps=3, json_lines=True)
    model = models.compiled("functional")
    fit(model, shift)
    fit(model, shift)
    lines = (tmp_path / "covariate_shift" / "history.jsonl").read_text().splitlines()
    assert [Row(**json.loads(line)) for line in lines] == list(shift.history)
    assert steps(shift) == [0, 3, 6, 8, 9, 12, 15]


@pytest.mark.thorough
def test_history_as_a_frame(tmp_path):
    shift = CovariateShift(tmp_path, X[:16], every_steps=4)
    fit(models.compiled("functional"), shift)
    assert list(shift.to_frame().itertuples(index=False, name="Row")) == list(shift.history)


def test_each_epoch_with_records_ends_with_a_picture_and_a_table(tmp_path):
    shift = CovariateShift(tmp_path, X[:16], every_steps=12)
    fit(models.compiled("functional"), shift, epochs=5)
    assert steps(shift) == [0, 12, 24, 36]
    run = tmp_path / "covariate_shift"
    pictures = events.series(run, catalogue.HEAT_MAP)
    assert list(pictures) == [8, 16, 24, 40]
    for width, height, png in pictures.values():
        with Image.open(io.BytesIO(png)) as image:
            assert image.size == (int(width), int(height))
    moved = [
        (row.value, f"{row.layer} {row.site}")
        for row in shift.history
        if row.measure == "wasserstein" and row.step == 24
    ]
    lines = events.series(run, catalogue.WORST_LAYERS)[24].item().decode().splitlines()
    assert lines[0] == "| place | wasserstein at step 24 |"
    assert lines[2:] == [f"| {place} | {value:.4g} |" for value, place in sorted(moved)[::-1]]


def test_the_cost_of_recording_is_written_at_the_end(tmp_path):
    shift = CovariateShift(tmp_path, X[:16], every_steps=4)
    fit(models.compiled("functional"), shift)
    run = tmp_path / "covariate_shift"
    ((step, text),) = events.series(run, catalogue.COST).items()
    assert step == 8
    head, _, line = text.item().decode().splitlines()
    assert head == "| records | postponed | ms | ms per record | share of training time | bytes |"
    records, postponed, ms, each, share, size = line.strip("| ").split(" | ")
    assert (records, postponed) == ("3", "0")
    assert float(ms) == pytest.approx(1e3 * shift.cost.seconds, rel=0.01)
    assert float(each) == pytest.approx(float(ms) / 3, rel=0.01)
    assert 0 < float(share.rstrip("%")) < 100
    # The header, the layout and the table itself are not of a record.
    assert 0.5 * size_of(run) < int(size) == shift.cost.bytes <= size_of(run)
    by_site = {
        site: [row.value for row in shift.history if row[1:3] == ("record", site)]
        for site in ("milliseconds", "bytes")
    }
    assert [len(values) for values in by_site.values()] == [3, 3]
    assert 0 < sum(by_site["milliseconds"]) < 1e3 * shift.cost.seconds
    assert 0 < sum(by_site["bytes"]) < shift.cost.bytes


def size_of(run):
    return sum(path.stat().st_size for path in run.iterdir())


@pytest.mark.thorough
def test_records_beyond_the_budget_are_postponed(tmp_path):
    shift = CovariateShift(tmp_path, X[:16], every_steps=1, budget=1e-9)
    fit(models.compiled("functional"), shift)
    assert steps(shift) == [0]
    assert (shift.cost.records, shift.cost.postponed) == (1, 8)
    assert shift.lost_records == 0
    assert list(events.series(tmp_path / "covariate_shift", "mean/bn/input")) == [0]


@pytest.mark.thorough
def test_no_more_histograms_than_tensorboard_shows(tmp_path):
    shift = CovariateShift(tmp_path, X[:16], sites="input", every_steps=1)
    fit(models.compiled("functional"), shift, epochs=19)
    run = tmp_path / "covariate_shift"
    assert list(events.series(run, "mean/bn/input")) == list(range(153))
    assert list(events.series(run, "activations/bn/input")) == list(range(0, 153, 2))


REFUSED = [
    ({"every_steps": 0}, ValueError, "Received: every_steps=0"),
    ({"every_steps": 5, "every_epochs": 1}, ValueError, "Received: every_steps=5, every_epochs=1"),
    (
        {"reference": "last"},
        ValueError,
        "'previous', 'first' or a step, an integer of at least 0. Received: reference='last'",
    ),
    ({"reference": -1}, ValueError, "Received: reference=-1"),
    (
        {"reference": True},
        ValueError,
        "or a step, an integer of at least 0. Received: reference=True",
    ),
    (
        {"reference": 1.0},
        ValueError,
        "or a step, an integer of at least 0. Received: reference=1.0",
    ),
    (
        {"measures": "l2"},
        ValueError,
        f"{', '.join(map(repr, catalogue.distances()))}. Received: measures='l2'",
    ),
    ({"measures": ["psi", 3]}, ValueError, "Received: measures=3"),
    ({"measures": []}, ValueError, "Received: measures=[]"),
    ({"measures": None}, TypeError, "Received: measures=None"),
    ({"budget": 0}, ValueError, "share of training time in (0, 1]. Received: budget=0"),
    ({"budget": 1.5}, ValueError, "Received: budget=1.5"),
    ({"budget": "3 %"}, TypeError, "Received: budget='3 %'"),
    ({"json_lines": 1}, TypeError, "Received: json_lines=1"),
    ({"sites": "middle"}, ValueError, "one of 'input', 'output'. Received: sites='middle'"),
    ({"sites": None}, TypeError, "Received: sites=None"),
    ({"reference": np.ones(2)}, ValueError, "'previous', 'first' or a step"),
    ({"sites": ()}, ValueError, "Received: sites=()"),
    ({"layers": 7}, TypeError, "Received: 7"),
    ({"max_samples": 0}, ValueError, "Received: max_samples=0"),
    ({"probe_size": 2.5}, TypeError, "Received: probe_size=2.5"),
    ({"histograms": "yes"}, TypeError, "Received: histograms='yes'"),
    ({"probe_data": X[:0]}, ValueError, "at least one sample. Received: probe_data=ndarray"),
    ({"log_dir": None}, TypeError, "log_dir must be a path. Received: log_dir=None"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED, ids=lambda x: str(x)[:30])
def test_wrong_arguments_raise_at_construction(options, error, message, tmp_path):
    with pytest.raises(error, match=re.escape(message)):
        CovariateShift(**{"log_dir": tmp_path / "log", "probe_data": X, **options})
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_log_dir_that_is_a_file_raises(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"log_dir must be a folder, and '.*/file' is a file"):
        CovariateShift(tmp_path / "file" / below, X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layers": "conv*"},
            "Received: 'conv*'. Layers of the model: dense, bn, relu, dropout, head.",
        ),
        (
            {"probe_data": X[:, :5]},
            "expected shape=(None, 6), found shape=(60, 5) Received: probe_data of shape (60, 5)",
        ),
        ({"probe_data": {"a": X, "b": X}}, "The model cannot be run on probe_data"),
    ],
)
def test_a_probe_that_the_model_refuses_raises_before_the_first_step(options, message, tmp_path):
    model = models.compiled("functional")
    shift = CovariateShift(**{"log_dir": tmp_path / "log", "probe_data": X, **options})
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(model, shift)
    assert int(array(model.optimizer.iterations)) == 0
    assert not (tmp_path / "log").exists()
    assert keras.layers.Layer.__call__.__name__ == "__call__"


def test_the_error_has_keras_reason_without_its_first_line(tmp_path):
    class Picky(keras.layers.Layer):
        def call(self, x):
            if x.shape[0] == 13:
                raise ValueError("thirteen samples are unlucky")
            return x

    inputs = keras.Input((6,))
    model = keras.Model(inputs, kbn.BatchNormalization()(Picky()(inputs)))
    model.compile("sgd", "mse")
    message = r"^The model cannot be run on probe_data: .*thirteen samples are unlucky.* Received"
    with pytest.raises(ValueError, match=message) as told:
        model.fit(X, X, verbose=0, callbacks=[CovariateShift(tmp_path / "log", X[:13])])
    assert "Exception encountered" not in str(told.value)


def test_a_refused_model_leaves_the_callback_free_for_the_right_one(tmp_path):
    shift = CovariateShift(tmp_path, X[:, :5])
    with pytest.raises(ValueError, match="cannot be run on probe_data"):
        fit(models.compiled("functional"), shift)
    model = keras.Sequential([kbn.BatchNormalization(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(X[:, :5], Y, verbose=0, callbacks=[shift])
    assert steps(shift) == [0]


@on_tensorflow
def test_an_activation_of_unknown_shape_is_refused_by_name(tmp_path):
    class Positive(keras.layers.Layer):
        def call(self, x):
            return tf.boolean_mask(x, x[:, 0] > 0)

        def compute_output_shape(self, shape):
            return (None, *shape[1:])

    model = keras.Sequential([Positive(), kbn.BatchNormalization(name="bn"), keras.layers.Dense(1)])
    model.compile("sgd", lambda y, p: tf.reduce_sum(p))
    with pytest.raises(ValueError, match=re.escape("'bn', whose input has shape (None, 6)")):
        fit(model, CovariateShift(tmp_path / "log", X))


class OwnOptimizer(keras.Model):
    """Trains with another optimizer than `model.optimizer`, as GANs do."""

    def __init__(self):
        super().__init__()
        self.layer, self.own = kbn.BatchNormalization(name="bn"), keras.optimizers.SGD()

    def call(self, x):
        return self.layer(x)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self(data[0]))
        variables = self.trainable_variables
        self.own.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


@on_tensorflow
@pytest.mark.parametrize("optimizer", ["rmsprop", None])
def test_if_the_optimizer_is_not_used_batches_are_the_steps(optimizer, tmp_path):
    model = OwnOptimizer()
    model.compile(optimizer=optimizer)
    shift = CovariateShift(tmp_path, X, every_steps=3)
    with user_warnings() as texts:
        fit(model, shift, epochs=3)  # 8 batches each
    assert steps(shift) == [0, 3, 6, 9, 12, 15, 18, 21, 24]
    assert texts == []


def test_steps_that_a_loss_scale_skips_warn(tmp_path):
    model = models.compiled("functional")
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    model.compile(scaled, lambda y, p: p * np.nan)
    with user_warnings() as texts:
        fit(model, CovariateShift(tmp_path, X, every_steps=1), epochs=2)
    assert len(texts) == 1
    assert "stayed at 0 for 8 batches" in texts[0]


@pytest.mark.thorough
def test_an_earlier_run_in_the_folder_warns(tmp_path):
    fit(models.compiled("functional"), CovariateShift(tmp_path, X))
    with user_warnings() as texts:
        fit(models.compiled("functional"), CovariateShift(tmp_path, X))
    assert [re.search(r"contains another run", text) is not None for text in texts] == [True]


@pytest.mark.thorough
def test_weights_changed_between_fits_are_seen_at_the_next_start(tmp_path):
    model = models.compiled("functional")
    shift = CovariateShift(tmp_path, X[:16])
    fit(model, shift)
    model.set_weights([2 * weight for weight in model.get_weights()])
    fit(model, shift)
    assert steps(shift) == [0, 8]


@pytest.mark.thorough
def test_fits_in_threads_leave_nothing_attached(tmp_path):
    call = keras.layers.Layer.__call__
    shifts = [CovariateShift(tmp_path / str(i), X[:16], every_steps=4) for i in range(4)]
    ready = [models.compiled("functional") for _ in shifts]
    with ThreadPoolExecutor() as pool:
        list(pool.map(fit, ready, shifts))
    assert keras.layers.Layer.__call__ is call
    assert all(steps(shift) == [0, 4, 8] for shift in shifts)


def test_inputs_given_by_keyword_are_seen(tmp_path):
    class ByKeyword(keras.Model):
        def __init__(self):
            super().__init__()
            self.bn = kbn.BatchNormalization(name="bn")

        def call(self, x, training=False):
            return self.bn(training=training, inputs=x)

    model = ByKeyword()
    model.compile("sgd", "mse")
    shift = CovariateShift(tmp_path, X[:16])
    fit(model, shift)
    assert {row.site for row in watched(shift)} == {"input", "output"}


def test_a_layer_inside_a_loop_is_refused_by_name(tmp_path):
    inputs = keras.Input((4, 6))
    outputs = keras.layers.RNN(keras.layers.LSTMCell(3, name="cell"), name="rnn")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, name="dense")(outputs))
    model.compile("sgd", "mse")
    shift = CovariateShift(tmp_path / "log", np.ones((8, 4, 6)), layers=["rnn", "rnn/cell"])
    with pytest.raises(ValueError, match=re.escape("inside a loop: rnn/cell. Name others")):
        model.fit(np.ones((8, 4, 6)), np.ones((8, 1)), verbose=0, callbacks=[shift])
    shift = CovariateShift(tmp_path / "log", np.ones((8, 4, 6)))  # names none: the rest is watched
    with user_warnings() as texts:
        model.fit(np.ones((8, 4, 6)), np.ones((8, 1)), verbose=0, callbacks=[shift])
    assert texts == []
    assert {row.layer for row in watched(shift)} == {"rnn", "dense"}


def test_history_is_plain_python(tmp_path):
    shift = CovariateShift(tmp_path, X[:16])
    fit(models.compiled("functional"), shift)
    json.dumps(list(shift.history))
    row = shift.history[0]
    assert [type(value) for value in row] == [int, str, str, str, float]
    assert row._fields == ("step", "layer", "site", "measure", "value")


def test_mixed_precision_and_gradient_accumulation(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.functional()
        model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse")
        shift = CovariateShift(tmp_path, X[:16], every_steps=2)
        fit(model, shift)
    finally:
        keras.config.set_dtype_policy("float32")
    assert steps(shift) == [0, 2, 4]  # updates, not batches
    assert all(np.isfinite(row.value) for row in shift.history)


def test_gradients_accumulated_for_longer_than_an_epoch_cause_no_warning(tmp_path):
    model = models.functional()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=12), "mse")
    shift = CovariateShift(tmp_path, X, every_steps=1)
    with user_warnings() as texts:
        fit(model, shift, epochs=3)
    assert texts == []
    assert steps(shift) == [0, 1, 2]


@pytest.mark.thorough
def test_a_reset_optimizer_does_not_reset_the_steps(tmp_path):
    model, shift = models.compiled("functional"), CovariateShift(tmp_path, X, every_steps=4)
    fit(model, shift)
    model.optimizer.iterations.assign(0)
    fit(model, shift)
    assert steps(shift) == [0, 4, 8, 12, 16]


@pytest.mark.thorough
def test_epochs_of_an_earlier_run_are_subtracted(tmp_path):
    """So that the histograms that are left are not thinned for their sake."""
    shift = CovariateShift(tmp_path, X[:16], every_steps=1)
    fit(models.compiled("functional"), shift, epochs=100, initial_epoch=95)
    run = tmp_path / "covariate_shift"
    assert list(events.series(run, f"{catalogue.HISTOGRAM}/bn/input")) == steps(shift)
    assert len(steps(shift)) == 41


def test_traced_functions_are_released_if_layers_cannot_be_watched(tmp_path):
    class Unused(keras.Model):
        def __init__(self):
            super().__init__()
            self.used = keras.layers.Dense(1)
            self.unused = keras.layers.Dense(1, name="unused")

        def call(self, inputs):
            return self.used(inputs)

    model = Unused()
    model.unused.build((None, 6))
    model.compile("sgd", "mse")
    shift = CovariateShift(tmp_path, X, layers="unused")
    with pytest.raises(ValueError, match="the model does not call them in training"):
        fit(model, shift)
    assert shift._compiled is None


@on_tensorflow
def test_a_layer_with_string_inputs_is_named(tmp_path):
    inputs = keras.Input((1,), dtype="string")
    lookup = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot", name="lookup")
    model = keras.Model(inputs, keras.layers.Dense(1)(lookup(inputs)))
    model.compile("sgd", "mse")
    words = tf.constant([["a"], ["b"], ["c"], ["a"]])
    shift = CovariateShift(tmp_path, words, layers="*")
    message = "Leave 'lookup' out of layers. Received: 'lookup', whose input is of dtype string"
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(words, np.ones((4, 1)), verbose=0, callbacks=[shift])
