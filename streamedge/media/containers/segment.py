"""A segment as it is cached: a table of its tags, then the FLV tags themselves. Pure.

The table comes first, so a worker finds a tag's position without reading tags. All numbers are
big-endian. A header of 16 bytes has the signature, the number of tags, the number of the next
segment that has tags, and the size of the tags together. Then follow, for each tag: its end,
counted from the first tag (4 bytes), its time in milliseconds (4 bytes), and its flags (1 byte).
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple

from streamedge.media.faults import invalid

HEADER = struct.Struct(">4sIII")
SEGMENT_BYTES_MAX = 64 << 20
TAGS_MAX = 1 << 16  # in one segment

_SIGNATURE = b"SEG1"
_NONE = 0xFFFFFFFF
_ROW_BYTES = 9


class SegmentFlag(IntFlag):
    VIDEO = 1
    KEYFRAME = 2  # of video


class SegmentTag(NamedTuple):
    """A whole FLV tag; ``data`` has its header and PreviousTagSize."""

    time_ms: int
    flags: SegmentFlag
    data: bytes


def encode_segment(tags: Sequence[SegmentTag], following: int | None) -> bytes:
    """The bytes of a segment. ``tags`` are in the order of their times.

    ``following``: the number of the next segment that has tags; None at the end of the medium.
    Raises MediaError when the segment is too large.
    """
    if len(tags) > TAGS_MAX or sum(len(tag.data) for tag in tags) > SEGMENT_BYTES_MAX:
        raise too_large()
    ends = array("I")
    position = 0
    for tag in tags:
        position += len(tag.data)
        ends.append(position)
    times = array("I", [tag.time_ms for tag in tags])
    header = HEADER.pack(_SIGNATURE, len(tags), _NONE if following is None else following, position)
    flags = bytes(int(tag.flags) for tag in tags)
    columns = (_big_endian(ends), _big_endian(times), flags)
    return b"".join((header, *columns, *(tag.data for tag in tags)))


@dataclass(frozen=True, slots=True, eq=False)
class SegmentTable:
    """The tags of a segment. Positions count from the segment's first byte; rows are tags.

    ``positions`` has one more entry than there are tags: the segment's end.
    """

    positions: array[int]
    times_ms: array[int]
    flags: bytes
    following: int | None

    @property
    def count(self) -> int:
        return len(self.times_ms)

    def row_at(self, time_ms: int) -> int:
        """The first row at or after a time."""
        return bisect_left(self.times_ms, time_ms)

    def row_after(self, time_ms: int) -> int:
        """The first row later than a time."""
        return bisect_right(self.times_ms, time_ms)

    def last_row_within(self, start: int, position: int) -> int:
        """The row after the last tag that ends at or before a position; at least ``start``."""
        return max(start, bisect_right(self.positions, position) - 1)

    def last_start(self, time_ms: int, *, has_video: bool) -> int | None:
        """The last row at or before a time where playing can begin: a keyframe, or without video
        any tag.
        """
        for row in range(self.row_after(time_ms) - 1, -1, -1):
            if not has_video or self.flags[row] & SegmentFlag.KEYFRAME:
                return row
        return None


def table_size_bytes(header: bytes, segment_size_bytes: int) -> int:
    """The size of header and table, from the header. Raises MediaError for an invalid one."""
    if len(header) < HEADER.size:
        raise _damaged()
    signature, count, _following, tags_bytes = HEADER.unpack(header[: HEADER.size])
    size_bytes = HEADER.size + int(count) * _ROW_BYTES
    if signature != _SIGNATURE or count > TAGS_MAX or size_bytes + tags_bytes != segment_size_bytes:
        raise _damaged()
    return size_bytes


def parse_table(data: bytes) -> SegmentTable:
    """Reads the first ``table_size_bytes`` bytes of a segment. Raises MediaError."""
    _signature, count, following, tags_bytes = HEADER.unpack(data[: HEADER.size])
    if len(data) != HEADER.size + count * _ROW_BYTES:
        raise _damaged()
    at = HEADER.size
    positions = array("I", [0])
    positions.extend(_numbers(data[at : at + 4 * count]))
    times = _numbers(data[at + 4 * count : at + 8 * count])
    is_growing = all(
        positions[row] < positions[row + 1] for row in range(count)
    ) and all(times[row] <= times[row + 1] for row in range(count - 1))  # fmt: skip
    if not is_growing or positions[-1] != tags_bytes:
        raise _damaged()
    first = len(data)
    return SegmentTable(
        array("I", [first + position for position in positions]),
        times,
        data[at + 8 * count :],
        None if following == _NONE else following,
    )


def too_large() -> Exception:
    """The error for a segment over a limit; for ``raise``."""
    return invalid(
        f"the file has over {SEGMENT_BYTES_MAX >> 20} MiB or {TAGS_MAX} frames in a segment"
    )


def _damaged() -> Exception:
    return invalid("the helper made an invalid segment")


def _big_endian(numbers: array[int]) -> bytes:
    if sys.byteorder == "little":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _numbers(data: bytes) -> array[int]:
    numbers = array("I")
    numbers.frombytes(data)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
