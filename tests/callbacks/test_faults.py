"""Faults end no training: a full disk, a folder that goes, a probe that no longer fits."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

import kbn
from kbn.records import catalogue, tags
from tests.conftest import needed
from tests.support import ROOT, events, models
from tests.support.callbacks import CALLBACKS, first_step, steps
from tests.support.on_backend import on_tensorflow, tf
from tests.support.warned import user_warnings

X, Y = models.X, models.Y
every_callback = pytest.mark.parametrize("name", CALLBACKS)


@pytest.fixture
def disk(tmp_path):
    """Mount a file system of its own and return its folder, and how to remount it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        return subprocess.run(command, capture_output=True).returncode == 0

    needed("a tmpfs (mount needs root)", mount("size=64k"))
    yield folder, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", folder], check=True)


def trained(callback, *callbacks, epochs=10):
    """Train for 8 steps an epoch; return the texts of all warnings but advice."""
    model = models.compiled("functional")
    with user_warnings() as texts:
        model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=[callback, *callbacks])
    assert int(model.optimizer.iterations.numpy()) == 8 * epochs
    return [text for text in texts if "inference will be off" not in text]


def made(name, folder):
    return CALLBACKS[name](folder, (X[:16], Y[:16]), every_steps=1, json_lines=True)


def scalar_tag(callback):
    row = callback.history[0]
    return tags.tag(row.measure, tags.Place(row.layer, row.site))


@pytest.mark.basic("LossLandscape")
@every_callback
def test_a_full_disk(name, disk):
    folder, _ = disk
    callback = made(name, folder)
    texts = trained(callback, epochs=12)
    assert len(texts) == 2
    failed_at = int(re.search(r"failed at step (\d+)", texts[0])[1])
    assert "No space left on device" in texts[0]
    assert texts[1] == f"{name} lost {callback.lost_records} records in all."
    written = list(
        events.series(folder / callback.run, scalar_tag(callback))
    )  # TensorBoard reads it
    assert written == steps(callback)
    assert steps(callback)[-1] <= failed_at
    assert len(written) + callback.lost_records == 97 - first_step(name)
    assert 0 < callback.lost_records < 97


@pytest.mark.thorough
@every_callback
def test_a_full_disk_with_room_again(name, disk):
    folder, remount = disk
    callback = made(name, folder)
    (folder / "ballast").write_bytes(b"0" * 40_000)
    room = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: epoch == 6 and remount("size=8m")
    )
    texts = trained(callback, room, epochs=10)
    assert len(texts) == 2
    assert callback.lost_records > 0
    written = list(events.series(folder / callback.run, scalar_tag(callback)))
    assert written == steps(callback)
    assert set(range(49, 81)) <= set(written)
    lines = (folder / callback.run / "history.jsonl").read_text().splitlines()
    assert len(lines) == len(callback.history)


@pytest.mark.basic("MovingStatistics")
@every_callback
def test_a_folder_that_becomes_read_only(name, disk):
    folder, remount = disk
    callback = made(name, folder / "log")
    lock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: epoch == 1 and remount("ro")
    )
    texts = trained(callback, lock, epochs=3)
    assert len(texts) == 2
    assert texts[0].startswith(f"{name} failed at step 9 and training goes on: OSError: [Errno 30]")
    assert "Read-only file system" in texts[0]
    assert texts[1] == f"{name} lost 16 records in all."
    assert callback.lost_records == 16
    assert steps(callback) == list(range(first_step(name), 9))


def test_a_later_fit_does_not_raise_if_the_folder_became_read_only(disk):
    folder, remount = disk
    callback, model = made("MovingStatistics", folder / "log"), models.compiled("functional")
    with user_warnings() as texts:
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[callback])
        remount("ro")
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[callback])
    assert any("Read-only file system" in text for text in texts)
    assert callback.lost_records == 8


@pytest.mark.basic("CovariateShift")
@every_callback
def test_a_folder_removed_during_training(name, tmp_path):
    callback = made(name, tmp_path / "log")
    remove = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: batch == 4 and shutil.rmtree(tmp_path / "log")
    )
    texts = trained(callback, remove, epochs=1)
    first = first_step(name)
    assert texts == [
        f"{name} failed at step 5 and training goes on: the files in "
        f"{str(tmp_path / 'log' / callback.run)!r} were removed. Lost records: {5 - first} so far.",
        f"{name} lost {5 - first} records in all.",
    ]
    assert steps(callback) == list(range(first, 9))
    written = list(events.series(tmp_path / "log" / callback.run, scalar_tag(callback)))
    assert written == [5, 6, 7, 8]


class Limited(keras.layers.Layer):
    """Fails at run time on values above its limit."""

    def __init__(self):
        super().__init__(name="limited")
        self.limit = tf.Variable(1e9)

    def call(self, x):
        with tf.control_dependencies([tf.debugging.assert_less(x, self.limit)]):
            return tf.identity(x)


@pytest.mark.basic("MovingStatistics")
@every_callback
@on_tensorflow
def test_a_probe_that_stops_fitting(name, tmp_path, caplog):
    """The layer refuses the probe, not the batches, from the third epoch to the sixth."""
    caplog.set_level("DEBUG", "kbn")
    limited = Limited()
    inputs = keras.Input((6,))
    x = kbn.BatchNormalization(name="bn")(keras.layers.Dense(4)(limited(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile("sgd", "mse")
    callback = CALLBACKS[name](tmp_path, (X[:16] + 50, Y[:16]), every_steps=1)
    limits = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: limited.limit.assign(30.0 if 2 <= epoch < 6 else 1e9)
    )
    with user_warnings() as texts:
        model.fit(X, Y, batch_size=60, epochs=8, verbose=0, callbacks=[callback, limits])
    texts = [text for text in texts if "inference will be off" not in text]
    assert int(model.optimizer.iterations.numpy()) == 8
    assert len(texts) == 2
    assert texts[0].startswith(
        f"{name} failed at step 3 and training goes on: InvalidArgumentError: "
        "assertion failed: [Condition x < y did not hold element-wise:] "
    )
    assert "\n" not in texts[0]
    assert len(texts[0]) < 500
    logged = [record for record in caplog.records if record.name == "kbn.callbacks"]
    assert [(one.levelname, one.getMessage()) for one in logged] == [
        ("DEBUG", f"{name} failed at step {step}") for step in range(3, 7)
    ]
    assert all(isinstance(one.exc_info[1], tf.errors.InvalidArgumentError) for one in logged)
    assert texts[1] == f"{name} lost 4 records in all."
    assert steps(callback) == sorted({first_step(name), 1, 2, 7, 8})


@pytest.mark.basic("GradientShift")
@every_callback
@on_tensorflow
def test_a_layer_that_python_runs_and_that_fails(name, tmp_path):
    class Moody(keras.layers.Layer):
        fails = False

        def call(self, x):
            def look(values):
                if self.fails and len(values) == 16:
                    raise RuntimeError("not today")
                return values

            y = tf.numpy_function(look, [x], tf.float32)
            y.set_shape(x.shape)
            return x + tf.stop_gradient(y - x)

    moody = Moody(name="moody")
    inputs = keras.Input((6,))
    x = kbn.BatchNormalization(name="bn")(keras.layers.Dense(4)(moody(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile("sgd", "mse")
    callback = CALLBACKS[name](tmp_path, (X[:16], Y[:16]), every_steps=1)
    fail = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(moody, "fails", epoch >= 1)
    )
    with user_warnings() as texts:
        model.fit(X, Y, batch_size=60, epochs=3, verbose=0, callbacks=[callback, fail])
    texts = [text for text in texts if "inference will be off" not in text]
    assert int(model.optimizer.iterations.numpy()) == 3
    assert "not today" in texts[0]
    assert texts[1:] == [f"{name} lost 2 records in all."]


KILLED = """
import os, sys
import numpy as np, keras, tensorflow as tf
from tests.support import models
from tests.support.callbacks import CALLBACKS
name, folder = sys.argv[1:]
callback = CALLBACKS[name](folder, (models.X[:16], models.Y[:16]), every_steps=1)
tell = keras.callbacks.LambdaCallback(
    on_train_batch_end=lambda batch, logs: print(callback.history[-1].step, flush=True)
)
models.compiled("functional").fit(
    models.X, models.Y, batch_size=8, epochs=10**6, verbose=0, callbacks=[callback, tell]
)
"""


@pytest.mark.basic("CovariateShift")
@every_callback
def test_a_killed_process_leaves_all_that_it_wrote(name, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(KILLED), name, tmp_path],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )  # fmt: skip
    told = 0
    for line in process.stdout:
        told = int(line)
        if told >= 20:
            process.send_signal(signal.SIGKILL)
            break
    told = max([told, *(int(line) for line in process.stdout)])
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    callback = CALLBACKS[name]
    (file,) = (tmp_path / callback.run).glob("events*")
    accumulator = events.accumulate(file.parent)
    tag = next(
        tag for tag in accumulator.Tags()["tensors"]
        if tag.split("/")[0] in catalogue.scalars(callback.run)
    )  # fmt: skip
    written = [event.step for event in accumulator.Tensors(tag)]
    assert written == list(range(first_step(name), written[-1] + 1))
    assert told <= written[-1] <= told + 1
    value = np.asarray(events.series(file.parent, tag)[written[-1]])
    assert value.shape == ()


def test_json_lines_that_are_removed_alone_begin_anew(tmp_path):
    callback = made("LossLandscape", tmp_path)
    lines = tmp_path / callback.run / "history.jsonl"
    remove = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: batch == 4 and lines.unlink()
    )
    texts = trained(callback, remove, epochs=1)
    assert texts == [
        "LossLandscape failed at step 5 and training goes on: history.jsonl in "
        f"{str(tmp_path / callback.run)!r} was removed, and a new one is begun. "
        "Lost records: 0 so far."
    ]
    assert {json.loads(line)["step"] for line in lines.read_text().splitlines()} == {5, 6, 7, 8}
    assert list(events.series(tmp_path / callback.run, scalar_tag(callback))) == list(range(9))


@pytest.mark.basic("1e+30-*")
@every_callback
@pytest.mark.parametrize("rate", [1e3, 1e10, 1e30])
def test_a_net_that_diverges_loses_no_record(name, rate, tmp_path):
    """Nor does NumPy warn of its inf and NaN: warnings are errors here."""
    model = models.functional()
    model.compile(keras.optimizers.SGD(rate), "mse")
    callback = made(name, tmp_path)
    with user_warnings() as texts:
        model.fit(X, Y, batch_size=20, epochs=3, verbose=0, callbacks=[callback])
    assert [text for text in texts if "inference will be off" not in text] == []
    assert callback.lost_records == 0
    assert steps(callback) == list(range(first_step(name), 10))
    values = [
        row.value for row in callback.history if row.step == 9 and row.measure != catalogue.MONITOR
    ]
    assert not np.isfinite(values).all()
