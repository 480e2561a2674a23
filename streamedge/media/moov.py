"""The MP4's index: finding the ``moov`` box, and the movie and tracks it describes.

Owns the road to ``moov`` (a parser that asks for bytes instead of reading them) and the boxes
around the sample tables. Sample tables and codecs are only pointed at; nothing here does I/O.
Source: ISO/IEC 14496-12 §8; Apple's QuickTime File Format where MOV differs.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from streamedge.media import boxes
from streamedge.media.faults import invalid
from streamedge.spans import Span

FIRST_ASK_BYTES = 64 << 10
TOP_LEVEL_BOXES_MAX = 256  # each may cost one read at the origin
TRACKS_MAX = 64
EDITS_MAX = 1 << 16
TIMESCALE_MAX = (1 << 31) - 1

# What an MP4 or MOV may begin with; anything else is another kind of file.
_FIRST_BOX_TYPES = frozenset(
    {"ftyp", "moov", "mdat", "free", "skip", "wide", "uuid", "pnot", "styp", "PICT"}
)
_TRACK_ENABLED = 0x000001


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One track. ``handler`` is "vide", "soun" or another type that is not played.

    ``shift`` is added to a sample's time to place it on the movie's time line, ``media_start`` is
    where the edit list begins to present the media; both count in ``timescale``, as ``duration``.
    ``stsd`` and ``stbl`` are the contents of those boxes, views of the moov's bytes.
    """

    track_id: int
    handler: str
    is_enabled: bool
    timescale: int
    duration: int
    shift: int
    media_start: int
    stsd: memoryview
    stbl: memoryview


@dataclass(frozen=True, slots=True, eq=False)
class Movie:
    """``duration`` counts in ``timescale``. ``is_fragmented``: samples are announced in moof boxes
    along the file, not (only) here.
    """

    timescale: int
    duration: int
    tracks: tuple[Track, ...]
    is_fragmented: bool


def locate_moov(file_size_bytes: int, limit_bytes: int) -> Generator[Span, bytes, Span]:
    """Finds the ``moov`` box: yields spans it must be sent, returns the box's own span.

    The first ask is the file's first 64 KiB, each further one the 16 bytes of a box header that
    lies behind a skipped box. Raises MediaError STRUCTURE_INVALID when the file is no MP4, is cut
    off, has no moov, or one larger than ``limit_bytes``.
    """
    window = Span(0, min(FIRST_ASK_BYTES, file_size_bytes))
    data = memoryview((yield window)) if window.size else memoryview(b"")
    position = 0
    for _ in range(TOP_LEVEL_BOXES_MAX):
        remaining_bytes = file_size_bytes - position
        if remaining_bytes < boxes.HEADER_SIZE_BYTES:
            if position == 0:
                raise invalid("not an MP4: the file is empty or a few bytes long")
            raise invalid("the MP4 has no index (moov); its recording or upload was not finished")
        header_span = Span(position, position + min(boxes.LARGE_HEADER_SIZE_BYTES, remaining_bytes))
        if not window.contains(header_span):
            window = header_span
            data = memoryview((yield window))
        if len(data) != window.size:
            raise invalid("the MP4 is cut off: the file is shorter than its stated size")
        at = position - window.start
        if position == 0 and str(data[4:8], "latin-1") not in _FIRST_BOX_TYPES:
            raise invalid("not an MP4: the file begins with something else")
        header = boxes.parse_header(data[at:], remaining_bytes)
        if header.type == "moov":
            if header.size_bytes > limit_bytes:
                raise invalid(
                    f"the MP4's index has {header.size_bytes} bytes, over the limit of"
                    f" {limit_bytes}"
                )
            return Span(position, position + header.size_bytes)
        position += header.size_bytes
    raise invalid(f"the MP4 has no index (moov) in its first {TOP_LEVEL_BOXES_MAX} boxes")


def parse_moov(moov: bytes | memoryview) -> Movie:
    """Reads a whole ``moov`` box, header included. Raises MediaError STRUCTURE_INVALID."""
    data = memoryview(moov)
    header = boxes.parse_header(data, len(data))
    if header.type != "moov":
        raise invalid("not an MP4 index (moov)")
    content = data[header.header_size_bytes : header.size_bytes]
    if boxes.find(content, "cmov") is not None:
        raise invalid("the MOV's index is compressed (cmov), which is not supported")
    timescale, duration = _timescale_and_duration(boxes.require(content, "mvhd"), "mvhd")
    track_boxes = [box.content for box in boxes.walk(content) if box.type == "trak"]
    if len(track_boxes) > TRACKS_MAX:
        raise invalid(f"the MP4 has {len(track_boxes)} tracks, over the limit of {TRACKS_MAX}")
    tracks = (_track(box, timescale) for box in track_boxes)
    return Movie(
        timescale,
        duration,
        tuple(track for track in tracks if track is not None),
        boxes.find(content, "mvex") is not None,
    )


def _track(trak: memoryview, movie_timescale: int) -> Track | None:
    """One track; None for a kind of media without the boxes that a playable one must have."""
    hdlr = boxes.require(trak, "mdia", "hdlr")
    if len(hdlr) < 12:
        raise invalid("the MP4's hdlr box is cut off")
    handler = str(hdlr[8:12], "latin-1")
    if handler not in ("vide", "soun"):
        return None
    tkhd = boxes.require(trak, "tkhd")
    id_position = 20 if len(tkhd) and tkhd[0] == 1 else 12
    if len(tkhd) < id_position + 4:
        raise invalid("the MP4's tkhd box is cut off")
    timescale, duration = _timescale_and_duration(boxes.require(trak, "mdia", "mdhd"), "mdhd")
    media_start = delay = 0
    elst = boxes.find(trak, "edts", "elst")
    if elst is not None:
        delay, media_start = _first_edit(elst)
    shift = (delay * timescale + movie_timescale // 2) // movie_timescale - media_start
    stbl = boxes.require(trak, "mdia", "minf", "stbl")
    return Track(
        track_id=int.from_bytes(tkhd[id_position : id_position + 4], "big"),
        handler=handler,
        is_enabled=bool(int.from_bytes(tkhd[1:4], "big") & _TRACK_ENABLED),
        timescale=timescale,
        duration=duration,
        shift=shift,
        media_start=media_start,
        stsd=boxes.require(stbl, "stsd"),
        stbl=stbl,
    )


def _timescale_and_duration(content: memoryview, name: str) -> tuple[int, int]:
    """Units per second and duration from ``mvhd`` or ``mdhd``, version 0 or 1."""
    is_long = len(content) > 0 and content[0] == 1
    position, duration_size = (20, 8) if is_long else (12, 4)
    if len(content) < position + 4 + duration_size:
        raise invalid(f"the MP4's {name} box is cut off")
    timescale = int.from_bytes(content[position : position + 4], "big")
    if not 1 <= timescale <= TIMESCALE_MAX:
        raise invalid(f"the MP4's {name} box has an impossible timescale of {timescale}")
    duration = int.from_bytes(content[position + 4 : position + 4 + duration_size], "big")
    return timescale, duration


def _first_edit(content: memoryview) -> tuple[int, int]:
    """(delay before the media in movie units, media time it starts from in track units).

    Leading empty edits (media time -1) are the delay; edits after the first with media are not
    followed, as tag times run on without jumps.
    """
    if len(content) < 8:
        raise invalid("the MP4's elst box is cut off")
    count = int.from_bytes(content[4:8], "big")
    is_long = content[0] == 1
    entry = np.dtype(
        [("duration", ">u8"), ("media_time", ">i8"), ("rate", ">u4")]
        if is_long
        else [("duration", ">u4"), ("media_time", ">i4"), ("rate", ">u4")]
    )
    if count > EDITS_MAX or count * entry.itemsize > len(content) - 8:
        raise invalid(f"the MP4's edit list claims {count} entries, more than it can hold")
    delay = 0
    for duration, media_time, _ in np.frombuffer(content, entry, count, 8).tolist():
        if media_time >= 0:
            return delay, media_time
        delay += duration
    return delay, 0
