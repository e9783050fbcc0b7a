"""Files to which pieces are appended, each completely or not at all."""

import contextlib
import os
from typing import BinaryIO

from kbn.records import file_systems


class File:
    """A file to which pieces are appended.

    On disk, each append opens the file, writes and closes it, so nothing stays open when training
    ends. If the disk is full, the incomplete piece is removed. What was written before stays
    readable, and writing can continue when there is space. The first piece creates the file and
    its folder. Paths with a scheme (`gs://…`) use TensorBoard's file systems. These cannot append
    cheaply, so the file stays open.

    Attributes:
        path: path of the file.
        is_begun: whether the file has a piece.
    """

    def __init__(self, directory: str, name: str) -> None:
        self.path = os.path.join(directory, name)
        self.is_begun = False
        self._directory = directory
        self._is_on_disk = not file_systems.is_url(directory)
        self._remote: BinaryIO | None = None  # open, after the first piece
        self._size = 0  # before the last piece

    def append(self, piece: bytes) -> None:
        """Add `piece`.

        Raises:
            OSError: if it cannot be written; then the file is unchanged.
        """
        if self._is_on_disk:
            self._append_to_disk(piece)
        else:
            self._append_remotely(piece)
        self.is_begun = True

    def take_back(self) -> None:
        """Remove the last piece, unless the path has a scheme."""
        if self._is_on_disk:
            os.truncate(self.path, self._size)

    def remove(self) -> None:
        """Delete the file, if there is one; the next piece creates it."""
        remote, self._remote, self.is_begun = self._remote, None, False
        if self._is_on_disk:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.path)
            return
        with file_systems.errors_of(self.path):
            if remote is not None:
                remote.close()
            if file_systems.gfile().exists(self.path):
                file_systems.gfile().remove(self.path)

    def vanished(self) -> bool:
        """Return whether the file was removed after it was begun."""
        return self.is_begun and self._is_on_disk and not os.path.exists(self.path)

    def begin_anew(self) -> None:
        """Let the next piece create the file."""
        self.is_begun = False

    def _append_to_disk(self, piece: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND
        if not self.is_begun:
            os.makedirs(self._directory, exist_ok=True)
            flags |= os.O_CREAT
        descriptor = os.open(self.path, flags, 0o666)
        try:
            self._size = os.fstat(descriptor).st_size
            while piece:
                piece = piece[os.write(descriptor, piece) :]
        except OSError:
            os.ftruncate(descriptor, self._size)
            raise
        finally:
            os.close(descriptor)

    def _append_remotely(self, piece: bytes) -> None:
        with file_systems.errors_of(self.path):
            if self._remote is None:
                file_systems.gfile().makedirs(self._directory)
                self._remote = file_systems.gfile().GFile(self.path, "ab")
            self._remote.write(piece)
            self._remote.flush()
