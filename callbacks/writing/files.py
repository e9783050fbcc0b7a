"""Files that only grow, piece by piece, each whole or not at all."""

import os
from typing import Any


class File:
    """A file that pieces are added to.

    On disk a piece that does not fit is taken back, so that what was written before stays readable
    and writing can go on once there is room. It is opened, and its folder created, by the first
    piece. Paths with a scheme (`gs://…`) go through TensorFlow's file systems.
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
            OSError: where it cannot be written; then the file is what it was before.
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
        """Remove the last piece; not where the path has a scheme."""
        if not self._remote:
            os.ftruncate(self._file, self._size)

    def vanished(self) -> bool:
        """Say whether somebody removed the file after it was opened."""
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
