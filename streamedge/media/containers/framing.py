"""The messages between a worker and its media helper, over a pair of stream sockets. Pure.

A frame is a kind (1 byte), the size of the rest (4 bytes, big-endian), and the rest. The worker
sends a SOURCE, then REQUESTs one at a time. The helper answers a request with any number of READs,
each of which the worker answers with DATA, then with PARTs and an END, or with one FAILED. Both
sides refuse a frame over ``FRAME_BYTES_MAX``.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

FRAME_HEADER = struct.Struct(">BI")
READ_BODY = struct.Struct(">QI")  # offset and size of bytes of the source
FRAME_BYTES_MAX = 1 << 20
READ_BYTES_MAX = 256 << 10
PART_BYTES = 256 << 10


class FrameKind(IntEnum):
    SOURCE = 1  # JSON: format, size_bytes
    REQUEST = 2  # JSON: segment (a number, or null for the head), audio
    DATA = 3  # the bytes of a READ, fewer than requested at the source's end
    READ = 4
    PART = 5  # the next bytes of the result
    END = 6
    FAILED = 7  # JSON: fault (a value of MediaFault), message


class FrameHeader(NamedTuple):
    kind: FrameKind
    size_bytes: int


def frame(kind: FrameKind, body: bytes = b"") -> bytes:
    """A whole frame. Raises ValueError when it is too large."""
    if len(body) > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {len(body)} bytes")
    return FRAME_HEADER.pack(kind, len(body)) + body


def parse_header(data: bytes) -> FrameHeader:
    """Parses the header at the start of a frame. Raises ValueError for an invalid one."""
    kind, size_bytes = FRAME_HEADER.unpack(data)
    if size_bytes > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {size_bytes} bytes")
    return FrameHeader(FrameKind(kind), size_bytes)


def parse_read(body: bytes) -> tuple[int, int]:
    """Offset and size of a READ. Raises ValueError for an invalid one."""
    if len(body) != READ_BODY.size:
        raise ValueError("a READ of another size")
    offset, size_bytes = READ_BODY.unpack(body)
    if not 0 < size_bytes <= READ_BYTES_MAX:
        raise ValueError(f"a READ of {size_bytes} bytes")
    return offset, size_bytes
