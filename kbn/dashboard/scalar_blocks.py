"""Many scalars of one event at once.

A callback writes the same tags at the end of each of its events. The bytes of two such events
differ only in the numbers. So after the tags of one event are known, the numbers of the others are
taken out of the bytes, without a Python object for each.
"""

import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary

from kbn.dashboard.numbers import Numbers

_KINDS_KEPT = 8  # kinds of events; those of a kind end with the same tags
_NUMBER = b"\x2a\x04"  # what precedes a number: field 5 of a tensor, packed, with four bytes


class Head(NamedTuple):
    """The beginning of a serialized event that has a summary and nothing else.

    Attributes:
        time: when it was written, in seconds.
        step: its step.
        at: where the summary begins.
    """

    time: float
    step: int
    at: int


def head(data: bytes) -> Head | None:
    """Return the head of a serialized event, or None if the event has anything but a summary."""
    if len(data) < 11 or data[0] != 0x09:  # field 1, eight bytes
        return None
    step, at = 0, 9
    if data[at] == 0x10:  # field 2, a number
        step, at = _varint(data, at + 1)
    if data[at : at + 1] != b"\x2a" or step >= 2**63:  # field 5, a message
        return None
    size, at = _varint(data, at + 1)
    (time,) = struct.unpack_from("<d", data, 1)
    return Head(time, step, at) if at + size == len(data) else None


class Blocks:
    """The scalars at the end of events, by the kind of event."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []

    def find(self, data: bytes, head: Head) -> "Found | None":
        """Return the known scalars at the end of an event, if there are any."""
        return next(filter(None, (block.find(data, head) for block in self._blocks)), None)

    def learn(
        self, data: bytes, values: Sequence[Summary.Value], of: Mapping[str, Numbers]
    ) -> None:
        """Remember the scalars at the end of an event.

        Args:
            data: the serialized event.
            values: the values of its summary.
            of: the scalars by tag.
        """
        parts: list[bytes] = []
        numbers: list[Numbers] = []
        for value in reversed(values):
            if value.tag not in of or not _is_plain(value):
                break
            parts.insert(0, Summary(value=[value]).SerializeToString())
            numbers.insert(0, of[value.tag])
        if not numbers or len(set(map(id, numbers))) < len(numbers):
            return
        block = _Block(parts, numbers)
        if block.fits(data):
            self.settle()
            others = self._blocks[: _KINDS_KEPT - 1]
            block.meet(others)
            self._blocks = [block, *others]

    def settle(self) -> None:
        """Add the scalars that were taken to those of their tags."""
        for block in self._blocks:
            block.settle()


class _Block:
    """The scalars at the end of events of one kind."""

    def __init__(self, parts: Sequence[bytes], numbers: Sequence[Numbers]) -> None:
        self._numbers = numbers
        self._at = np.cumsum([len(part) for part in parts])[:, None] - range(4, 0, -1)
        self._size = int(self._at[-1, -1]) + 1
        self._known = b""
        self._known, _ = self._split(b"".join(parts))
        self._steps, self._times = array("q"), array("d")
        self._taken: list[np.ndarray] = []
        self._rivals: list[_Block] = []

    def meet(self, others: Iterable["_Block"]) -> None:
        """Find the blocks that have tags in common with this one."""
        tags = set(map(id, self._numbers))
        for other in others:
            if not tags.isdisjoint(map(id, other._numbers)):
                self._rivals.append(other)
                other._rivals.append(self)

    def fits(self, data: bytes) -> bool:
        """Return whether `data` ends with these tags, and each is followed by one number."""
        known, _ = self._split(data[-self._size :])
        before = self._at[:, 0]
        return known == self._known and all(known[at - 2 : at] == _NUMBER for at in before.tolist())

    def find(self, data: bytes, head: Head) -> "Found | None":
        """Return the numbers of an event, or None if it is of another kind."""
        at = len(data) - self._size
        if at < head.at:
            return None
        known, values = self._split(data[at:])
        return Found(self, at, head, values) if known == self._known else None

    def take(self, head: Head, values: np.ndarray) -> None:
        """Keep the numbers of an event until `settle`; those of each tag stay in order."""
        for other in self._rivals:
            other.settle()
        self._steps.append(head.step)
        self._times.append(head.time)
        self._taken.append(values)

    def settle(self) -> None:
        """Add the numbers that were taken to those of their tags."""
        if not self._taken:
            return
        values = np.stack(self._taken, axis=1).astype(np.float64)
        for numbers, row in zip(self._numbers, values, strict=True):
            numbers.extend(self._steps, self._times, row)
        self._steps, self._times = array("q"), array("d")
        self._taken = []

    def _split(self, data: bytes) -> tuple[bytes, np.ndarray]:
        """Return `data` with zeros in place of the numbers, and the numbers, (n,) float32."""
        plain = np.frombuffer(bytearray(data), np.uint8)
        if len(plain) < self._size:
            return b"", np.zeros(0, np.float32)
        values = plain[self._at].view("<f4")[:, 0]
        plain[self._at] = 0
        return plain.tobytes(), values


class Found(NamedTuple):
    """The known scalars at the end of an event.

    Attributes:
        block: the kind of event.
        at: where the scalars begin in the event.
        head: the head of the event.
        values: (n,) float32.
    """

    block: _Block
    at: int
    head: Head
    values: np.ndarray

    def take(self) -> None:
        """Add the scalars to those of their tags, at the next `settle`."""
        self.block.take(self.head, self.values)


def _is_plain(value: Summary.Value) -> bool:
    """Return whether `value` is one float32 without a shape or a description."""
    tensor = value.tensor
    return (
        len(tensor.float_val) == 1
        and not tensor.tensor_shape.dim
        and not value.HasField("metadata")
    )


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of variable length in a serialized message, and where it ends."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return value, at
