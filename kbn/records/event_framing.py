"""TFRecord framing, the format of event files."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

_LARGEST = 2**31  # bytes of a record; a larger length means that the file is damaged


def framed(data: bytes) -> bytes:
    """Return `data` with its length and checksums.

    TensorBoard's own RecordWriter computes the checksums in Python: 0.14 ms per 1,000 bytes.
    """
    length = struct.pack("<Q", len(data))
    return b"".join([length, checksum(length), data, checksum(data)])


def contents(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield each complete record at the beginning of `file`: the byte after it, and its data."""
    end = 0
    while len(head := file.read(12)) == 12:
        (size,) = struct.unpack("<Q", head[:8])
        if head[8:] != checksum(head[:8]) or size > _LARGEST:
            return
        data = file.read(size)
        if len(data) < size or file.read(4) != checksum(data):
            return
        end += 16 + size
        yield end, data


def checksum(data: bytes) -> bytes:
    """Return the CRC-32C of `data`, masked as in TFRecord files."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
