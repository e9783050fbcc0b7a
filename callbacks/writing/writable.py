"""The check that a folder can be written, before training starts."""

import contextlib
import itertools
import os
import socket
from collections.abc import Iterable, Iterator

from kbn.callbacks.writing.appended_file import File
from kbn.records import file_systems
from kbn.records.reasons import reason

_NUMBERS = itertools.count()


class UnwritableError(OSError, ValueError):
    """`log_dir` cannot be written."""


def check_writable(folder: str) -> list[str]:
    """Write a file into `folder`, as the records will be written, and remove it.

    Args:
        folder: the folder of a callback below `log_dir`, a path or a URL.

    Returns:
        The folders on this machine that this created, the deepest first.

    Raises:
        UnwritableError: if it cannot be written, or a server does not answer.
    """
    file = File(folder, f"check.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}")
    missing = list(_missing(folder))
    try:
        file_systems.in_time(folder, lambda: _write_and_remove(file))
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        remove_empty(missing)
        is_plain = isinstance(error, file_systems.FileSystemError)
        raise UnwritableError(
            f"log_dir cannot be written ({error if is_plain else reason(error)}). Pass a folder of "
            "this machine, or a URL of a file system that TensorBoard can write. "
            f"Received: log_dir={os.path.dirname(folder)!r}"
        ) from error
    return missing


def remove_empty(folders: Iterable[str]) -> None:
    """Remove those of `folders` that are empty, in this order."""
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):
            os.rmdir(folder)


def _write_and_remove(file: File) -> None:
    try:
        file.append(b"kbn checks whether this folder can be written.")
    except BaseException:
        with contextlib.suppress(Exception):
            file.remove()
        raise
    file.remove()


def _missing(folder: str) -> Iterator[str]:
    """Yield the folders of this machine that have to be created for `folder`, the deepest first."""
    while folder and not file_systems.is_url(folder) and not os.path.lexists(folder):
        yield folder
        folder = os.path.dirname(folder)
