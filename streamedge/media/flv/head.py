"""The head of an FLV file: what a player needs before the first video frame.

Reads metadata, codec headers and duration. The parser is a generator that yields the spans it
needs.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamedge.errors import MediaError, MediaFault
from streamedge.media.faults import invalid
from streamedge.media.flv import tags as flv
from streamedge.media.flv.scan import Stop, resynchronise, scan_tags
from streamedge.media.flv.tags import TagFlag, TagType
from streamedge.media.flv.timeline import LATE_START_MS, start_shift_ms
from streamedge.media.id3 import ID3_HEADER_SIZE_BYTES, id3v2_size_bytes
from streamedge.media.script_data import ScriptObject, decode_script
from streamedge.spans import Span

FIRST_READ_BYTES = 64 << 10
HEAD_LIMIT_BYTES = 1 << 20  # codec headers are searched in this many first bytes
MULTITRACK_HEADERS_MAX = 256
TAIL_LIMIT_BYTES = 4 << 20  # the last tag is searched in this many last bytes

_TAG_TYPES = frozenset(int(tag_type) for tag_type in TagType)


@dataclass(frozen=True, slots=True, eq=False)
class KeyframeIndex:
    """onMetaData's list of keyframes: their times and the positions of their tags."""

    time_ms: NDArray[np.int64]
    position: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class FlvHead:
    """The data of the first bytes of an FLV file and of its last tag.

    ``metadata`` is onMetaData's array, empty without one; ``metadata_body`` its tag's body as it
    is. ``video_codec`` and ``audio_codec`` are CodecID, SoundFormat or FourCC; None: no such
    track was seen. The sequence headers are tag bodies, None where the codec has none.
    ``first_media`` is the position of the first tag that holds a sample, ``start_ms`` its time in
    the file. ``duration_ms`` is None when neither metadata nor the last tag has it. ``keyframes``
    is None unless there is a plausible list; its entries are checked when used.
    """

    has_audio: bool
    has_video: bool
    metadata: ScriptObject
    metadata_body: bytes | None
    video_codec: int | str | None
    audio_codec: int | str | None
    video_sequence_header: bytes | None
    audio_sequence_header: bytes | None
    first_media: int
    start_ms: int
    duration_ms: int | None
    keyframes: KeyframeIndex | None
    multitrack_headers: tuple[tuple[int, bytes], ...] = ()


@dataclass(slots=True)
class _Search:
    """The results so far of reading the first tags."""

    position: int
    expects_audio: bool
    expects_video: bool
    metadata: ScriptObject = field(default_factory=dict)
    metadata_body: bytes | None = None
    codecs: dict[TagFlag, int | str | None] = field(default_factory=dict)
    sequence_headers: dict[TagFlag, bytes] = field(default_factory=dict)
    multitrack_headers: list[tuple[int, bytes]] = field(default_factory=list)
    kinds_with_samples: set[TagFlag] = field(default_factory=set)
    first_media: int | None = None
    start_ms: int = 0
    is_lost: bool = False  # tags are searched for, because none begins where it should

    def is_complete(self) -> bool:
        """Whether a sample was found, and for each expected track a codec header or a sample."""
        if self.first_media is None or not (self.expects_audio or self.expects_video):
            return False
        return (not self.expects_audio or self._has_header(TagFlag.AUDIO)) and (
            not self.expects_video or self._has_header(TagFlag.VIDEO)
        )

    def _has_header(self, kind: TagFlag) -> bool:
        # A sample without a header before it: the track has no header.
        return kind in self.kinds_with_samples or kind in self.sequence_headers

    def add_tag(self, header: flv.TagHeader, body: memoryview) -> bool:
        """Adds one tag and moves to the end of it; False if ``body`` has too few of its bytes.

        The first bytes of a sample are enough: a keyframe may be larger than the searched bytes.
        """
        is_whole = len(body) == header.size_bytes
        if header.type == TagType.SCRIPT:
            if is_whole:
                self._add_script(body)
                self._move_past(header)
            return is_whole
        if header.type not in _TAG_TYPES:
            self._move_past(header)
            return True
        tag = flv.classify(header.type, body[: flv.CLASSIFIED_BYTES])
        kind = TagFlag.AUDIO if header.type == TagType.AUDIO else TagFlag.VIDEO
        if not is_whole and (
            len(body) < flv.CLASSIFIED_BYTES or TagFlag.SEQUENCE_HEADER in tag.flags
        ):
            return False
        if tag.codec is not None:
            self.codecs.setdefault(kind, tag.codec)
        if TagFlag.MULTITRACK in tag.flags and TagFlag.SEQUENCE_HEADER in tag.flags:
            self.multitrack_headers.append((header.type, bytes(body)))
        elif TagFlag.SEQUENCE_HEADER in tag.flags:
            self.sequence_headers.setdefault(kind, bytes(body))
        if TagFlag.MEDIA in tag.flags:
            self.kinds_with_samples.add(kind)
            if self.first_media is None:
                self.first_media = self.position
                self.start_ms = header.timestamp_ms
        self._move_past(header)
        return True

    def _move_past(self, header: flv.TagHeader) -> None:
        overhead = flv.TAG_HEADER_SIZE_BYTES + flv.PREVIOUS_TAG_SIZE_BYTES
        self.position += overhead + header.size_bytes

    def _add_script(self, body: memoryview) -> None:
        if self.metadata_body is not None:
            return
        try:
            name, values = decode_script(body)
        except MediaError:
            return  # damaged, or written in AMF3: it is not needed to play the file
        if name != "onMetaData" or not values or not isinstance(values[0], dict):
            return
        self.metadata, self.metadata_body = values[0], bytes(body)
        # Header flags are often wrong; the codec ids are right.
        audio, video = "audiocodecid" in self.metadata, "videocodecid" in self.metadata
        if audio or video:
            self.expects_audio, self.expects_video = audio, video


def read_head(
    file_size_bytes: int, limit_bytes: int = HEAD_LIMIT_BYTES
) -> Generator[Span, bytes, FlvHead]:
    """Reads the head: yields the spans that it needs, is sent their bytes, returns the FlvHead.

    It reads the first 64 KiB after an ID3v2 tag, if there is one, then twice as much each time
    while something is missing, up to ``limit_bytes``. If the metadata has no duration, it reads the
    end of the file too. Damaged tags are skipped. Raises MediaError: STRUCTURE_INVALID when the
    file is not an FLV, NO_SUPPORTED_TRACK when no sample was found.
    """
    start, data = yield from _file_start(file_size_bytes)
    limit_bytes = min(limit_bytes, file_size_bytes - start)
    header = flv.parse_file_header(data)
    search = _Search(
        header.size_bytes + flv.PREVIOUS_TAG_SIZE_BYTES, header.has_audio, header.has_video
    )
    # A bytearray cannot grow while a view of it is open.
    with memoryview(data) as view:
        _add_tags(search, view, is_all=len(data) >= limit_bytes)
    while not search.is_complete() and len(data) < limit_bytes:
        end = min(limit_bytes, 2 * len(data))
        data += yield from _read_all(Span(start + len(data), start + end))
        with memoryview(data) as view:
            _add_tags(search, view, is_all=len(data) >= limit_bytes)
    if search.first_media is None:
        raise MediaError(
            MediaFault.NO_SUPPORTED_TRACK, f"the FLV has no media in its first {len(data)} bytes"
        )
    shift_ms = start_shift_ms(search.start_ms)
    duration_ms = _duration_ms(search.metadata)
    if duration_ms is None:
        last_ms = yield from _last_timestamp_ms(file_size_bytes)
        if last_ms is not None:
            duration_ms = last_ms + shift_ms if last_ms + shift_ms >= 0 else None
    elif search.start_ms >= LATE_START_MS and duration_ms > search.start_ms:
        duration_ms += shift_ms  # counted from 0, as the tags' times are
    return FlvHead(
        has_audio=TagFlag.AUDIO in search.codecs,
        has_video=TagFlag.VIDEO in search.codecs,
        metadata=search.metadata,
        metadata_body=search.metadata_body,
        video_codec=search.codecs.get(TagFlag.VIDEO),
        audio_codec=search.codecs.get(TagFlag.AUDIO),
        video_sequence_header=search.sequence_headers.get(TagFlag.VIDEO),
        audio_sequence_header=search.sequence_headers.get(TagFlag.AUDIO),
        first_media=start + search.first_media,
        start_ms=search.start_ms,
        duration_ms=duration_ms,
        keyframes=_keyframe_index(search.metadata, start + search.first_media, file_size_bytes),
        multitrack_headers=tuple(search.multitrack_headers[:MULTITRACK_HEADERS_MAX]),
    )


def _file_start(file_size_bytes: int) -> Generator[Span, bytes, tuple[int, bytearray]]:
    """The position where the FLV begins, after an ID3v2 tag, and its first bytes."""
    start = 0
    data = yield from _read_all(Span(0, min(FIRST_READ_BYTES, file_size_bytes)))
    id3_size_bytes = id3v2_size_bytes(data[:ID3_HEADER_SIZE_BYTES])
    if id3_size_bytes:
        start = min(id3_size_bytes, file_size_bytes)
        data = yield from _read_all(Span(start, min(start + FIRST_READ_BYTES, file_size_bytes)))
    return start, bytearray(data)


def _read_all(span: Span) -> Generator[Span, bytes, bytes]:
    """All bytes of a span. Raises MediaError if some are missing."""
    data = (yield span) if span.size else b""
    if len(data) != span.size:
        raise invalid("the FLV is cut off: the file is shorter than its stated size")
    return data


def _add_tags(search: _Search, data: memoryview, *, is_all: bool) -> None:
    """Adds tags from the search's position on, until the search is complete or the data ends.

    ``is_all``: no more bytes will follow, so an incomplete tag stays incomplete.
    """
    while not search.is_complete():
        body = search.position + flv.TAG_HEADER_SIZE_BYTES
        if body > len(data):
            if not is_all or search.first_media is not None or search.is_lost:
                return
            # The size in the file header or in a tag is wrong.
            search.is_lost = True
            search.position = flv.FILE_HEADER_SIZE_BYTES
        elif _is_tag(data, search.position):
            header = flv.parse_tag_header(data[search.position : body])
            if search.add_tag(header, data[body : body + header.size_bytes]):
                continue
            if not is_all or search.is_lost:
                return
        offset = resynchronise(data[search.position + 1 :], is_file_end=is_all)
        if offset is None:
            return
        search.position += 1 + offset


def _is_tag(data: memoryview, position: int) -> bool:
    """Whether a tag may begin at a position, judged by the bytes in ``data``."""
    tags = scan_tags(data, position, count_max=1)
    return tags.stop is not Stop.DAMAGE or tags.end > position


def _duration_ms(metadata: ScriptObject) -> int | None:
    duration_s = metadata.get("duration")
    if isinstance(duration_s, bool) or not isinstance(duration_s, (int, float)):
        return None
    if not math.isfinite(duration_s) or not 0 < duration_s * 1000 <= flv.TIMESTAMP_MAX_MS:
        return None
    return round(duration_s * 1000)


def _last_timestamp_ms(file_size_bytes: int) -> Generator[Span, bytes, int | None]:
    """The time of the last tag, located by the PreviousTagSize at the end of the file, or by a
    search for tags in the last TAIL_LIMIT_BYTES. None if there is no tag.
    """
    last_field = file_size_bytes - flv.PREVIOUS_TAG_SIZE_BYTES
    size_bytes = int.from_bytes((yield Span(last_field, file_size_bytes)), "big")
    position = last_field - size_bytes
    if size_bytes >= flv.TAG_HEADER_SIZE_BYTES and position >= 0:
        header_bytes = yield Span(position, position + flv.TAG_HEADER_SIZE_BYTES)
        if len(header_bytes) == flv.TAG_HEADER_SIZE_BYTES:
            header = flv.parse_tag_header(header_bytes)
            fits = header.size_bytes == size_bytes - flv.TAG_HEADER_SIZE_BYTES
            if header.type in _TAG_TYPES and fits:
                return header.timestamp_ms
    tail_bytes = FIRST_READ_BYTES
    while True:
        tail = Span(max(0, file_size_bytes - tail_bytes), file_size_bytes)
        last_ms = _last_time_in((yield tail))
        if last_ms is not None or tail.start == 0 or tail_bytes >= TAIL_LIMIT_BYTES:
            return last_ms
        tail_bytes *= 4


def _last_time_in(data: bytes) -> int | None:
    """The time of the last tag in ``data``, the last bytes of a file."""
    last_ms: int | None = None
    first = resynchronise(data, is_file_end=True)
    position = first
    while position is not None:
        tags = scan_tags(data, position, file_end=len(data))
        if tags.count:
            last_ms = int(tags.timestamp_ms[-1])
        if tags.stop is not Stop.DAMAGE:
            break
        offset = resynchronise(memoryview(data)[tags.end + 1 :], is_file_end=True)
        position = None if offset is None else tags.end + 1 + offset
    return last_ms


def _keyframe_index(
    metadata: ScriptObject, first_media: int, file_size_bytes: int
) -> KeyframeIndex | None:
    """onMetaData's ``keyframes``, if both lists have one length, rise, and stay in the file."""
    keyframes = metadata.get("keyframes")
    if not isinstance(keyframes, dict):
        return None
    times, positions = keyframes.get("times"), keyframes.get("filepositions")
    if not isinstance(times, np.ndarray) or not isinstance(positions, np.ndarray):
        return None
    if len(times) != len(positions) or len(times) == 0:
        return None
    if not _rises(times, 0, flv.TIMESTAMP_MAX_MS / 1000):
        return None
    if not _rises(positions, flv.FILE_HEADER_SIZE_BYTES, file_size_bytes - 1):
        return None
    position = positions.astype(np.int64)
    # Some writers list the tag of the metadata or of the sequence header first.
    media = position >= first_media
    if not media.any():
        return None
    return KeyframeIndex(np.rint(times * 1000).astype(np.int64)[media], position[media])


def _rises(values: NDArray[np.float64], low: float, high: float) -> bool:
    inside = np.isfinite(values).all() and values[0] >= low and values[-1] <= high
    return bool(inside and (np.diff(values) >= 0).all())
