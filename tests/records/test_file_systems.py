"""Paths and URLs, and file systems that fail or do not answer."""

import pathlib
import threading

import pytest

from kbn.records import file_systems
from kbn.records.file_systems import FileSystemError, here, in_time, is_folder, located


@pytest.mark.parametrize(("given", "expected"), [
    ("runs", "runs"), ("runs/", "runs/"), ("~", "/home/me"), ("~/a b", "/home/me/a b"),
    (pathlib.Path("~/a"), "/home/me/a"), (pathlib.Path("a:b"), "a:b"), ("://x", "://x"),
    ("file:///a/b/", "/a/b"), ("file://localhost/a", "/a"), ("file:///", "/"),
    ("gs://bucket/x//", "gs://bucket/x"), ("ram://", "ram://"), ("a/gs://b", "a/gs://b"),
])  # fmt: skip
def test_located(given, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert located(given) == expected


@pytest.mark.parametrize(("given", "message"), [
    ("file://host/x", r"must begin with 'file:///'\. Received: 'file://host/x'"),
    ("file://", r"must begin with 'file:///'\. Received: 'file://'"),
    (pathlib.Path("gs://bucket/x"), r"must be a string\. Received: PosixPath\('gs:/bucket/x'\)"),
])  # fmt: skip
def test_what_cannot_be_located(given, message):
    with pytest.raises(ValueError, match=message):
        located(given)


def test_a_url_is_not_here():
    assert here("output", "file:///a") == "/a"
    message = r"output must be a path of this machine\. Received: output='gs://b/report\.html'"
    with pytest.raises(ValueError, match=message):
        here("output", "gs://b/report.html")


def test_a_file_system_without_an_answer(monkeypatch):
    monkeypatch.setattr(file_systems, "PATIENCE", 0.01)
    never = threading.Event()
    with pytest.raises(FileSystemError, match=r"no answer after 0\.01 seconds"):
        in_time("gs://bucket", never.wait)
    never.set()


def test_an_answer_and_an_error_in_time():
    assert in_time("gs://bucket", lambda: 3) == in_time("here", lambda: 3) == 3
    with pytest.raises(FileSystemError, match="KeyError: 'a'"):
        in_time("gs://bucket", lambda: {}["a"])
    with pytest.raises(KeyError):
        in_time("here", lambda: {}["a"])


def test_folders_elsewhere():
    gfile = file_systems.gfile()
    gfile.makedirs("ram://kbn-folders/a")
    with gfile.GFile("ram://kbn-folders/file", "wb") as file:
        file.write(b"x")
    found = {path: is_folder(f"ram://kbn-folders{path}") for path in ("", "/a", "/b", "/file")}
    assert found == {"": True, "/a": True, "/b": False, "/file": False}
    assert file_systems.names_in("foo://x") == []
    with pytest.raises(FileSystemError, match="'foo' not implemented"):
        is_folder("foo://x")
