"""Scans FLV tags: complete tags of a buffer as arrays, and the next tag boundary in any bytes.

It also rewrites tags that cannot be sent unchanged. Pure.

DataSize alone leads to the next tag (FLV 10.1 §E.3, §E.4). A wrong PreviousTagSize, a StreamID, or
a tag of an unknown type does not end the scan as long as a tag follows where it should. Bytes
between tags that are not a tag are damage; ``resynchronise`` finds the next tag after them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from streamedge.media.flv import tags as flv
from streamedge.media.flv.tags import TagFlag, TagType

CANDIDATES_MAX = 20_000  # in one search, so that no bytes block the event loop for long
RESYNCHRONISED_TAGS = 4  # consecutive tags that confirm a boundary
TIME_STEP_MAX_MS = 60_000  # between the tags that confirm a boundary

_FLAGGED_BYTES = 2  # the first bytes of a body, which decide its flags
_OVERHEAD_BYTES = flv.TAG_HEADER_SIZE_BYTES + flv.PREVIOUS_TAG_SIZE_BYTES
_TAG_TYPES = frozenset(int(tag_type) for tag_type in flv.TagType)
_MISCOUNTED_BYTES = (0, 10)  # the header's part in the PreviousTagSize of some writers
_TYPE_BITS = 0x1F  # of a tag's first byte; the bits above are flags


class Stop(Enum):
    """The reason why a scan ended."""

    BUFFER_END = "buffer end"  # the next tag is not complete in the buffer
    FILE_END = "file end"
    DAMAGE = "damage"  # no tag where one should begin
    COUNT = "count"  # the requested number of tags


class _Kind(Enum):
    PLAIN = "plain"
    ODD = "odd"  # a tag with wrong fields, or cut off by the file's end
    UNKNOWN = "unknown"  # a tag of a type that is not played
    INCOMPLETE = "incomplete"  # needs more bytes
    DAMAGE = "damage"


@dataclass(frozen=True, slots=True, eq=False)
class Tags:
    """The complete tags of a buffer, one entry each.

    ``position`` counts from the buffer's start, ``size_bytes`` is header, body and PreviousTagSize
    together, ``flags`` are ``flv.TagFlag`` values. ``end`` is where the next tag begins, or the
    damage; ``needed_end`` how far the buffer must reach to continue from there. ``is_plain``: the
    bytes from the first tag to ``end`` are these tags and nothing else, and can be sent unchanged.
    """

    position: NDArray[np.int64]
    size_bytes: NDArray[np.int64]
    timestamp_ms: NDArray[np.int64]
    flags: NDArray[np.uint8]
    end: int
    needed_end: int
    is_plain: bool
    stop: Stop

    @property
    def count(self) -> int:
        return len(self.position)


def scan_tags(
    buffer: bytes | bytearray | memoryview,
    position: int = 0,
    *,
    file_end: int | None = None,
    count_max: int | None = None,
    multitrack: bool = True,
) -> Tags:
    """The complete tags from ``position`` on, at most ``count_max``.

    ``file_end`` is where the file ends, counted as the buffer's positions; left out: unknown. Tags
    of types that are not played are skipped, and those with MULTITRACK unless ``multitrack``.
    """
    data = memoryview(buffer)
    end_of_file = 1 << 62 if file_end is None else file_end
    rows: list[tuple[int, int, int, int]] = []
    is_plain = True
    needed_end = position
    stop = Stop.BUFFER_END
    while True:
        if count_max is not None and len(rows) >= count_max:
            stop = Stop.COUNT
            break
        if position + flv.TAG_HEADER_SIZE_BYTES > end_of_file:
            stop = Stop.FILE_END
            break
        kind, header, end = _parse_tag(data, position, end_of_file)
        if kind is _Kind.INCOMPLETE:
            needed_end = end
            break
        if kind is _Kind.DAMAGE or header is None:
            stop = Stop.DAMAGE
            break
        if kind is _Kind.UNKNOWN:
            is_plain = is_plain and not rows
        else:
            flags = _flags_of(data, position + flv.TAG_HEADER_SIZE_BYTES, header)
            if multitrack or not flags & TagFlag.MULTITRACK:
                is_plain = is_plain and kind is _Kind.PLAIN
                rows.append((position, end - position, header.timestamp_ms, flags))
            else:
                is_plain = is_plain and not rows
        position = end
    table = np.array(rows, np.int64).reshape(-1, 4)
    return Tags(
        table[:, 0], table[:, 1], table[:, 2], table[:, 3].astype(np.uint8),
        position, max(needed_end, position + flv.TAG_HEADER_SIZE_BYTES), is_plain, stop,
    )  # fmt: skip


def _parse_tag(
    data: memoryview, position: int, file_end: int
) -> tuple[_Kind, flv.TagHeader | None, int]:
    """(the kind of a position, the tag's header, where the next tag begins)."""
    header_end = position + flv.TAG_HEADER_SIZE_BYTES
    if header_end > len(data):
        return _Kind.INCOMPLETE, None, header_end
    header = flv.parse_tag_header(data[position:header_end])
    is_played = header.type & _TYPE_BITS in _TAG_TYPES
    end = header_end + header.size_bytes + flv.PREVIOUS_TAG_SIZE_BYTES
    if end > file_end:
        # The last field of a file may be missing, the end of a body may not.
        has_body = is_played and end - flv.PREVIOUS_TAG_SIZE_BYTES <= file_end
        end = file_end
        if not has_body:
            return _Kind.DAMAGE, None, end
        return (_Kind.ODD if end <= len(data) else _Kind.INCOMPLETE), header, end
    if end > len(data):
        return _Kind.INCOMPLETE, None, end
    field = int.from_bytes(data[end - flv.PREVIOUS_TAG_SIZE_BYTES : end], "big")
    fits = field == flv.TAG_HEADER_SIZE_BYTES + header.size_bytes
    if fits or (field and field - header.size_bytes in _MISCOUNTED_BYTES):
        if not is_played:
            return _Kind.UNKNOWN, header, end
        is_plain = fits and header.type in _TAG_TYPES
        return (_Kind.PLAIN if is_plain else _Kind.ODD), header, end
    if not is_played or header.type > _TYPE_BITS:
        return _Kind.DAMAGE, None, end
    if end + flv.TAG_HEADER_SIZE_BYTES > file_end:
        return _Kind.ODD, header, end
    if end + flv.TAG_HEADER_SIZE_BYTES > len(data):
        return _Kind.INCOMPLETE, None, end + flv.TAG_HEADER_SIZE_BYTES
    if _may_follow(data, end, header, file_end):
        return _Kind.ODD, header, end
    return _Kind.DAMAGE, None, end


def _may_follow(data: memoryview, position: int, before: flv.TagHeader, file_end: int) -> bool:
    """Whether a tag of the same stream may begin at a position."""
    following = flv.parse_tag_header(data[position : position + flv.TAG_HEADER_SIZE_BYTES])
    return (
        following.type in _TAG_TYPES
        and following.stream_id == before.stream_id
        and position + flv.TAG_HEADER_SIZE_BYTES + following.size_bytes <= file_end
    )


def _flags_of(data: memoryview, body: int, header: flv.TagHeader) -> int:
    """The ``TagFlag``s of the tag whose body begins at a position."""
    tag_type = header.type & _TYPE_BITS
    size_bytes = min(_FLAGGED_BYTES, header.size_bytes)
    if size_bytes and flv.begins_with_mod_ex(tag_type, data[body]):
        size_bytes = min(flv.MOD_EX_BYTES_MAX, header.size_bytes)
    return _flags(tag_type, bytes(data[body : body + size_bytes]))


def rewrite_tags(
    buffer: bytes | bytearray | memoryview, times_ms: NDArray[np.int64], *, multitrack: bool = True
) -> bytes:
    """The tags of a buffer, which ends with a tag, rewritten with these times.

    Flags above the type, stream ids, wrong PreviousTagSizes and tags of unknown types are dropped,
    and tags with MULTITRACK unless ``multitrack``.
    """
    data = memoryview(buffer)
    tags = scan_tags(data, file_end=len(data), count_max=len(times_ms), multitrack=multitrack)
    parts = []
    for position, time_ms in zip(tags.position.tolist(), times_ms.tolist(), strict=True):
        header = flv.parse_tag_header(data[position : position + flv.TAG_HEADER_SIZE_BYTES])
        body = position + flv.TAG_HEADER_SIZE_BYTES
        parts.append(
            flv.tag(header.type & _TYPE_BITS, bytes(data[body : body + header.size_bytes]), time_ms)
        )
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _flags(tag_type: int, first_bytes: bytes) -> int:
    """The ``TagFlag``s of a tag, by its type and the first bytes of its body. Cached: many tags
    begin with the same few bytes.
    """
    return int(flv.classify(tag_type, first_bytes).flags)


def tag_type_of(flags: int) -> TagType:
    """The type of a tag with these flags."""
    if flags & TagFlag.SCRIPT:
        return TagType.SCRIPT
    return TagType.VIDEO if flags & TagFlag.VIDEO else TagType.AUDIO


def resynchronise(
    buffer: bytes | bytearray | memoryview,
    *,
    is_file_end: bool = False,
    tags_needed: int = RESYNCHRONISED_TAGS,
) -> int | None:
    """The position of the first confirmed tag boundary in bytes from the middle of an FLV, or None.

    A boundary is confirmed by ``tags_needed`` consecutive tags with right PreviousTagSizes and
    times no further apart than TIME_STEP_MAX_MS. With ``is_file_end`` fewer are enough if the last
    one ends exactly with the buffer, or is cut off after two others. If there is no such boundary,
    twice as many tags with wrong PreviousTagSizes confirm one.
    """
    data = memoryview(buffer)
    if len(data) < _OVERHEAD_BYTES:
        return None
    octets = np.frombuffer(data, np.uint8)
    candidates = len(octets) - flv.TAG_HEADER_SIZE_BYTES
    looks_like_tag = np.isin(octets[:candidates], list(_TAG_TYPES))
    # Stream ids are 0, or small numbers.
    for stream_id_byte in (8, 9):
        looks_like_tag &= octets[stream_id_byte : stream_id_byte + candidates] == 0
    positions = np.flatnonzero(looks_like_tag)[:CANDIDATES_MAX].tolist()
    for fits, needed in ((True, tags_needed), (False, 2 * tags_needed)):
        for position in positions:
            if _is_boundary(data, position, is_file_end, needed, fits=fits):
                return int(position)
    return None


def _is_boundary(
    data: memoryview, position: int, is_file_end: bool, needed: int, *, fits: bool
) -> bool:
    first: flv.TagHeader | None = None
    time_ms = 0
    for number in range(needed):
        if position + flv.TAG_HEADER_SIZE_BYTES > len(data):
            return first is not None and is_file_end and position == len(data)
        header = flv.parse_tag_header(data[position : position + flv.TAG_HEADER_SIZE_BYTES])
        if header.type not in _TAG_TYPES:
            return False
        if first is not None and header.stream_id != first.stream_id:
            return False
        if first is not None and abs(header.timestamp_ms - time_ms) > TIME_STEP_MAX_MS:
            return False
        first = first or header
        time_ms = header.timestamp_ms
        end = position + _OVERHEAD_BYTES + header.size_bytes
        if end > len(data):
            return fits and is_file_end and number >= 2
        field = int.from_bytes(data[end - flv.PREVIOUS_TAG_SIZE_BYTES : end], "big")
        if fits and field != flv.TAG_HEADER_SIZE_BYTES + header.size_bytes:
            return False
        position = end
    return True
