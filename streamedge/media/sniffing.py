"""Detects the kind of a file from its first bytes, not from its name.

The parser is a generator that yields the spans it needs. It skips what players skip: unknown boxes
at the start of an MP4, an ID3v2 tag, junk before the first frame of an MP3. It never reads an
index.
"""

from __future__ import annotations

import string
from collections.abc import Generator
from enum import Enum

from streamedge.media.faults import invalid
from streamedge.media.id3 import ID3_HEADER_SIZE_BYTES, id3v2_size_bytes
from streamedge.media.mp3 import frames as mp3
from streamedge.media.mp3.head import SEARCH_LIMIT_BYTES
from streamedge.media.mp4 import boxes
from streamedge.spans import Span

FIRST_READ_BYTES = 64 << 10
BOXES_MAX = 16  # of unknown types, before one of a known type

_EBML_ID = bytes.fromhex("1a45dfa3")  # RFC 8794 §11.2.1: the first bytes of Matroska and WebM
_TS_SYNC_BYTE, _TS_PACKETS_CHECKED = 0x47, 5  # ISO/IEC 13818-1 §2.4.3.2
# Packet size and position of the sync byte: a plain file, a Blu-ray or AVCHD file, and one with
# Reed-Solomon bytes after each packet.
_TS_PACKET_FORMS = ((188, 0), (192, 4), (204, 0))
_ADTS_HEADER_SIZE_BYTES, _ADTS_FRAMES_CHECKED = 7, 3

_MP4_BOXES = frozenset(
    {"ftyp", "moov", "mdat", "free", "skip", "wide", "pnot", "styp", "uuid", "moof", "sidx"}
)
_BOX_TYPE_CHARACTERS = frozenset((string.ascii_letters + string.digits + " _-").encode() + b"\xa9")


class FileKind(Enum):
    MP4 = "MP4"
    FLV = "FLV"
    MP3 = "MP3"
    MATROSKA = "Matroska"  # WebM is a profile of it
    MPEG_TS = "MPEG-TS"
    ADTS = "ADTS"  # AAC without a container


def sniff(file_size_bytes: int) -> Generator[Span, bytes, FileKind]:
    """Yields the spans that it needs, is sent their bytes, returns the kind. Raises MediaError
    STRUCTURE_INVALID.
    """
    if file_size_bytes == 0:
        raise invalid("the file is empty")
    window = Span(0, min(FIRST_READ_BYTES, file_size_bytes))
    data = yield window
    if data[:3] == b"FLV":
        return FileKind.FLV
    if data[:3] == b"ID3":
        id3_size_bytes = id3v2_size_bytes(data[:ID3_HEADER_SIZE_BYTES])
        start = data[id3_size_bytes : id3_size_bytes + 3]
        if len(start) < 3 and id3_size_bytes + 3 <= file_size_bytes:
            start = yield Span(id3_size_bytes, id3_size_bytes + 3)
        return FileKind.FLV if start == b"FLV" else FileKind.MP3
    if str(data[4:8], "latin-1") in _MP4_BOXES:
        return FileKind.MP4
    if mp3.resynchronise(data[: 4 * mp3.FRAME_SIZE_MAX_BYTES]) == 0:
        return FileKind.MP3
    if mp3.unsupported_format(data) is not None:
        return FileKind.MP3  # ``mp3.head`` raises the reason
    if (yield from _leads_to_mp4_box(data, file_size_bytes)):
        return FileKind.MP4
    container = container_kind(data)
    if container is not None:
        return container
    limit_bytes = min(SEARCH_LIMIT_BYTES, file_size_bytes)
    while True:
        if mp3.resynchronise(data, is_file_end=len(data) == file_size_bytes) is not None:
            return FileKind.MP3
        if len(data) >= limit_bytes:
            raise invalid("the file is none of MP4, FLV, MP3, Matroska, MPEG-TS and ADTS")
        data += yield Span(len(data), min(limit_bytes, 2 * len(data)))


def container_kind(data: bytes) -> FileKind | None:
    """The kind of a file that begins with ``data``, if it is one that a media helper reads."""
    if data.startswith(_EBML_ID):
        return FileKind.MATROSKA
    if _is_transport_stream(data):
        return FileKind.MPEG_TS
    if _is_adts(data):
        return FileKind.ADTS
    return None


def _is_transport_stream(data: bytes) -> bool:
    """Whether the first packets begin with sync bytes; one alone may be anything."""
    for size_bytes, first in _TS_PACKET_FORMS:
        sync_bytes = data[first::size_bytes][:_TS_PACKETS_CHECKED]
        if sync_bytes == bytes([_TS_SYNC_BYTE]) * _TS_PACKETS_CHECKED:
            return True
    return False


def _is_adts(data: bytes) -> bool:
    """Whether ADTS frames follow each other (ISO/IEC 14496-3 §1.A.2.2): syncword, layer 0."""
    position = 0
    for _ in range(_ADTS_FRAMES_CHECKED):
        header = data[position : position + _ADTS_HEADER_SIZE_BYTES]
        if len(header) < _ADTS_HEADER_SIZE_BYTES or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
            return False
        size_bytes = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
        if size_bytes < _ADTS_HEADER_SIZE_BYTES:
            return False
        position += size_bytes
    return True


def _leads_to_mp4_box(start: bytes, file_size_bytes: int) -> Generator[Span, bytes, bool]:
    """Whether boxes of unknown types follow each other up to one of a known type."""
    position = 0
    for _ in range(BOXES_MAX):
        data = start[position : position + boxes.LARGE_HEADER_SIZE_BYTES]
        if len(data) < boxes.LARGE_HEADER_SIZE_BYTES:
            if position + boxes.LARGE_HEADER_SIZE_BYTES > file_size_bytes:
                return False
            data = yield Span(position, position + boxes.LARGE_HEADER_SIZE_BYTES)
        if not _BOX_TYPE_CHARACTERS.issuperset(data[4:8]):
            return False
        header = boxes.read_header(memoryview(data), file_size_bytes - position)
        if header is None:
            return False
        if header.type in _MP4_BOXES:
            return True
        position += header.size_bytes
        if position >= file_size_bytes:
            return False
    return False
