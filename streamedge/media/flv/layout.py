"""The layout of a title as an FLV file, byte for byte, before any media is read.

Maps the bytes of the FLV to the bytes of the source file: ``plan`` returns the source spans of a
span of the FLV, ``assemble`` builds the span from them. Pure, and the same in every process.

The file is: header, onMetaData, sequence headers, then one tag for each sample in the title's
order, and a sequence header where a codec's configuration changes. All of it follows from the
sample table, so any span can be built separately.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamedge.media.faults import invalid
from streamedge.media.flv import tags as flv
from streamedge.media.mp4.codecs import CodecConfiguration
from streamedge.media.mp4.title import OtherAudio, Title
from streamedge.media.script_data import ScriptObject, encode_on_metadata
from streamedge.spans import Span

COALESCED_GAP_BYTES = 64 << 10  # source bytes read and dropped, to avoid a second request
INLINE_BYTES_MAX = 16 << 20  # of sequence headers between samples, together
KEYFRAMES_MAX = 20_000  # in onMetaData; of more keyframes, evenly spread ones are listed

Source: TypeAlias = bytes | bytearray | memoryview

# Tag type and track id.
_TrackKey: TypeAlias = tuple[int, int]

# The source position of bytes that are in no file (sequence headers between samples). No file is so
# large.
_INLINE_START = 1 << 62
_INLINE_VARIANT = 5  # of body headers: none; those of other audio tracks follow

_BODY_HEADER_MAX_BYTES = 8  # ExVideoTagHeader, FourCC and composition time
# The bytes between the data of two samples: the end of one tag and the start of the next.
_GLUE = np.dtype(
    [
        ("previous_tag_size", ">u4"),
        ("type_and_size", ">u4"),
        ("timestamp", ">u4"),
        ("stream_id", "u1", 3),
        ("body_header", "u1", _BODY_HEADER_MAX_BYTES),
    ]
)
_TAG_OVERHEAD_BYTES = flv.TAG_HEADER_SIZE_BYTES + flv.PREVIOUS_TAG_SIZE_BYTES


class SeekPoint(NamedTuple):
    """A start of playing: a tag's position in the FLV, its time, its row in the title."""

    position: int
    time_ms: int
    sample: int


class _Pieces(NamedTuple):
    """The samples that a span of the FLV touches; arrays have one entry for each.

    ``glue_start`` is the position in the FLV of the bytes before the sample's data, ``glue_size``
    their number. ``data_start`` and ``data_end`` bound the sample's data inside the span, as
    positions in the FLV; ``source_start`` is the position of ``data_start`` in the source file.
    """

    first: int
    last: int
    glue_start: NDArray[np.int64]
    glue_size: NDArray[np.int64]
    data_start: NDArray[np.int64]
    data_end: NDArray[np.int64]
    source_start: NDArray[np.int64]


class _BodyHeaders(NamedTuple):
    """The headers before a sample in its tag's body; a row for each variant (``_variants``).

    ``size`` includes the composition time, which is at ``composition_column`` in the variants that
    have one.
    """

    template: NDArray[np.uint8]
    size: NDArray[np.int64]
    has_composition: NDArray[np.bool_]
    composition_column: int


class FlvLayout:
    """The FLV file of one title.

    ``size_bytes``: its length. ``head``: all bytes before the first sample's tag. ``metadata``: the
    values of onMetaData. ``title``: the title, with an additional row for each sequence header
    between samples. ``tag_position``: the position of each row's tag, and the end of the file as
    the last entry.

    Raises MediaError STRUCTURE_INVALID when a sample is too large for an FLV tag, or the codec
    changes so often that its headers exceed INLINE_BYTES_MAX.
    """

    def __init__(self, title: Title) -> None:
        title, self._inline, self._header_rows = _with_sequence_headers(title)
        self.title = title
        self._headers = _body_headers(title)
        self._seekable = _seekable(title)
        body_size = title.size + self._headers.size[_variants(title, slice(None))]
        if int(body_size.max()) > flv.BODY_SIZE_MAX_BYTES:
            raise invalid(f"a frame has {int(body_size.max())} bytes, too large for an FLV tag")
        tag_end = np.cumsum(body_size + _TAG_OVERHEAD_BYTES)
        keyframes = _listed_keyframes(title, self._seekable)
        # All numbers have the same size in AMF0, so a head without positions has the same size.
        head_size = len(_head(title, _metadata(title, keyframes, np.zeros(title.count), 0)))
        self.tag_position: NDArray[np.int64] = np.concatenate(([0], tag_end)) + head_size
        self.size_bytes = int(self.tag_position[-1])
        self.metadata = _metadata(title, keyframes, self.tag_position, self.size_bytes)
        self.head = _head(title, self.metadata)

    @property
    def memory_size_bytes(self) -> int:
        """The memory of the layout and its title, in bytes."""
        tables = self.tag_position.nbytes + self._seekable.nbytes
        return self.title.memory_size_bytes + tables + 2 * len(self.head)

    def sequence_headers(self, row: int) -> tuple[tuple[int, bytes], ...]:
        """Tag types and bodies of the last sequence headers before a row."""
        rows_before = self._header_rows[: bisect.bisect_left(self._header_rows, (row,))]
        headers = dict(_first_sequence_headers(self.title))
        headers |= {track: body for _row, track, body in rows_before}
        return tuple((kind, body) for (kind, _track_id), body in headers.items())

    def seek(self, time_ms: int) -> SeekPoint:
        """The last keyframe at or before a time (without video: the last sample); else the first.

        With video, audio of the same time may be in tags before that position: the time line
        continues from the keyframe.
        """
        dts_ms = self.title.dts_ms
        # The key has the type of the array; otherwise numpy converts the whole array first.
        end = np.searchsorted(dts_ms, np.uint32(max(0, time_ms)), side="right")
        before = int(np.searchsorted(self._seekable, end, side="left"))
        sample = int(self._seekable[max(0, before - 1)])
        return SeekPoint(int(self.tag_position[sample]), int(dts_ms[sample]), sample)

    def plan(self, span: Span) -> list[Span]:
        """Spans of the source file that ``assemble`` needs for a span of the FLV.

        In the order of the source, without overlaps; gaps up to COALESCED_GAP_BYTES are included.
        """
        return _coalesce(self._pieces(span))

    def assemble(self, span: Span, sources: Sequence[Source]) -> bytes:
        """The FLV's bytes in ``span`` (clipped to the file).

        ``sources``: the bytes of each span of ``plan(span)``, in order. Raises ValueError when one
        has another length.
        """
        span = span.intersect(Span(0, self.size_bytes))
        pieces = self._pieces(span)
        planned = _coalesce(pieces)
        if [len(source) for source in sources] != [planned_span.size for planned_span in planned]:
            raise ValueError("sources are not as long as planned")
        media_start = len(self.head) - flv.PREVIOUS_TAG_SIZE_BYTES
        parts: list[Source] = [self.head[span.start : min(span.end, media_start)]]
        glue = memoryview(self._glue(pieces.first, pieces.last))
        row = np.arange(len(pieces.glue_start)) * _GLUE.itemsize
        glue_start = row + np.clip(span.start - pieces.glue_start, 0, pieces.glue_size)
        glue_end = row + np.clip(span.end - pieces.glue_start, 0, pieces.glue_size)
        # The data of a sample outside the span is an empty slice, of any source.
        views = [memoryview(source) for source in sources] or [memoryview(b"")]
        starts = np.array([planned_span.start for planned_span in planned] or [0], np.int64)
        if self._inline:
            views.append(memoryview(self._inline))
            starts = np.append(starts, _INLINE_START)
        which = np.searchsorted(starts, pieces.source_start, side="right") - 1
        data_start = pieces.source_start - starts[which]
        data_end = data_start + (pieces.data_end - pieces.data_start)
        for from_glue, to_glue, source, from_data, to_data in zip(
            glue_start.tolist(),
            glue_end.tolist(),
            which.tolist(),
            data_start.tolist(),
            data_end.tolist(),
            strict=True,
        ):
            parts.append(glue[from_glue:to_glue])
            parts.append(views[source][from_data:to_data])
        parts.append(self._last_previous_tag_size(span))
        return b"".join(parts)

    def _last_previous_tag_size(self, span: Span) -> bytes:
        """The part of the file's last four bytes that is in the span."""
        start = self.size_bytes - flv.PREVIOUS_TAG_SIZE_BYTES
        size = int(self.tag_position[-1] - self.tag_position[-2]) - flv.PREVIOUS_TAG_SIZE_BYTES
        field = size.to_bytes(flv.PREVIOUS_TAG_SIZE_BYTES, "big")
        return field[max(0, span.start - start) : max(0, span.end - start)]

    def _pieces(self, span: Span) -> _Pieces:
        # A sample's glue begins with the PreviousTagSize before its tag.
        tag = span.shift(flv.PREVIOUS_TAG_SIZE_BYTES)
        first = max(0, int(np.searchsorted(self.tag_position, tag.start, side="right")) - 1)
        last = min(self.title.count, int(np.searchsorted(self.tag_position, tag.end)))
        last = max(first, last)
        glue_position = self.tag_position[first : last + 1] - flv.PREVIOUS_TAG_SIZE_BYTES
        glue_start = glue_position[:-1]
        header_size = self._headers.size[_variants(self.title, slice(first, last))]
        glue_size = flv.PREVIOUS_TAG_SIZE_BYTES + flv.TAG_HEADER_SIZE_BYTES + header_size
        data_position = glue_start + glue_size
        data_start = np.maximum(data_position, span.start)
        data_end = np.maximum(data_start, np.minimum(glue_position[1:], span.end))
        return _Pieces(
            first,
            last,
            glue_start,
            glue_size,
            data_start,
            data_end,
            self.title.offset[first:last] + (data_start - data_position),
        )

    def _glue(self, first: int, last: int) -> bytes:
        """One row of _GLUE for each sample in first..last-1."""
        title = self.title
        rows = np.zeros(last - first, _GLUE)
        span = slice(first, last)
        variant = _variants(title, span)
        sizes = np.diff(self.tag_position[max(0, first - 1) : last + 1])
        sizes -= flv.PREVIOUS_TAG_SIZE_BYTES
        if first == 0:
            # The tag before the first sample is the last one of the head.
            last_field = self.head[-flv.PREVIOUS_TAG_SIZE_BYTES :]
            sizes = np.concatenate(([int.from_bytes(last_field, "big")], sizes))
        tag_type = np.where(title.is_video[span], flv.TagType.VIDEO, flv.TagType.AUDIO)
        rows["previous_tag_size"] = sizes[:-1]
        rows["type_and_size"] = tag_type << 24 | (sizes[1:] - flv.TAG_HEADER_SIZE_BYTES)
        time_ms = title.dts_ms[span]
        rows["timestamp"] = (time_ms & 0xFFFFFF) << 8 | time_ms >> 24
        rows["body_header"] = self._headers.template[variant]
        column = self._headers.composition_column
        has_field = self._headers.has_composition[variant]
        composition = title.composition_ms[span].astype(">i4").view(np.uint8).reshape(-1, 4)
        rows["body_header"][has_field, column : column + 3] = composition[has_field, 1:]
        return rows.tobytes()


def _variants(title: Title, span: slice) -> NDArray[np.integer[Any]]:
    """The body header of each row: of audio, or of video by keyframe and composition time."""
    is_video = title.is_video[span].astype(np.intp)
    has_composition = title.composition_ms[span] != 0
    variants: NDArray[np.integer[Any]] = is_video * (1 + title.is_key[span] * 2 + has_composition)
    if title.track_id is not None:
        track_id = title.track_id[span].astype(np.intp)
        variants = np.where(track_id > 0, _INLINE_VARIANT + track_id, variants)
    if title.changes:
        variants[title.offset[span] >= _INLINE_START] = _INLINE_VARIANT
    return variants


def _body_headers(title: Title) -> _BodyHeaders:
    codecs: list[tuple[CodecConfiguration | None, bool, bool]] = [(title.audio, True, False)]
    codecs += [(title.video, bool(key), bool(cts)) for key in (0, 1) for cts in (0, 1)]
    codecs.append((None, False, False))  # _INLINE_VARIANT
    count = len(codecs) + len(title.others)
    template = np.zeros((count, _BODY_HEADER_MAX_BYTES), np.uint8)
    size = np.zeros(count, np.int64)
    field = np.zeros(count, np.int64)
    column = 0
    for variant, (codec, is_key, has_composition) in enumerate(codecs):
        if codec is None:
            continue
        header = flv.sample_header(codec, is_key=is_key, has_composition=has_composition)
        template[variant, : len(header)] = np.frombuffer(header, np.uint8)
        field[variant] = flv.composition_size_bytes(codec, has_composition=has_composition)
        size[variant] = len(header) + field[variant]
        if field[variant]:
            column = len(header)
    for track_id, other in enumerate(title.others, start=1):
        header = flv.audio_track_header(other.codec, flv.PacketType.CODED_FRAMES, track_id)
        variant = _INLINE_VARIANT + track_id
        template[variant, : len(header)] = np.frombuffer(header, np.uint8)
        size[variant] = len(header)
    return _BodyHeaders(template, size, field > 0, column)


def _seekable(title: Title) -> NDArray[np.integer[Any]]:
    """Rows where playing can begin: video keyframes, without video all samples; at least one."""
    if title.video:
        rows = np.flatnonzero(title.is_video & title.is_key)
    else:
        rows = np.flatnonzero(title.offset < _INLINE_START)
    return rows.astype(np.int32) if len(rows) else np.zeros(1, np.int32)


def _listed_keyframes(title: Title, seekable: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """The keyframes for onMetaData: all, or KEYFRAMES_MAX that are evenly spread."""
    if title.video is None:
        return seekable[:0]
    if len(seekable) > KEYFRAMES_MAX:
        evenly_spread = np.linspace(0, len(seekable) - 1, KEYFRAMES_MAX).astype(np.intp)
        return seekable[evenly_spread]
    return seekable


def _metadata(
    title: Title,
    keyframes: NDArray[np.integer[Any]],
    tag_position: NDArray[np.int64] | NDArray[np.float64],
    size_bytes: int,
) -> ScriptObject:
    values: ScriptObject = {"duration": title.duration_ms / 1000}
    if title.video is not None:
        values |= {
            "width": title.video.width,
            "height": title.video.height,
            "framerate": title.frame_rate,
            "videocodecid": flv.codec_id(title.video),
        }
    if title.audio is not None:
        values |= {
            "audiocodecid": flv.codec_id(title.audio),
            "audiosamplerate": title.audio.sample_rate,
            "audiosamplesize": 16,
            "stereo": title.audio.channels == 2,
        }
    values |= {
        "hasVideo": title.video is not None,
        "hasAudio": title.audio is not None,
        "filesize": size_bytes,
        "hasKeyframes": len(keyframes) > 0,
    }
    if title.others:
        # E-RTMP v2, "Enhancing onMetaData": the default track is described above.
        values |= {"language": title.language}
        values["audioTrackIdInfoMap"] = {
            str(track_id): _track_info(other) for track_id, other in enumerate(title.others, 1)
        }
    if len(keyframes):
        values["keyframes"] = {
            "filepositions": tag_position[keyframes].astype(np.float64),
            "times": title.dts_ms[keyframes] / 1000,
        }
    return values


def _track_info(other: OtherAudio) -> ScriptObject:
    info: ScriptObject = {
        "audiocodecid": int.from_bytes(other.codec.four_cc.encode("latin-1"), "big"),
        "samplerate": other.codec.sample_rate,
        "channels": other.codec.channels,
        "language": other.language,
    }
    if other.title:
        info["title"] = other.title
    return info


def _head(title: Title, metadata: ScriptObject) -> bytes:
    """File header, onMetaData tag and sequence header tags."""
    pieces = [
        flv.file_header(has_audio=title.audio is not None, has_video=title.video is not None),
        flv.tag(flv.TagType.SCRIPT, encode_on_metadata(metadata), 0),
    ]
    headers = _first_sequence_headers(title)
    pieces += [flv.tag(kind, body, 0) for (kind, _track_id), body in headers]
    return b"".join(pieces)


def _first_sequence_headers(title: Title) -> list[tuple[_TrackKey, bytes]]:
    codecs = [(codec, 0) for codec in (title.video, title.audio) if codec is not None]
    codecs += [(other.codec, track_id) for track_id, other in enumerate(title.others, start=1)]
    bodies = [
        ((int(codec.kind), track_id), _sequence_header(codec, track_id))
        for codec, track_id in codecs
    ]
    return [(track, body) for track, body in bodies if body is not None]


def _sequence_header(codec: CodecConfiguration, track_id: int) -> bytes | None:
    if track_id:
        return flv.audio_track_sequence_header(codec, track_id)
    return flv.sequence_header_body(codec)


def _with_sequence_headers(
    title: Title,
) -> tuple[Title, bytes, list[tuple[int, _TrackKey, bytes]]]:
    """The title with a row before each change of a codec, the bytes of these rows, and (row, track,
    body) of each.
    """
    inline = bytearray()
    positions: dict[bytes, int] = {}
    rows: list[int] = []
    header_rows: list[tuple[int, _TrackKey, bytes]] = []
    for change in title.changes:
        body = _sequence_header(change.codec, change.track_id)
        if body is None:
            continue
        if body not in positions:
            positions[body] = len(inline)
            inline += body
        track = int(change.codec.kind), change.track_id
        header_rows.append((change.row + len(rows), track, body))
        rows.append(change.row)
    if not rows:
        return title, b"", []
    if sum(len(body) for _, _, body in header_rows) > INLINE_BYTES_MAX:
        raise invalid(f"the MP4's codec changes have over {INLINE_BYTES_MAX} bytes together")
    offsets = [_INLINE_START + positions[body] for _, _, body in header_rows]
    sizes = [len(body) for _, _, body in header_rows]
    expanded = replace(
        title,
        offset=np.insert(title.offset.astype(np.int64), rows, offsets),
        size=np.insert(title.size.astype(np.int64), rows, sizes),
        dts_ms=np.insert(title.dts_ms, rows, title.dts_ms[rows]),
        composition_ms=np.insert(title.composition_ms, rows, 0),
        is_key=np.insert(title.is_key, rows, False),
        is_video=np.insert(title.is_video, rows, title.is_video[rows]),
        track_id=None
        if title.track_id is None
        else np.insert(title.track_id, rows, title.track_id[rows]),
    )
    return expanded, bytes(inline), header_rows


def _coalesce(pieces: _Pieces) -> list[Span]:
    """The source spans of the pieces' data, sorted and joined over small gaps."""
    size = pieces.data_end - pieces.data_start
    is_in_file = (size > 0) & (pieces.source_start < _INLINE_START)
    start = pieces.source_start[is_in_file]
    if len(start) == 0:
        return []
    order = np.argsort(start, kind="stable")
    start = start[order]
    # Samples may overlap in some files, so an end is the largest one so far.
    end = np.maximum.accumulate(start + size[is_in_file][order])
    breaks = np.flatnonzero(start[1:] - end[:-1] > COALESCED_GAP_BYTES)
    starts = start[np.concatenate(([0], breaks + 1))].tolist()
    ends = end[np.concatenate((breaks, [len(end) - 1]))].tolist()
    return [Span(*bounds) for bounds in zip(starts, ends, strict=True)]
