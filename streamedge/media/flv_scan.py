"""Walking along FLV tags, and finding them in the middle of a file.

Owns the chain of tags: complete tags of a buffer as arrays, and the next tag boundary in bytes cut
out anywhere. Pure; what a single tag means is ``flv``'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from streamedge.media import flv
from streamedge.media.faults import invalid

RESYNCHRONISED_TAGS = 4  # in a row, before a boundary is believed
TIME_STEP_MAX_MS = 60_000  # between neighbouring tags, for a boundary to be believed

_FLAGGED_BYTES = 2  # of a body: all that flags depend on
_OVERHEAD_BYTES = flv.TAG_HEADER_SIZE_BYTES + flv.PREVIOUS_TAG_SIZE_BYTES
_TAG_TYPES = frozenset(int(tag_type) for tag_type in flv.TagType)


@dataclass(frozen=True, slots=True, eq=False)
class Tags:
    """The complete tags of a buffer, one entry each.

    ``position`` counts from the buffer's start, ``size_bytes`` is header, body and
    PreviousTagSize together, ``flags`` are ``flv.TagFlag`` values. ``end`` is where the next tag
    begins.
    """

    position: NDArray[np.int64]
    size_bytes: NDArray[np.int64]
    timestamp_ms: NDArray[np.int64]
    flags: NDArray[np.uint8]
    end: int

    @property
    def count(self) -> int:
        return len(self.position)


def scan_tags(buffer: bytes | bytearray | memoryview, position: int = 0) -> Tags:
    """The complete tags from ``position``, which must be a tag's start.

    A tag whose end is not in the buffer is left for the next call. Raises MediaError
    STRUCTURE_INVALID where tag type, stream id or PreviousTagSize is not a tag's.
    """
    data = memoryview(buffer)
    rows: list[tuple[int, int, int, int]] = []
    while position + flv.TAG_HEADER_SIZE_BYTES <= len(data):
        header = flv.parse_tag_header(data[position : position + flv.TAG_HEADER_SIZE_BYTES])
        if header.type not in _TAG_TYPES or header.stream_id != 0:
            raise invalid("the FLV is damaged: no tag where one should begin")
        end = position + _OVERHEAD_BYTES + header.size_bytes
        if end > len(data):
            break
        previous_tag_size = int.from_bytes(data[end - flv.PREVIOUS_TAG_SIZE_BYTES : end], "big")
        if previous_tag_size != flv.TAG_HEADER_SIZE_BYTES + header.size_bytes:
            raise invalid("the FLV is damaged: a PreviousTagSize does not fit its tag")
        body = position + flv.TAG_HEADER_SIZE_BYTES
        opening = bytes(data[body : body + min(_FLAGGED_BYTES, header.size_bytes)])
        rows.append((position, end - position, header.timestamp_ms, _flags(header.type, opening)))
        position = end
    table = np.array(rows, np.int64).reshape(-1, 4)
    return Tags(table[:, 0], table[:, 1], table[:, 2], table[:, 3].astype(np.uint8), position)


@lru_cache(maxsize=1024)
def _flags(tag_type: int, opening: bytes) -> int:
    """``TagFlag``s by a tag's type and the first bytes of its body: few kinds, many tags."""
    return int(flv.classify(tag_type, opening).flags)


def resynchronise(
    buffer: bytes | bytearray | memoryview, *, is_file_end: bool = False
) -> int | None:
    """Position of the first tag boundary in bytes cut out of an FLV; None if none is sure.

    A boundary is believed when RESYNCHRONISED_TAGS tags follow each other from it, with fitting
    PreviousTagSizes and times no further apart than TIME_STEP_MAX_MS; with ``is_file_end`` also
    when fewer do and the last ends exactly with the buffer.
    """
    data = memoryview(buffer)
    if len(data) < _OVERHEAD_BYTES:
        return None
    octets = np.frombuffer(data, np.uint8)
    candidates = len(octets) - flv.TAG_HEADER_SIZE_BYTES
    looks_like_tag = np.isin(octets[:candidates], list(_TAG_TYPES))
    for stream_id_byte in (8, 9, 10):
        looks_like_tag &= octets[stream_id_byte : stream_id_byte + candidates] == 0
    for position in np.flatnonzero(looks_like_tag).tolist():
        if _is_boundary(data, position, is_file_end):
            return int(position)
    return None


def _is_boundary(data: memoryview, position: int, is_file_end: bool) -> bool:
    time_ms = None
    for _ in range(RESYNCHRONISED_TAGS):
        if position + flv.TAG_HEADER_SIZE_BYTES > len(data):
            return is_file_end and position == len(data)
        header = flv.parse_tag_header(data[position : position + flv.TAG_HEADER_SIZE_BYTES])
        if header.type not in _TAG_TYPES or header.stream_id != 0:
            return False
        if time_ms is not None and abs(header.timestamp_ms - time_ms) > TIME_STEP_MAX_MS:
            return False
        time_ms = header.timestamp_ms
        end = position + _OVERHEAD_BYTES + header.size_bytes
        field = data[end - flv.PREVIOUS_TAG_SIZE_BYTES : end]
        if int.from_bytes(field, "big") != flv.TAG_HEADER_SIZE_BYTES + header.size_bytes:
            return False
        position = end
    return True
