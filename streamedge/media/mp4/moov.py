"""The index of an MP4: locates the ``moov`` box, and reads the movie and its tracks.

Locates ``moov`` (a generator that yields the spans it needs) and reads the boxes around the sample
tables, but not the sample tables and codecs themselves. Does no I/O.
Source: ISO/IEC 14496-12 §8; Apple's QuickTime File Format where MOV differs.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

from streamedge.errors import MediaError
from streamedge.media.faults import invalid
from streamedge.media.languages import UNDETERMINED, packed_language
from streamedge.media.mp4 import boxes
from streamedge.media.mp4.edit_list import Edit, parse_elst
from streamedge.media.mp4.fragments import Fragments, Moof, read_fragments
from streamedge.spans import Span

FIRST_READ_BYTES = 64 << 10
TOP_LEVEL_BOXES_MAX = 256  # each may take one read from the origin
TRACKS_MAX = 64
COMPRESSED_MOOV_MAX_BYTES = 16 << 20  # decompressed; enough for a film of ten hours
TIMESCALE_MAX = (1 << 31) - 1

TITLE_MAX_BYTES = 200
LANGUAGE_MAX_BYTES = 35

_TRACK_ENABLED = 0x000001


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One track. ``handler`` is "vide", "soun" or another type that is not played.

    ``edits`` is the edit list; ``duration`` is in ``timescale``, in units per second. ``stsd`` and
    ``stbl`` are the contents of those boxes, views of the moov's bytes. ``language`` is an ISO
    639-2 code or a BCP 47 tag, ``title`` the track's name, which may be empty.
    """

    track_id: int
    handler: str
    is_enabled: bool
    timescale: int
    duration: int
    edits: tuple[Edit, ...]
    stsd: memoryview
    stbl: memoryview
    language: str = UNDETERMINED
    title: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Movie:
    """``duration`` is in ``timescale``. ``is_fragmented``: samples are listed in moof boxes along
    the file, not (only) here; ``fragments`` has them, once they are read. ``faults`` are the
    reasons why tracks or samples were left out.
    """

    timescale: int
    duration: int
    tracks: tuple[Track, ...]
    is_fragmented: bool
    faults: tuple[str, ...] = ()
    fragments: Fragments = field(default_factory=Fragments)


def locate_moov(file_size_bytes: int, limit_bytes: int) -> Generator[Span, bytes, Span]:
    """Locates the ``moov`` box: yields the spans that it needs, is sent their bytes, returns the
    box's span.

    The first span is the file's first 64 KiB; each further one is the 16 bytes of the header after
    a skipped box. Boxes of any type may come before ``moov``. Raises MediaError STRUCTURE_INVALID
    when the file is not an MP4, is cut off, has no ``moov``, or one larger than ``limit_bytes``.
    """
    window = Span(0, min(FIRST_READ_BYTES, file_size_bytes))
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
        header = boxes.parse_header(data[at:], remaining_bytes, may_be_cut=True)
        size_bytes = min(header.size_bytes, remaining_bytes)
        if header.type == "moov":
            if size_bytes > limit_bytes:
                raise invalid(
                    f"the MP4's index has {size_bytes} bytes, over the limit of {limit_bytes}"
                )
            return Span(position, position + size_bytes)
        position += header.size_bytes
    raise invalid(f"the MP4 has no index (moov) in its first {TOP_LEVEL_BOXES_MAX} boxes")


def parse_moov(moov: bytes | memoryview) -> Movie:
    """Reads a whole ``moov`` box, header included. A damaged track does not affect the others.

    Raises MediaError STRUCTURE_INVALID.
    """
    content = _content(moov)
    cmov = boxes.find(content, "cmov")
    if cmov is not None:
        content = _content(_decompressed(cmov))
    mvhd = boxes.find(content, "mvhd")
    timescale, duration = (0, 0) if mvhd is None else _timescale_and_duration(mvhd, "mvhd")
    if mvhd is not None and timescale == 0:
        timescale = 1
    track_boxes = [box.content for box in boxes.walk(content) if box.type == "trak"]
    if len(track_boxes) > TRACKS_MAX:
        raise invalid(f"the MP4 has {len(track_boxes)} tracks, over the limit of {TRACKS_MAX}")
    tracks: list[Track] = []
    faults: list[str] = []
    for box in track_boxes:
        try:
            track = _track(box, timescale)
        except MediaError as exc:
            faults.append(str(exc))
        else:
            if track is not None:
                tracks.append(track)
    is_fragmented = boxes.find(content, "mvex") is not None
    return Movie(timescale, duration, tuple(tracks), is_fragmented, tuple(faults))


def parse_fragmented(moov: bytes | memoryview, moofs: Sequence[Moof]) -> Movie:
    """Reads a whole ``moov`` box, header included, and the ``moof`` boxes of its file.

    Raises MediaError STRUCTURE_INVALID.
    """
    movie = parse_moov(moov)
    mvex = boxes.find(_content(moov), "mvex")
    if mvex is None:
        return movie
    fragments = read_fragments(
        mvex,
        moofs,
        {track.track_id: track.timescale for track in movie.tracks},
        starts_in_moov=any(_has_samples(track) for track in movie.tracks),
    )
    return replace(movie, fragments=fragments, faults=movie.faults + fragments.faults)


def is_fragmented(moov: bytes | memoryview) -> bool:
    """Whether a ``moov`` box says that fragments follow. Raises MediaError STRUCTURE_INVALID."""
    return boxes.find(_content(moov), "mvex") is not None


def _content(moov: bytes | memoryview) -> memoryview:
    """The bytes after the header of a ``moov`` box."""
    data = memoryview(moov)
    header = boxes.parse_header(data, len(data), may_be_cut=True)
    if header.type != "moov":
        raise invalid("not an MP4 index (moov)")
    return data[header.header_size_bytes : header.size_bytes]


def _decompressed(cmov: memoryview) -> bytes:
    """The ``moov`` box in a compressed one of QuickTime, at most COMPRESSED_MOOV_MAX_BYTES."""
    method = bytes(boxes.require(cmov, "dcom")[:4])
    if method != b"zlib":
        raise invalid(f"the MOV's index is compressed by {method!r}; only zlib is supported")
    decompressor = zlib.decompressobj()
    try:
        moov = decompressor.decompress(
            boxes.require(cmov, "cmvd")[4:], COMPRESSED_MOOV_MAX_BYTES + 1
        )
    except zlib.error as exc:
        raise invalid(f"the MOV's compressed index (cmov) is damaged: {exc}") from exc
    if len(moov) > COMPRESSED_MOOV_MAX_BYTES:
        raise invalid(
            f"the MOV's compressed index (cmov) has over {COMPRESSED_MOOV_MAX_BYTES} bytes"
        )
    return moov


def _has_samples(track: Track) -> bool:
    """Whether the sample table in moov lists samples."""
    for box_type in "stsz", "stz2":
        content = boxes.find(track.stbl, box_type)
        if content is not None and any(content[8:12]):
            return True
    return False


def _track(trak: memoryview, movie_timescale: int) -> Track | None:
    """One track; None for a kind of media that is not played.

    A track without a timescale has the movie's.
    """
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
    mdhd = boxes.find(trak, "mdia", "mdhd")
    timescale, duration = movie_timescale, 0
    if mdhd is not None:
        timescale, duration = _timescale_and_duration(mdhd, "mdhd")
    elst = boxes.find(trak, "edts", "elst")
    stbl = boxes.require(trak, "mdia", "minf", "stbl")
    return Track(
        track_id=int.from_bytes(tkhd[id_position : id_position + 4], "big"),
        handler=handler,
        is_enabled=bool(int.from_bytes(tkhd[1:4], "big") & _TRACK_ENABLED),
        timescale=timescale or 1,
        duration=duration,
        edits=() if elst is None or movie_timescale == 0 else parse_elst(elst),
        stsd=boxes.require(stbl, "stsd"),
        stbl=stbl,
        language=_language(trak, mdhd),
        title=_text(boxes.find(trak, "udta", "name"), TITLE_MAX_BYTES),
    )


def _language(trak: memoryview, mdhd: memoryview | None) -> str:
    """The language of a track: of ``elng`` (a BCP 47 tag) if there is one, else of ``mdhd``."""
    elng = boxes.find(trak, "mdia", "elng")
    tag = "" if elng is None else _text(elng[4:], LANGUAGE_MAX_BYTES)
    if tag:
        return tag
    if mdhd is None or not len(mdhd):
        return UNDETERMINED
    position = 32 if mdhd[0] == 1 else 20
    field = mdhd[position : position + 2]
    return packed_language(int.from_bytes(field, "big")) if len(field) == 2 else UNDETERMINED


def _text(content: memoryview | None, size_max_bytes: int) -> str:
    """The printable text of a box up to its first NUL; empty without one."""
    if content is None:
        return ""
    text = str(bytes(content[:size_max_bytes]).partition(b"\0")[0], "utf-8", "replace")
    return "".join(character for character in text if character.isprintable())


def _timescale_and_duration(content: memoryview, name: str) -> tuple[int, int]:
    """Units per second and duration from ``mvhd`` or ``mdhd``, version 0 or 1.

    The timescale is 0 if the box has an impossible one.
    """
    is_long = len(content) > 0 and content[0] == 1
    position, duration_size = (20, 8) if is_long else (12, 4)
    if len(content) < position + 4 + duration_size:
        raise invalid(f"the MP4's {name} box is cut off")
    timescale = int.from_bytes(content[position : position + 4], "big")
    duration = int.from_bytes(content[position + 4 : position + 4 + duration_size], "big")
    return timescale if timescale <= TIMESCALE_MAX else 0, duration
