"""Find event files, and read the records of one."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError

from kbn.records import event_framing as records
from kbn.records import file_systems

T = TypeVar("T")
Track = Callable[[Sequence[T], str], Iterable[T]]
"""Yields the items of a sequence, and shows the progress with a description."""


def silently(items: Sequence[T], _description: str) -> Iterable[T]:
    """Show no progress."""
    return items


def event_files(root: str) -> Iterator[str]:
    """Find files as TensorBoard does, and yield their paths relative to `root`."""
    for folder, files in file_systems.walk(root):
        for file in files:
            if "tfevents" in file:
                yield file if folder == "." else os.path.join(folder, file)


def joined(root: str, name: str) -> str:
    """Return the path or URL of a file from its path relative to `root`."""
    return f"{root.rstrip('/')}/{name}" if file_systems.is_url(root) else os.path.join(root, name)


def read(path: str, take: Callable[[bytes], None]) -> str | None:
    """Give each record of a file to `take`. Return what is wrong with the file, if anything is."""
    end = 0
    try:
        with file_systems.errors_of(path), file_systems.open_file(path) as file:
            size = file_systems.size(path)
            for after, data in records.contents(file):
                take(data)
                end = after
    except DecodeError:
        pass
    except OSError as error:
        return f"not read ({error.strerror or error})"
    if size == 0:
        return "empty"
    if end >= size:
        return None
    if end == 0:
        return "not read (it does not begin like an event file)"
    return f"read up to byte {end:,} of {size:,}; the rest is incomplete or damaged"
