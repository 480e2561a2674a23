"""A title: a media asset's index, ready to be played or packaged.

Owns the choice of tracks, the time line in milliseconds and the one sample table in decoding
order. Never reads samples, and knows nothing of how they will be wrapped.

Milliseconds are rounded as FFmpeg's muxers round: decoding and presentation times each to the
nearest, halves away from zero, and only then moved so that the smallest decoding time is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamedge.errors import MediaError, MediaFault
from streamedge.media.codecs import CodecConfiguration, TrackKind, UnsupportedCodec, parse_stsd
from streamedge.media.faults import invalid
from streamedge.media.moov import Movie, Track
from streamedge.media.sample_table import (
    SAMPLES_MAX,
    BoolArray,
    Int64Array,
    SampleTable,
    read_sample_table,
)

TIME_MAX_MS = (1 << 31) - 1  # 24 days; FLV's extended timestamp is signed
COMPOSITION_MAX_MS = (1 << 23) - 1  # FLV's composition time is a signed 24-bit number
AUDIO_PREROLL_S = 1  # kept before the edit list's start, for decoders that need a run-up

_HANDLER_KINDS = {"vide": TrackKind.VIDEO, "soun": TrackKind.AUDIO}


@dataclass(frozen=True, slots=True, eq=False)
class Title:
    """Codecs, and one row for each sample in decoding order (video before audio at equal times).

    ``offset`` and ``size`` are bytes in the source file. ``dts_ms`` begins at 0 and never falls,
    ``composition_ms`` is presentation minus decoding time. ``is_key`` is True for all audio.
    At least one of ``video`` and ``audio`` is there. ``frame_rate`` is 0 without video.
    """

    video: CodecConfiguration | None
    audio: CodecConfiguration | None
    duration_ms: int
    frame_rate: float
    offset: Int64Array
    size: NDArray[np.uint32]
    dts_ms: NDArray[np.uint32]
    composition_ms: NDArray[np.int32]
    is_key: BoolArray
    is_video: BoolArray

    @property
    def count(self) -> int:
        return len(self.offset)

    @property
    def memory_size_bytes(self) -> int:
        """What the tables take, for a cache that counts bytes."""
        tables = (
            self.offset, self.size, self.dts_ms, self.composition_ms, self.is_key, self.is_video
        )  # fmt: skip
        return sum(table.nbytes for table in tables) + 4096


@dataclass(frozen=True, slots=True, eq=False)
class _TimedTrack:
    """A track's samples with times in ms, not yet moved to begin at 0."""

    samples: SampleTable
    dts_ms: Int64Array
    composition_ms: Int64Array
    end_ms: int
    start_ms: int
    rate: float  # samples per second


def build_title(movie: Movie, file_size_bytes: int) -> Title:
    """Chooses the first enabled playable track of each kind and merges their samples.

    Raises MediaError: NO_SUPPORTED_TRACK when nothing can be carried (the message names what was
    found), STRUCTURE_INVALID when a sample table lies or times exceed what FLV can say.
    """
    chosen, unsupported = _choose(movie)
    if not chosen:
        found = ", ".join(unsupported) or "no audio or video at all"
        raise MediaError(
            MediaFault.NO_SUPPORTED_TRACK, f"the file has no track that can be played: {found}"
        )
    tables: dict[TrackKind, SampleTable] = {}
    samples_left = SAMPLES_MAX
    for kind, (track, _) in chosen.items():
        tables[kind] = read_sample_table(
            track.stbl,
            file_size_bytes,
            always_sync=kind is TrackKind.AUDIO,
            samples_max=samples_left,
        )
        samples_left -= tables[kind].count
    if all(table.count == 0 for table in tables.values()):
        if movie.is_fragmented:
            raise MediaError(
                MediaFault.NO_SUPPORTED_TRACK, "a fragmented MP4, which cannot be played yet"
            )
        raise MediaError(MediaFault.NO_SUPPORTED_TRACK, "the file's tracks are empty")
    if sum(int(table.size_bytes.sum(dtype=np.int64)) for table in tables.values()) > (
        file_size_bytes
    ):
        raise invalid("the MP4's samples are larger than the file: its index is damaged")
    timed = {
        kind: _timed(chosen[kind][0], kind, table) for kind, table in tables.items() if table.count
    }
    video, audio = (
        chosen[kind][1] if kind in timed else None for kind in (TrackKind.VIDEO, TrackKind.AUDIO)
    )
    return _merge(timed, video, audio)


def _choose(
    movie: Movie,
) -> tuple[dict[TrackKind, tuple[Track, CodecConfiguration]], list[str]]:
    """The chosen track of each kind, video first, and the names of codecs not carried."""
    chosen: dict[TrackKind, tuple[Track, CodecConfiguration]] = {}
    unsupported: list[str] = []
    for kind in (TrackKind.VIDEO, TrackKind.AUDIO):
        of_kind = [track for track in movie.tracks if _HANDLER_KINDS[track.handler] is kind]
        # sorted() keeps the file's order among enabled ones; disabled tracks are a last resort.
        for track in sorted(of_kind, key=lambda track: not track.is_enabled):
            codec = parse_stsd(track.stsd, kind)
            if isinstance(codec, UnsupportedCodec):
                unsupported.append(codec.name)
            else:
                chosen[kind] = track, codec
                break
    return chosen, unsupported


def _timed(track: Track, kind: TrackKind, table: SampleTable) -> _TimedTrack:
    """Cuts what the edit list hides at the start, drops empty samples, turns times into ms."""
    limit = TIME_MAX_MS * track.timescale // 1000
    shift = track.shift - max(0, -int(table.composition.min()))
    if max(table.end, abs(shift), abs(track.media_start)) > limit:
        raise invalid(f"an MP4 track is longer than {TIME_MAX_MS // 1000} s or starts too late")
    first = _first_presented(track, kind, table)
    keep = np.flatnonzero(table.size_bytes[first:]) + first
    if len(keep) == 0:
        raise invalid("an MP4 track has only empty samples")
    if len(keep) < table.count:
        table = SampleTable(
            table.offset[keep],
            table.size_bytes[keep],
            table.dts[keep],
            table.composition[keep],
            table.is_sync[keep],
            table.end,
        )
    if int(np.abs(table.composition).max()) > limit:
        raise invalid("the MP4's composition offsets are impossibly large")
    # Presentation times stay; decoding times move back where a composition offset is negative, so
    # that no frame is shown before it is decoded.
    pts_ms = _milliseconds(table.dts + table.composition + track.shift, track.timescale)
    dts_ms = _milliseconds(table.dts + shift, track.timescale)
    composition_ms = pts_ms - dts_ms
    if int(composition_ms.max()) > COMPOSITION_MAX_MS:
        raise invalid(f"the MP4 has a composition offset over {COMPOSITION_MAX_MS} ms")
    end_ms = int(_milliseconds(np.array([table.end + track.shift]), track.timescale)[0])
    presented = table.end - int(table.dts[0])
    return _TimedTrack(
        table,
        dts_ms,
        composition_ms,
        max(end_ms, int(pts_ms.max())),
        start_ms=int(dts_ms[0]),
        rate=table.count * track.timescale / presented if presented > 0 else 0.0,
    )


def _first_presented(track: Track, kind: TrackKind, table: SampleTable) -> int:
    """Index of the first sample needed to present the media from where the edit list starts it."""
    if track.media_start <= 0:
        return 0
    if kind is TrackKind.AUDIO:
        start = track.media_start - AUDIO_PREROLL_S * track.timescale
        return max(0, int(np.searchsorted(table.dts, start, side="right")) - 1)
    presented = table.is_sync & (table.dts + table.composition <= track.media_start)
    candidates = np.flatnonzero(presented)
    return int(candidates[-1]) if len(candidates) else 0


def _milliseconds(times: Int64Array, timescale: int) -> Int64Array:
    """Rounds to the nearest millisecond, halves away from zero."""
    magnitude = (np.abs(times) * 1000 + timescale // 2) // timescale
    milliseconds: Int64Array = np.sign(times) * magnitude
    return milliseconds


def _merge(
    timed: dict[TrackKind, _TimedTrack],
    video: CodecConfiguration | None,
    audio: CodecConfiguration | None,
) -> Title:
    tracks = list(timed.values())
    pictures = timed.get(TrackKind.VIDEO)
    start_ms = min(track.start_ms for track in tracks)
    dts_ms = np.concatenate([track.dts_ms for track in tracks]) - start_ms
    if int(dts_ms.max()) > TIME_MAX_MS:
        raise invalid(f"the MP4 is longer than {TIME_MAX_MS // 1000} s")
    # Two runs, each in order already: a stable sort only merges them.
    order = np.argsort(dts_ms, kind="stable")
    return Title(
        video=video,
        audio=audio,
        # What runs before the movie's own beginning (frames decoded ahead, an encoder's delay) is
        # no part of its length.
        duration_ms=max(track.end_ms for track in tracks) - max(0, start_ms),
        frame_rate=round(pictures.rate, 3) if pictures else 0.0,
        offset=np.concatenate([track.samples.offset for track in tracks])[order],
        size=np.concatenate([track.samples.size_bytes for track in tracks])[order],
        dts_ms=dts_ms[order].astype(np.uint32),
        composition_ms=np.concatenate([track.composition_ms for track in tracks])[order].astype(
            np.int32
        ),
        is_key=np.concatenate([track.samples.is_sync for track in tracks])[order],
        is_video=np.concatenate(
            [
                np.full(track.samples.count, kind is TrackKind.VIDEO, np.bool_)
                for kind, track in timed.items()
            ]
        )[order],
    )
