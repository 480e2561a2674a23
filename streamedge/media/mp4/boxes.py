"""The boxes of ISO base media files (MP4, M4A, QuickTime MOV).

Reads box headers and iterates over the boxes of one container. Callers limit the nesting: each
follows a fixed path, none recurses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from streamedge.media.faults import invalid

HEADER_SIZE_BYTES = 8
LARGE_HEADER_SIZE_BYTES = 16
BOXES_MAX = 4096  # in one container; real files have a few dozen


class BoxHeader(NamedTuple):
    """``size_bytes`` is the size of the whole box, with the header (8 or 16 bytes)."""

    type: str
    header_size_bytes: int
    size_bytes: int


class Box(NamedTuple):
    """A box and the bytes after its header, as a view of the container's bytes."""

    type: str
    content: memoryview


def parse_header(data: memoryview, remaining_bytes: int, *, may_be_cut: bool = False) -> BoxHeader:
    """Reads the header at the start of ``data`` (ISO/IEC 14496-12 §4.2).

    ``remaining_bytes`` is the number of bytes from here to the container's end; ``data`` may hold
    fewer of them, but at least 16 or all. Size 0 means "to the container's end", size 1 "64 bits
    follow". ``may_be_cut``: the box may claim more bytes than remain. Raises MediaError
    STRUCTURE_INVALID when there is no header, or the box does not fit in its container.
    """
    header = read_header(data, remaining_bytes)
    if header is None:
        raise invalid("an MP4 box is cut off or damaged")
    if header.size_bytes > remaining_bytes and not may_be_cut:
        raise invalid(
            f"the MP4 is cut off or damaged: box {header.type!r} claims {header.size_bytes} bytes"
            f" where {remaining_bytes} remain"
        )
    return header


def read_header(data: memoryview, remaining_bytes: int) -> BoxHeader | None:
    """The header at the start, or None. The box may claim more bytes than there are."""
    if len(data) < HEADER_SIZE_BYTES:
        return None
    size_bytes = int.from_bytes(data[:4], "big")
    box_type = str(data[4:8], "latin-1")
    header_size_bytes = HEADER_SIZE_BYTES
    if size_bytes == 1:
        if len(data) < LARGE_HEADER_SIZE_BYTES:
            return None
        header_size_bytes = LARGE_HEADER_SIZE_BYTES
        size_bytes = int.from_bytes(data[8:16], "big")
    elif size_bytes == 0:
        size_bytes = remaining_bytes
    if size_bytes < header_size_bytes:
        return None
    return BoxHeader(box_type, header_size_bytes, size_bytes)


def walk(container: memoryview) -> Iterator[Box]:
    """The boxes of a container's content, in order.

    It is as lenient as players: a box that claims more bytes than the container has ends with the
    container, and bytes that begin no box (padding, garbage) end the iteration. The content of a
    box is not checked. Raises MediaError STRUCTURE_INVALID beyond BOXES_MAX boxes.
    """
    position = 0
    count = 0
    while len(container) - position >= HEADER_SIZE_BYTES:
        count += 1
        if count > BOXES_MAX:
            raise invalid(f"more than {BOXES_MAX} boxes in one MP4 container")
        header = read_header(container[position:], len(container) - position)
        if header is None:
            return
        end = position + min(header.size_bytes, len(container) - position)
        yield Box(header.type, container[position + header.header_size_bytes : end])
        position = end


def find(container: memoryview, *path: str) -> memoryview | None:
    """The content of the first box at ``path``, one type for each level down; None if absent."""
    for box_type in path:
        content = next((box.content for box in walk(container) if box.type == box_type), None)
        if content is None:
            return None
        container = content
    return container


def require(container: memoryview, *path: str) -> memoryview:
    """Like ``find``; raises MediaError STRUCTURE_INVALID where ``find`` returns None."""
    content = find(container, *path)
    if content is None:
        raise invalid(f"the MP4 has no {'/'.join(path)} box")
    return content
