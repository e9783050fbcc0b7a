"""The check that a folder can be written, before training starts."""

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator

from kbn.callbacks.writing.appended_file import File
from kbn.records import file_systems
from kbn.records.reasons import reason

_NUMBERS = itertools.count()


class UnwritableError(OSError, ValueError):
    """`log_dir` cannot be written."""


def check_writable(folder: str) -> None:
    """Write a file into `folder`, as the records will be written, and remove it.

    Folders that this creates on this machine are removed again.

    Args:
        folder: the folder of a callback below `log_dir`, a path or a URL.

    Raises:
        UnwritableError: if it cannot be written, or a server does not answer.
    """
    file = File(folder, f"check.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}")
    try:
        with _without_new_folders(folder):
            file_systems.in_time(folder, lambda: _write_and_remove(file))
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        is_plain = isinstance(error, file_systems.FileSystemError)
        raise UnwritableError(
            f"log_dir cannot be written ({error if is_plain else reason(error)}). Pass a folder of "
            "this machine, or a URL of a file system that TensorFlow can write. "
            f"Received: log_dir={os.path.dirname(folder)!r}"
        ) from error


def _write_and_remove(file: File) -> None:
    try:
        file.append(b"kbn checks whether this folder can be written.")
    except BaseException:
        with contextlib.suppress(Exception):
            file.remove()
        raise
    file.remove()


@contextlib.contextmanager
def _without_new_folders(folder: str) -> Iterator[None]:
    """Remove the folders on this machine that the context creates, if nothing is in them."""
    new = []
    while not file_systems.is_url(folder) and folder and not os.path.lexists(folder):
        new.append(folder)
        folder = os.path.dirname(folder)
    try:
        yield
    finally:
        for each in new:
            with contextlib.suppress(OSError):
                os.rmdir(each)
