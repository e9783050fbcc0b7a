"""Files to which pieces are appended, each whole or not at all."""

import os
from typing import Any


class File:
    """A file to which pieces are appended.

    If the disk is full, the part of a piece that was written is removed, so that the file stays
    readable and writing can go on after there is room. The first piece creates the file and its
    folder. Paths with a scheme (`gs://…`) go through TensorFlow's file systems.
    """

    def __init__(self, directory: str, name: str) -> None:
        self.path = os.path.join(directory, name)
        self.is_open = False
        self._directory = directory
        self._remote = "://" in directory
        self._file: Any = None
        self._size = 0  # before the last piece

    def append(self, piece: bytes) -> None:
        """Add `piece`.

        Raises:
            OSError: if it cannot be written; then the file is as before.
        """
        if not self.is_open:
            self._open()
        if self._remote:
            self._file.write(piece)
            self._file.flush()
            return
        self._size = os.fstat(self._file).st_size
        try:
            while piece:
                piece = piece[os.write(self._file, piece) :]
        except OSError:
            self.take_back()
            raise

    def take_back(self) -> None:
        """Remove the last piece; does nothing if the path has a scheme."""
        if not self._remote:
            os.ftruncate(self._file, self._size)

    def vanished(self) -> bool:
        """Return whether the file was removed after it was opened."""
        return self.is_open and not self._remote and not os.path.exists(self.path)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self.is_open:
            self.is_open = False
            if self._remote:
                self._file.close()
            else:
                os.close(self._file)

    def _open(self) -> None:
        if self._remote:
            from tensorboard.compat import tf

            tf.io.gfile.makedirs(self._directory)
            self._file = tf.io.gfile.GFile(self.path, "ab")
        else:
            os.makedirs(self._directory, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self.is_open = True
