"""A log_dir that cannot be written raises before the first step, and leaves nothing behind."""

import os
import subprocess
import sys

import numpy as np
import pytest

from kbn.callbacks import CovariateShift
from kbn.callbacks.writing.appended_file import File
from kbn.callbacks.writing.writable import UnwritableError, check_writable
from kbn.records import file_systems
from tests.conftest import needed
from tests.support import models
from tests.support.callbacks import CALLBACKS
from tests.support.warned import user_warnings

X, Y = models.X, models.Y
REFUSED = {
    "s3://bucket/x": r"File system scheme 's3' not implemented .*log_dir='s3://bucket/x'",
    "foo://x": r"File system scheme 'foo' not implemented .*log_dir='foo://x'",
    "http://localhost/x": r"File system scheme 'http' not implemented",
    "gs:///x": r"GCS path doesn't contain a bucket name",
    "/proc/x": r"FileNotFoundError: .*'/proc/x'.*Pass a folder .*Received: log_dir='/proc/x'$",
    "file:///proc/x": r"FileNotFoundError: .*Received: log_dir='/proc/x'$",
    "/sys/x": r"(PermissionError|OSError|FileNotFoundError): .*Received: log_dir='/sys/x'$",
    "dangling": r"FileNotFoundError: .*dangling",
    "circle": r"OSError: .*Too many levels of symbolic links",
    "x" * 300: r"OSError: .*File name too long",
    "new/" + "x" * 300: r"OSError: .*File name too long",
    "null\0character": r"ValueError: embedded null (byte|character)",
}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")


def fit(callback, **options):
    """Train, and return the number of steps that were taken."""
    model = models.compiled("functional")
    try:
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[callback], **options)
    finally:
        fit.steps = int(model.optimizer.iterations.numpy())


@pytest.mark.parametrize("log_dir", REFUSED, ids=lambda text: text[:20].replace("\0", ""))
def test_a_folder_that_cannot_be_written_raises_before_the_first_step(log_dir, tmp_path):
    callback = CovariateShift(log_dir, X[:16], every_steps=1)
    with pytest.raises(UnwritableError, match=REFUSED[log_dir]) as raised:
        fit(callback)
    assert "\n" not in str(raised.value)
    assert fit.steps == 0
    assert sorted(os.listdir(tmp_path)) == ["circle", "dangling"]


@pytest.mark.basic("GradientShift")
@pytest.mark.parametrize("name", CALLBACKS)
def test_every_callback_checks(name):
    callback = CALLBACKS[name]("foo://x", (X[:16], Y[:16]))
    with pytest.raises(UnwritableError, match="'foo' not implemented"):
        fit(callback)


def test_the_error_is_a_value_error_and_an_os_error():
    with pytest.raises(ValueError, match="cannot be written"):
        check_writable("/proc/x/covariate_shift")
    with pytest.raises(OSError, match="cannot be written"):
        check_writable("/proc/x/covariate_shift")


@pytest.mark.parametrize("size", ["4k", None])
def test_a_file_system_that_is_full_or_read_only(size, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size or '1m'}", "tmpfs", folder]
    needed(
        "a tmpfs (mount needs root)", subprocess.run(command, capture_output=True).returncode == 0
    )
    try:
        if size:
            (folder / "ballast").write_bytes(bytes(4096))
            expected = "No space left on device"
        else:
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
            expected = "Read-only file system"
        before = sorted(os.listdir(folder))
        with pytest.raises(UnwritableError, match=expected):
            fit(CovariateShift(folder / "a" / "b", X[:16]))
        assert sorted(os.listdir(folder)) == before
    finally:
        subprocess.run(["umount", folder], check=True)


def test_the_check_leaves_no_file(tmp_path):
    run = tmp_path / "a" / "b" / "covariate_shift"
    assert check_writable(str(run)) == [str(run), str(run.parent), str(run.parent.parent)]
    assert check_writable(str(run)) == []
    assert list(run.iterdir()) == []
    assert check_writable("ram://kbn-check/a/run") == []
    assert file_systems.names_in("ram://kbn-check/a/run") == []


def test_another_error_leaves_no_folder(tmp_path):
    (tmp_path / "kept").mkdir()
    with pytest.raises(ValueError, match=r"nothing\*"):
        fit(CovariateShift(tmp_path / "kept", X[:16], layers="nothing*"))
    assert list((tmp_path / "kept").iterdir()) == []
    with pytest.raises(ValueError, match=r"nothing\*"):
        fit(CovariateShift(tmp_path / "log", X[:16], layers="nothing*"))
    assert not (tmp_path / "log").exists()


UNREACHABLE = """
import numpy as np, keras, kbn
from kbn.records import file_systems
file_systems.PATIENCE = 0.1
callback = kbn.callbacks.CovariateShift("gs://kbn-bucket/x", np.ones((4, 3)))
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
model.compile("sgd", "mse")
try:
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0, callbacks=[callback])
except OSError as error:
    print("RAISED", int(model.optimizer.iterations.numpy()), error)
"""


@pytest.mark.thorough
def test_a_bucket_that_does_not_answer(python):
    """TensorFlow would try for minutes, because the proxy may come back."""
    proxy = dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:1")
    path = os.pathsep.join(sys.path)
    printed = python("-c", UNREACHABLE, PYTHONPATH=path, **proxy).stdout
    assert printed.startswith(
        "RAISED 0 log_dir cannot be written (no answer after 0.1 seconds). Pass a folder"
    )


def test_a_file_elsewhere_raises_os_errors():
    with pytest.raises(OSError, match="'foo' not implemented"):
        File("foo://x", "a").append(b"a")


@pytest.mark.thorough
def test_a_run_elsewhere_is_noticed():
    for number in range(2):
        callback = CovariateShift("ram://kbn-earlier/x", X[:16], every_steps=4)
        with user_warnings() as texts:
            fit(callback)
        assert callback.lost_records == 0
        assert ["contains another run" in text for text in texts] == number * [True]


def test_a_folder_of_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CovariateShift("~/runs", np.ones((2, 3))).directory == str(
        tmp_path / "runs" / "covariate_shift"
    )
