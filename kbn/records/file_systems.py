"""Folders and files by path or URL, on this machine or in a file system that TensorBoard reads.

A URL like `gs://bucket/runs` goes through TensorFlow if it is installed, and otherwise through
TensorBoard's substitute for it, which reads `s3://` with boto3, and others with fsspec. A
`file://` URL is a folder of this machine. Then neither is imported.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

from kbn.records.reasons import reason

T = TypeVar("T")
PATIENCE = 30.0
"""Seconds to wait for the first answer of a file system other than that of this machine."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MANGLED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)")


class FileSystemError(OSError):
    """An error of a file system other than that of this machine."""


def located(folder: str | os.PathLike[str]) -> str:
    """Return a path of this machine, with the home folder for `~`, or a URL.

    Raises:
        ValueError: for a URL in a `pathlib.Path`, or a `file://` URL of another machine.
    """
    path = os.fsdecode(os.fspath(folder))
    if not isinstance(folder, str) and _MANGLED.match(path):
        raise ValueError(
            f"pathlib turns '://' into ':/', so a URL must be a string. Received: {folder!r}"
        )
    if path.startswith("file://"):
        host, slash, rest = path.removeprefix("file://").partition("/")
        if host not in ("", "localhost") or not slash:
            raise ValueError(f"A file:// URL must begin with 'file:///'. Received: {path!r}")
        return os.path.normpath(f"/{rest}")
    if is_url(path):
        scheme, _, rest = path.partition("://")
        return f"{scheme}://{rest.rstrip('/')}"
    return os.path.expanduser(path)


def here(name: str, path: str | os.PathLike[str]) -> str:
    """Return a path of this machine.

    Args:
        name: the name of the argument, for the error.
        path: its value.

    Raises:
        ValueError: for the URL of another file system.
    """
    found = located(path)
    if is_url(found):
        raise ValueError(f"{name} must be a path of this machine. Received: {name}={found!r}")
    return found


def is_url(path: str) -> bool:
    """Return whether `path` is not of this machine."""
    return _URL.match(path) is not None


def is_folder(path: str) -> bool:
    """Return whether `path` is a folder.

    Raises:
        FileSystemError: if its file system cannot be reached.
    """
    return in_time(path, lambda: _is_folder(path))


def in_time(path: str, action: Callable[[], T]) -> T:
    """Return the result of `action` on `path`.

    TensorFlow tries to reach a server for minutes, and nothing else can end that.

    Raises:
        FileSystemError: if the file system has another error, or there is no result in time.
    """
    if not is_url(path):
        return action()
    future: Future[T] = Future()

    def act() -> None:
        try:
            with errors_of(path):
                future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=act, name="kbn-file-system", daemon=True).start()
    try:
        return future.result(PATIENCE)
    except TimeoutError:
        raise FileSystemError(f"no answer after {PATIENCE:g} seconds") from None


def _is_folder(path: str) -> bool:
    if not is_url(path):
        return os.path.isdir(path)
    if gfile().isdir(path):  # False also if this cannot be found out
        return True
    from tensorboard.compat import tf

    try:
        gfile().stat(path)  # raises the reason
    except tf.errors.NotFoundError:
        return False
    return False


def names_in(folder: str) -> list[str]:
    """Return the names of what is in `folder`; none if that cannot be found out."""
    try:
        with errors_of(folder):
            return list(gfile().listdir(folder)) if is_url(folder) else os.listdir(folder)
    except OSError:
        return []


def open_file(path: str) -> BinaryIO:
    """Open a file to read its bytes."""
    if is_url(path):
        return gfile().GFile(path, "rb")
    return open(path, "rb")


def size(path: str) -> int:
    """Return the number of bytes of a file."""
    return int(gfile().stat(path).length) if is_url(path) else os.path.getsize(path)


def walk(root: str) -> Iterator[tuple[str, list[str]]]:
    """Find all folders below `root`, and follow links, but in no circle.

    Yields:
        The path of a folder relative to `root`, "." for `root` itself, and the names of its files,
        in alphabetical order.

    Raises:
        OSError: if a folder of another file system cannot be listed. On this machine, such a folder
            is left out.
    """
    folders = _walk_elsewhere(root) if is_url(root) else _walk_here(root, ())
    for folder, files in folders:
        below = folder[len(root) :].strip("/" if is_url(root) else os.sep)
        yield below or ".", sorted(files)


def _walk_here(folder: str, above: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    own = os.path.realpath(folder)
    if own in above:
        return
    _, below, files = next(os.walk(folder), (folder, [], []))
    yield folder, files
    for name in sorted(below):
        yield from _walk_here(os.path.join(folder, name), (*above, own))


def _walk_elsewhere(root: str) -> Iterator[tuple[str, list[str]]]:
    with errors_of(root):
        for folder, _, files in gfile().walk(root, onerror=_raise):
            yield folder, files


def _raise(error: Exception) -> None:
    raise error


@contextmanager
def errors_of(path: str) -> Iterator[None]:
    """Turn the errors of a file system other than that of this machine into `FileSystemError`."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if not is_url(path):
            raise
        raise FileSystemError(reason(error)) from error


def gfile() -> Any:
    """Return the file systems of TensorFlow, or TensorBoard's substitute for them."""
    from tensorboard.compat import tf

    return tf.io.gfile
