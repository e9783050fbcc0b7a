"""Open a folder of event files as TensorBoard does, and find files that cannot be read."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.backend.event_processing.tag_types import TENSORS

from kbn.dashboard.reader import RunReader
from kbn.records import event_framing as records

EVERYTHING = {TENSORS: 0}  # 0: TensorBoard's loader keeps all records


def open_folder(log_dir: str | os.PathLike[str]) -> RunReader:
    """Read all event files below `log_dir`.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    path = os.path.expanduser(os.fspath(log_dir))
    if not os.path.isdir(path):
        raise FileNotFoundError(f"log_dir must be an existing folder. Received: log_dir={path!r}")
    multiplexer = EventMultiplexer(size_guidance=EVERYTHING, tensor_size_guidance={})
    multiplexer.AddRunsFromDirectory(path)
    multiplexer.Reload()
    return RunReader(MultiplexerDataProvider(multiplexer, path))


class UnreadableFiles:
    """Event files below some folders that cannot be read, or only in part.

    A file is checked again only after it changed.

    Args:
        log_dirs: the folders; folders that are not on this machine are skipped.
        settled: files that changed less than this many seconds ago are not reported.
    """

    def __init__(self, log_dirs: Sequence[str | os.PathLike[str]], settled: float = 0.0) -> None:
        self._settled = settled
        self._roots = [Path(log_dir).expanduser() for log_dir in log_dirs]
        self._known: dict[Path, tuple[tuple[int, int], str | None]] = {}

    def sentences(self) -> list[str]:
        """Return one sentence per event file that cannot be read to its end."""
        found = []
        for root in self._roots:
            for file in sorted(_event_files(root)):
                reason = self._reason(file)
                if reason:
                    found.append(f"{file.relative_to(root)}: {reason}")
        return found

    def _reason(self, file: Path) -> str | None:
        try:
            status = file.stat()
        except OSError as error:
            return f"not read ({error.strerror})"
        if time.time() - status.st_mtime < self._settled:
            return None
        state = status.st_size, status.st_mtime_ns
        if self._known.get(file, ((), None))[0] != state:
            self._known[file] = state, _checked(file)
        return self._known[file][1]


def _event_files(root: Path) -> Iterator[Path]:
    """Find files as TensorBoard does. Follow links, but visit each folder only once."""
    seen = set()
    for folder, below, files in os.walk(root, followlinks=True):
        own = os.path.realpath(folder)
        if own in seen:
            below.clear()
            continue
        seen.add(own)
        yield from (Path(folder, file) for file in files if "tfevents" in file)


def _checked(path: Path) -> str | None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            read = records.whole(file)
    except OSError as error:
        return f"not read ({error.strerror})"
    if size == 0:
        return "empty"
    if read == size:
        return None
    if read == 0:
        return "not read (it does not begin like an event file)"
    return f"read up to byte {read:,} of {size:,}; the rest is incomplete or damaged"
