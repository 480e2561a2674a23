"""Scans FLV tags: complete tags of a buffer as arrays, and the next tag boundary in any bytes.

It also rewrites tags that cannot be sent unchanged. Pure.

DataSize alone leads to the next tag (FLV 10.1 §E.3, §E.4). A wrong PreviousTagSize, a StreamID, and
tags of unknown types do not end the scan as long as a tag follows where it should. Bytes between
tags that are no tag are damage; ``resynchronise`` finds the next tag behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from streamedge.media.flv import tags as flv
from streamedge.media.flv.tags import TagFlag, TagType

CANDIDATES_MAX = 20_000  # looked at in one search, so that no bytes keep the event loop
RESYNCHRONISED_TAGS = 4  # in a row, before a boundary is believed
TIME_STEP_MAX_MS = 60_000  # between neighbouring tags, for a boundary to be believed

_FLAGGED_BYTES = 2  # of a body: all that flags depend on
_OVERHEAD_BYTES = flv.TAG_HEADER_SIZE_BYTES + flv.PREVIOUS_TAG_SIZE_BYTES
_TAG_TYPES = frozenset(int(tag_type) for tag_type in flv.TagType)
_MISCOUNTED_BYTES = (0, 10)  # of a header, in PreviousTagSizes of some writers
_TYPE_BITS = 0x1F  # of a tag's first byte; above them stand flags


class Stop(Enum):
    """Why a walk along tags ended."""

    BUFFER_END = "buffer end"  # the next tag is not whole in the buffer
    FILE_END = "file end"
    DAMAGE = "damage"  # no tag where one should begin
    COUNT = "count"  # the requested number of tags


class _Verdict(Enum):
    PLAIN = "plain"
    ODD = "odd"  # a tag with fields that do not fit
    UNKNOWN = "unknown"  # not a type that is played
    INCOMPLETE = "incomplete"  # needs more bytes
    DAMAGE = "damage"


@dataclass(frozen=True, slots=True, eq=False)
class Tags:
    """The complete tags of a buffer, one entry each.

    ``position`` counts from the buffer's start, ``size_bytes`` is header, body and
    PreviousTagSize together, ``flags`` are ``flv.TagFlag`` values. ``end`` is where the next tag
    begins, or the damage; ``needed_end`` what the buffer must have to go on from there.
    ``is_plain``: the bytes from the first tag to ``end`` are these tags and nothing else, and can
    be sent as they lie.
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
) -> Tags:
    """The complete tags from ``position`` on, at most ``count_max``.

    ``file_end`` is where the file ends, counted as the buffer's positions; left out: unknown. Tags
    of types that are not played are passed over.
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
        verdict, header, end = _judge(data, position, end_of_file)
        if verdict is _Verdict.INCOMPLETE:
            needed_end = end
            break
        if verdict is _Verdict.DAMAGE or header is None:
            stop = Stop.DAMAGE
            break
        if verdict is _Verdict.UNKNOWN:
            is_plain = is_plain and not rows
        else:
            is_plain = is_plain and verdict is _Verdict.PLAIN
            body = position + flv.TAG_HEADER_SIZE_BYTES
            opening = bytes(data[body : body + min(_FLAGGED_BYTES, header.size_bytes)])
            flags = _flags(header.type & _TYPE_BITS, opening)
            rows.append((position, end - position, header.timestamp_ms, flags))
        position = end
    table = np.array(rows, np.int64).reshape(-1, 4)
    return Tags(
        table[:, 0], table[:, 1], table[:, 2], table[:, 3].astype(np.uint8),
        position, max(needed_end, position + flv.TAG_HEADER_SIZE_BYTES), is_plain, stop,
    )  # fmt: skip


def _judge(
    data: memoryview, position: int, file_end: int
) -> tuple[_Verdict, flv.TagHeader | None, int]:
    """(what stands at a position, its header, where the next tag begins)."""
    header_end = position + flv.TAG_HEADER_SIZE_BYTES
    if header_end > len(data):
        return _Verdict.INCOMPLETE, None, header_end
    header = flv.parse_tag_header(data[position:header_end])
    is_known = header.type & _TYPE_BITS in _TAG_TYPES
    end = header_end + header.size_bytes + flv.PREVIOUS_TAG_SIZE_BYTES
    if end > file_end:
        # The last field of a file may lack, the end of a body may not.
        is_whole = is_known and end - flv.PREVIOUS_TAG_SIZE_BYTES <= file_end
        end = file_end
        if not is_whole:
            return _Verdict.DAMAGE, None, end
        return (_Verdict.ODD if end <= len(data) else _Verdict.INCOMPLETE), header, end
    if end > len(data):
        return _Verdict.INCOMPLETE, None, end
    field = int.from_bytes(data[end - flv.PREVIOUS_TAG_SIZE_BYTES : end], "big")
    fits = field == flv.TAG_HEADER_SIZE_BYTES + header.size_bytes
    if fits or (field and field - header.size_bytes in _MISCOUNTED_BYTES):
        if not is_known:
            return _Verdict.UNKNOWN, header, end
        is_plain = fits and header.type in _TAG_TYPES
        return (_Verdict.PLAIN if is_plain else _Verdict.ODD), header, end
    if not is_known or header.type > _TYPE_BITS:
        return _Verdict.DAMAGE, None, end
    if end + flv.TAG_HEADER_SIZE_BYTES > file_end:
        return _Verdict.ODD, header, end
    if end + flv.TAG_HEADER_SIZE_BYTES > len(data):
        return _Verdict.INCOMPLETE, None, end + flv.TAG_HEADER_SIZE_BYTES
    if _may_follow(data, end, header, file_end):
        return _Verdict.ODD, header, end
    return _Verdict.DAMAGE, None, end


def _may_follow(data: memoryview, position: int, before: flv.TagHeader, file_end: int) -> bool:
    """Whether a tag of the same stream may begin at a position."""
    following = flv.parse_tag_header(data[position : position + flv.TAG_HEADER_SIZE_BYTES])
    return (
        following.type in _TAG_TYPES
        and following.stream_id == before.stream_id
        and position + flv.TAG_HEADER_SIZE_BYTES + following.size_bytes <= file_end
    )


def rewrite_tags(buffer: bytes | bytearray | memoryview, times_ms: NDArray[np.int64]) -> bytes:
    """The tags of a buffer, which ends with one, written anew with these times.

    Nothing is left of flags above the type, stream ids, wrong PreviousTagSizes and unknown types.
    """
    data = memoryview(buffer)
    tags = scan_tags(data, file_end=len(data), count_max=len(times_ms))
    written = []
    for position, time_ms in zip(tags.position.tolist(), times_ms.tolist(), strict=True):
        header = flv.parse_tag_header(data[position : position + flv.TAG_HEADER_SIZE_BYTES])
        body = position + flv.TAG_HEADER_SIZE_BYTES
        written.append(
            flv.tag(header.type & _TYPE_BITS, bytes(data[body : body + header.size_bytes]), time_ms)
        )
    return b"".join(written)


@lru_cache(maxsize=1024)
def _flags(tag_type: int, opening: bytes) -> int:
    """``TagFlag``s by a tag's type and the first bytes of its body: few kinds, many tags."""
    return int(flv.classify(tag_type, opening).flags)


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
    """Position of the first tag boundary in bytes cut out of an FLV; None if none is sure.

    A boundary is believed when ``tags_needed`` tags follow each other from it, with fitting
    PreviousTagSizes and times no further apart than TIME_STEP_MAX_MS; with ``is_file_end`` also
    when fewer do and the last ends exactly with the buffer, or is cut off behind two others. Where
    there is none such, twice as many tags do whose PreviousTagSizes do not fit.
    """
    data = memoryview(buffer)
    if len(data) < _OVERHEAD_BYTES:
        return None
    octets = np.frombuffer(data, np.uint8)
    candidates = len(octets) - flv.TAG_HEADER_SIZE_BYTES
    looks_like_tag = np.isin(octets[:candidates], list(_TAG_TYPES))
    # Stream ids are 0, or small.
    for stream_id_byte in (8, 9):
        looks_like_tag &= octets[stream_id_byte : stream_id_byte + candidates] == 0
    places = np.flatnonzero(looks_like_tag)[:CANDIDATES_MAX].tolist()
    for fits, needed in ((True, tags_needed), (False, 2 * tags_needed)):
        for position in places:
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
