"""Open a folder of event files, and find files that cannot be read."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from kbn.dashboard.event_files import Track, event_files, read, silently
from kbn.dashboard.provider import Folder
from kbn.dashboard.reader import RunReader
from kbn.records import file_systems


def open_folder(log_dir: str | os.PathLike[str], track: Track[str] = silently) -> RunReader:
    """Read all event files below `log_dir`, a path or a URL.

    Args:
        log_dir: the folder.
        track: shows the progress.

    Raises:
        FileNotFoundError: if the folder does not exist.
        OSError: if its file system cannot be reached.
    """
    path = file_systems.located(log_dir)
    try:
        exists = file_systems.is_folder(path)
    except file_systems.FileSystemError as error:
        raise OSError(f"log_dir cannot be read ({error}). Received: log_dir={path!r}") from error
    if not exists:
        raise FileNotFoundError(f"log_dir must be an existing folder. Received: log_dir={path!r}")
    folder = Folder(path, track)
    return RunReader(folder, unreadable=folder.unreadable)


class UnreadableFiles:
    """Event files below some folders that cannot be read, or only in part.

    A file is checked again only after it changed.

    Args:
        log_dirs: the folders; folders that are not on this machine are skipped.
        settled: files that changed less than this many seconds ago are not reported.
    """

    def __init__(self, log_dirs: Sequence[str | os.PathLike[str]], settled: float = 0.0) -> None:
        self._settled = settled
        self._roots = [Path(path) for path in map(_on_this_machine, log_dirs) if path]
        self._known: dict[Path, tuple[tuple[int, int], str | None]] = {}

    def sentences(self) -> list[str]:
        """Return one sentence per event file that cannot be read to its end."""
        found = []
        for root in self._roots:
            for file in event_files(str(root)):
                complaint = self._complaint(root / file)
                if complaint:
                    found.append(f"{file}: {complaint}")
        return found

    def _complaint(self, file: Path) -> str | None:
        try:
            status = file.stat()
        except OSError as error:
            return f"not read ({error.strerror})"
        if time.time() - status.st_mtime < self._settled:
            return None
        state = status.st_size, status.st_mtime_ns
        if self._known.get(file, ((), None))[0] != state:
            self._known[file] = state, read(str(file), _nothing)
        return self._known[file][1]


def _on_this_machine(log_dir: str | os.PathLike[str]) -> str | None:
    try:
        path = file_systems.located(log_dir)
    except ValueError:
        return None
    return None if file_systems.is_url(path) else path


def _nothing(data: bytes) -> None:
    """Take a record, and do nothing with it."""
