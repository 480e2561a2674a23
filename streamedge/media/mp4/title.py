"""A title: the index of an MP4, ready to be played or packaged.

Chooses the tracks, and merges them into one sample table in decoding order, in milliseconds. Does
not read samples.

Milliseconds are rounded as FFmpeg's muxers round: decoding and presentation times each to the
nearest, halves away from zero, and then shifted so that the smallest decoding time is 0.

All readable tracks are played: an unreadable track does not affect the others, and samples past the
end of the file do not affect those before it. ``Title.faults`` lists the omitted parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamedge.errors import MediaError, MediaFault
from streamedge.media.faults import invalid
from streamedge.media.languages import UNDETERMINED
from streamedge.media.mp4.codecs import (
    CodecConfiguration,
    SampleDescription,
    TrackKind,
    UnsupportedCodec,
    parse_stsd,
)
from streamedge.media.mp4.edit_list import Edited, apply_edits
from streamedge.media.mp4.fragments import Run, start_at_edit, with_fragments
from streamedge.media.mp4.moov import Movie, Track
from streamedge.media.mp4.sample_table import (
    SAMPLES_MAX,
    BoolArray,
    Int64Array,
    SampleTable,
    TooManySamplesError,
    UInt32Array,
    read_sample_table,
)
from streamedge.media.track_choice import (
    DEFAULT_TRACKS,
    AudioLabel,
    TrackChoice,
    choose_audio,
)

TIME_MAX_MS = (1 << 31) - 1  # 24 days; FLV's extended timestamp is signed
COMPOSITION_MAX_MS = (1 << 23) - 1  # FLV's composition time is a signed 24-bit number
CODEC_CHANGES_MAX = 1 << 16  # of one track
SAMPLE_MEMORY_BYTES = 32  # the most that one sample takes in a title and its layout


class CodecChange(NamedTuple):
    """Samples of the codec's kind and track have this configuration from ``row`` on."""

    row: int
    codec: CodecConfiguration
    track_id: int = 0


class OtherAudio(NamedTuple):
    """An audio track that is sent beside the default one. ``title`` may be empty."""

    codec: CodecConfiguration
    language: str
    title: str


@dataclass(frozen=True, slots=True, eq=False)
class Title:
    """Codecs, and one row for each sample in decoding order (video before audio at equal times).

    Arrays are of the smallest types that hold their values. ``offset`` and ``size`` are bytes in
    the source file. ``dts_ms`` begins at 0 and never goes back, ``composition_ms`` is presentation
    minus decoding time. ``is_key`` is True for all audio. ``video`` and ``audio`` are the
    configurations of the first samples; at least one is not None. ``changes`` are the later ones,
    in the order of rows. ``frame_rate`` is 0 without video.

    ``others`` are further audio tracks, whose samples have 1, 2, … in ``track_id`` (None: all
    samples have 0). ``selection`` names the chosen tracks where they are not the default ones:
    "audio1", "all". ``language`` is that of ``audio``.
    """

    video: CodecConfiguration | None
    audio: CodecConfiguration | None
    duration_ms: int
    frame_rate: float
    offset: NDArray[np.integer[Any]]
    size: NDArray[np.integer[Any]]
    dts_ms: NDArray[np.uint32]
    composition_ms: NDArray[np.integer[Any]]
    is_key: BoolArray
    is_video: BoolArray
    changes: tuple[CodecChange, ...] = ()
    faults: tuple[str, ...] = ()
    others: tuple[OtherAudio, ...] = ()
    track_id: NDArray[np.uint8] | None = None
    selection: str = ""
    language: str = UNDETERMINED

    @property
    def count(self) -> int:
        return len(self.offset)

    @property
    def memory_size_bytes(self) -> int:
        """The memory of the tables, in bytes."""
        tables = (
            self.offset, self.size, self.dts_ms, self.composition_ms, self.is_key, self.is_video
        )  # fmt: skip
        track_bytes = 0 if self.track_id is None else self.track_id.nbytes
        return sum(table.nbytes for table in tables) + track_bytes + 4096


@dataclass(frozen=True, slots=True, eq=False)
class _PlayedTrack:
    """The samples of a track as they are sent, with times in ms, not yet shifted to begin at 0."""

    kind: TrackKind
    offset: Int64Array
    size: UInt32Array
    is_sync: BoolArray
    dts_ms: Int64Array
    composition_ms: Int64Array
    codec: CodecConfiguration
    changes: tuple[CodecChange, ...]  # rows count the samples of the track
    end_ms: int
    rate: float  # samples per second
    faults: tuple[str, ...]
    language: str
    title: str

    @property
    def count(self) -> int:
        return len(self.offset)


def build_title(
    movie: Movie,
    file_size_bytes: int,
    memory_bytes: int | None = None,
    choice: TrackChoice = DEFAULT_TRACKS,
) -> Title:
    """Chooses the first enabled playable track of each kind, or the audio of ``choice``, and merges
    their samples.

    ``memory_bytes`` limits the memory of the index, None for SAMPLES_MAX alone. Raises MediaError:
    NO_SUPPORTED_TRACK when no track can be sent (the message names their codecs), NO_SUCH_TRACK
    when the movie does not have the chosen one, STRUCTURE_INVALID when no sample table can be read,
    the index is too large, or times exceed the range of FLV.
    """
    samples_max = SAMPLES_MAX
    if memory_bytes is not None:
        samples_max = min(SAMPLES_MAX, memory_bytes // SAMPLE_MEMORY_BYTES)
    sounds = [track for track in movie.tracks if track.handler == "soun"]
    labels = [AudioLabel(track.language, track.is_enabled) for track in sounds]
    # Before the sample tables are read: a wrong choice costs little.
    numbers = choose_audio(labels, choice.audio)
    videos = [track for track in movie.tracks if track.handler == "vide"]
    # sorted() is stable: enabled tracks in the file's order, then disabled ones.
    videos.sort(key=lambda track: not track.is_enabled)
    reading = _Reading(movie, file_size_bytes, samples_max, faults=list(movie.faults))
    reading.read(videos, TrackKind.VIDEO, 1)
    audio = reading.read(
        [sounds[number] for number in numbers],
        TrackKind.AUDIO,
        len(sounds) if choice.is_multitrack else 1,
    )
    if choice.audio and not audio:
        reasons = "; ".join([*reading.faults, *reading.unsupported]) or "it is empty"
        raise MediaError(
            MediaFault.NO_SUPPORTED_TRACK,
            f"the chosen audio {choice.audio!r} cannot be played: {reasons}",
        )
    tracks = reading.tracks
    if not tracks:
        raise _nothing_to_play(movie, reading.unsupported, reading.faults, reading.is_empty)
    if sum(int(track.size.sum(dtype=np.int64)) for track in tracks) > _repeatable(
        file_size_bytes, movie
    ):
        raise invalid("the MP4's samples are larger than the file: its index is damaged")
    selection = ""
    if len(audio) > 1:
        selection = "all"
    elif choice.audio and audio[0] is not sounds[choose_audio(labels, "")[0]]:
        selection = f"audio{sounds.index(audio[0])}"
    return _merge(tracks, reading.all_faults, selection)


@dataclass(slots=True, eq=False)
class _Reading:
    """The tracks of a movie that were read so far, and the reasons why others were not."""

    movie: Movie
    file_size_bytes: int
    samples_max: int
    faults: list[str]
    unsupported: list[str] = field(default_factory=list)
    tracks: list[_PlayedTrack] = field(default_factory=list)
    is_empty: bool = False  # a track without samples was left out

    @property
    def all_faults(self) -> tuple[str, ...]:
        return (
            *self.faults,
            *(f"a track that cannot be played: {name}" for name in self.unsupported),
        )

    def read(self, candidates: list[Track], kind: TrackKind, count: int) -> list[Track]:
        """Reads the first ``count`` playable tracks of ``candidates``, and returns them."""
        played: list[Track] = []
        for track in candidates:
            if len(played) == count:
                break
            samples = self._samples(track, kind)
            if samples is not None:
                self.tracks.append(samples)
                played.append(track)
        return played

    def _samples(self, track: Track, kind: TrackKind) -> _PlayedTrack | None:
        try:
            descriptions = _playable(track, kind, self.unsupported)
            if descriptions is None:
                return None
            samples_left = self.samples_max - sum(other.count for other in self.tracks)
            samples = _read_track(
                track, kind, descriptions, self.movie, self.file_size_bytes, samples_left
            )
        except TooManySamplesError:
            raise
        except MediaError as exc:
            self.faults.append(f"{kind.name.lower()} track {track.track_id}: {exc}")
            return None
        self.is_empty = self.is_empty or samples is None
        return samples


def _repeatable(file_size_bytes: int, movie: Movie) -> int:
    """The largest possible sum of sample sizes: the file's size times the number of edits."""
    return file_size_bytes * max([1, *(len(track.edits) for track in movie.tracks)])


def _nothing_to_play(
    movie: Movie, unsupported: list[str], faults: list[str], is_empty: bool
) -> MediaError:
    if is_empty and movie.is_fragmented:
        return MediaError(
            MediaFault.NO_SUPPORTED_TRACK,
            "the fragmented MP4 has no samples: its recording or upload was not finished",
        )
    if faults:
        return invalid("; ".join(faults))
    if is_empty:
        return MediaError(MediaFault.NO_SUPPORTED_TRACK, "the file's tracks are empty")
    names = ", ".join(unsupported) or "no audio or video at all"
    return MediaError(
        MediaFault.NO_SUPPORTED_TRACK, f"the file has no track that can be played: {names}"
    )


def _playable(
    track: Track, kind: TrackKind, unsupported: list[str]
) -> tuple[SampleDescription, ...] | None:
    """The track's sample descriptions, if at least one has a supported codec."""
    descriptions = parse_stsd(track.stsd, kind)
    names = [each.codec.name for each in descriptions if isinstance(each.codec, UnsupportedCodec)]
    unsupported += names
    return descriptions if len(names) < len(descriptions) else None


def _read_track(
    track: Track,
    kind: TrackKind,
    descriptions: tuple[SampleDescription, ...],
    movie: Movie,
    file_size_bytes: int,
    samples_max: int,
) -> _PlayedTrack | None:
    """Reads a track's tables, applies its edit list, and drops samples that cannot be sent.

    None when the track is empty.
    """
    table = _sample_table(track, kind, movie, samples_max)
    if table.count == 0:
        return None
    table = _of_one_codec(table, descriptions)
    if table.count == 0:
        raise invalid("none of its samples has a description that can be played")
    _check_time(table.end, track)
    edited = _edited(table, track, kind, movie, samples_max)
    sendable, lost = _sendable(table, edited.rows, file_size_bytes)
    faults = (f"{lost} of {len(edited.rows)} {kind.name.lower()} samples lie past the file's end",)
    if len(sendable) < len(edited.rows):
        edited = Edited(*(values[sendable] for values in edited))
    rows, dts, pts = edited
    _check_time(int(np.abs(dts).max()), track)
    # Presentation times stay. Decoding times never go back, even where edits overlap.
    pts_ms = _milliseconds(pts, track.timescale)
    dts_ms = np.maximum.accumulate(_milliseconds(dts, track.timescale))
    composition_ms = pts_ms - dts_ms
    is_sane = np.abs(composition_ms) <= COMPOSITION_MAX_MS
    composition_ms = np.clip(composition_ms, -COMPOSITION_MAX_MS, COMPOSITION_MAX_MS)
    codec, *changes = _codec_changes(table.description[rows], descriptions)
    last_duration = table.end - int(table.dts[-1])
    last_ms = int(pts_ms.max(where=is_sane, initial=int(dts_ms[-1])))
    presented = int(dts[-1]) - int(dts[0]) + last_duration
    return _PlayedTrack(
        kind,
        table.offset[rows],
        table.size_bytes[rows],
        table.is_sync[rows],
        dts_ms,
        composition_ms,
        codec.codec,
        tuple(changes),
        last_ms + int(_milliseconds(np.array([last_duration]), track.timescale)[0]),
        rate=len(rows) * track.timescale / presented if presented > 0 else 0.0,
        faults=faults if lost else (),
        language=track.language,
        title=track.title,
    )


def _edited(
    table: SampleTable, track: Track, kind: TrackKind, movie: Movie, rows_max: int
) -> Edited:
    """The samples of a track as its edit list has them."""
    if _runs(track, movie):
        return start_at_edit(
            table, track.edits, timescale=track.timescale, movie_timescale=movie.timescale
        )
    return apply_edits(
        table,
        # Without edits if the tables contradict each other, as in FFmpeg.
        () if table.is_overfull else track.edits,
        timescale=track.timescale,
        movie_timescale=movie.timescale,
        is_audio=kind is TrackKind.AUDIO,
        rows_max=rows_max,
    )


def _sendable(
    table: SampleTable, rows: NDArray[np.intp], file_size_bytes: int
) -> tuple[NDArray[np.intp], int]:
    """Which of ``rows`` have bytes in the file, and how many lie past its end."""
    is_in_file = table.offset[rows] + table.size_bytes[rows] <= file_size_bytes
    has_data = table.size_bytes[rows] > 0
    lost = int(np.count_nonzero(~is_in_file & has_data))
    sendable = np.flatnonzero(is_in_file & has_data)
    if len(sendable) == 0:
        raise invalid(
            "the MP4 is cut off: all of its samples lie past the file's end"
            if lost
            else "an MP4 track has only empty samples"
        )
    return sendable, lost


def _runs(track: Track, movie: Movie) -> Sequence[Run]:
    """The samples of a track in fragments."""
    return movie.fragments.runs.get(track.track_id, ())


def _sample_table(track: Track, kind: TrackKind, movie: Movie, samples_max: int) -> SampleTable:
    """The samples of a track in moov and in fragments."""
    runs = _runs(track, movie)
    always_sync = kind is TrackKind.AUDIO
    table = read_sample_table(track.stbl, always_sync=always_sync, samples_max=samples_max)
    if not runs:
        return table
    shift = movie.fragments.shift_s * track.timescale
    return with_fragments(
        table, runs, shift=shift, always_sync=always_sync, samples_max=samples_max
    )


def _check_time(time: int, track: Track) -> None:
    """Raises MediaError for a time, in the track's units, that FLV cannot have."""
    if time > TIME_MAX_MS * track.timescale // 1000:
        raise invalid(f"an MP4 track is longer than {TIME_MAX_MS // 1000} s or starts too late")


def _of_one_codec(table: SampleTable, descriptions: tuple[SampleDescription, ...]) -> SampleTable:
    """The samples of the first playable description, and of others of its type.

    If there is a single description and no sample has its number, all samples are returned.
    """
    entry_type = next(
        each.type for each in descriptions if isinstance(each.codec, CodecConfiguration)
    )
    is_played = np.array(
        [each.type == entry_type for each in descriptions] + [len(descriptions) > 1]
    )
    mask = is_played[np.minimum(table.description, len(descriptions))]
    if mask.all() or (len(descriptions) == 1 and not mask.any()):
        return table
    return table.only(mask)


def _codec_changes(
    description: UInt32Array, descriptions: tuple[SampleDescription, ...]
) -> Iterator[CodecChange]:
    """The codec of the first sample, and where it changes."""
    starts = np.concatenate(([0], np.flatnonzero(np.diff(description)) + 1))
    if len(starts) > CODEC_CHANGES_MAX:
        raise invalid(f"an MP4 track changes its codec description over {CODEC_CHANGES_MAX} times")
    codecs = [each.codec for each in descriptions if isinstance(each.codec, CodecConfiguration)]
    current: CodecConfiguration | None = None
    for row in starts.tolist():
        number = int(description[row])
        codec = descriptions[number].codec if number < len(descriptions) else codecs[0]
        if isinstance(codec, UnsupportedCodec):
            codec = current or codecs[0]  # of the same type, but damaged
        if codec != current:
            current = codec
            yield CodecChange(row, codec)


def _milliseconds(times: Int64Array, timescale: int) -> Int64Array:
    """Rounds to the nearest millisecond, halves away from zero."""
    magnitude = (np.abs(times) * 1000 + timescale // 2) // timescale
    milliseconds: Int64Array = np.sign(times) * magnitude
    return milliseconds


def _merge(tracks: list[_PlayedTrack], faults: tuple[str, ...], selection: str) -> Title:
    """``tracks``: the video, then the default audio, then other audio tracks."""
    sounds = [track for track in tracks if track.kind is TrackKind.AUDIO]
    video = tracks[0] if tracks[0].kind is TrackKind.VIDEO else None
    audio = sounds[0] if sounds else None
    others = sounds[1:]
    track_ids = [0] * (len(tracks) - len(others)) + list(range(1, len(others) + 1))
    start_ms = min(int(track.dts_ms[0]) for track in tracks)
    dts_ms = np.concatenate([track.dts_ms for track in tracks]) - start_ms
    if int(dts_ms.max()) > TIME_MAX_MS:
        raise invalid(f"the MP4 is longer than {TIME_MAX_MS // 1000} s")
    # Each track is in order already: a stable sort only merges them.
    order = np.argsort(dts_ms, kind="stable")
    return Title(
        video=video.codec if video else None,
        audio=audio.codec if audio else None,
        # Samples before the start of the movie (frames for decoding, an encoder's delay) do not
        # count.
        duration_ms=max(track.end_ms for track in tracks) - max(0, start_ms),
        frame_rate=round(video.rate, 3) if video else 0.0,
        offset=_narrow(np.concatenate([track.offset for track in tracks]))[order],
        size=_narrow(np.concatenate([track.size for track in tracks]))[order],
        dts_ms=dts_ms[order].astype(np.uint32),
        composition_ms=_narrow(np.concatenate([track.composition_ms for track in tracks]))[order],
        is_key=np.concatenate([track.is_sync for track in tracks])[order],
        is_video=np.concatenate(
            [np.full(track.count, track.kind is TrackKind.VIDEO, np.bool_) for track in tracks]
        )[order],
        changes=_merged_changes(tracks, track_ids, order),
        faults=faults + tuple(fault for track in tracks for fault in track.faults),
        others=tuple(OtherAudio(track.codec, track.language, track.title) for track in others),
        track_id=np.repeat(np.array(track_ids, np.uint8), [track.count for track in tracks])[order]
        if others
        else None,
        selection=selection,
        language=audio.language if audio else UNDETERMINED,
    )


def _narrow(values: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """The same values in the smallest type that holds them."""
    low, high = int(values.min()), int(values.max())
    return values.astype(np.result_type(np.min_scalar_type(low), np.min_scalar_type(high)))


def _merged_changes(
    tracks: list[_PlayedTrack], track_ids: list[int], order: NDArray[np.intp]
) -> tuple[CodecChange, ...]:
    if not any(track.changes for track in tracks):
        return ()
    merged_row = np.empty(len(order), np.intp)
    merged_row[order] = np.arange(len(order))
    base = 0
    changes: list[CodecChange] = []
    for track, track_id in zip(tracks, track_ids, strict=True):
        changes += [
            CodecChange(int(merged_row[base + change.row]), change.codec, track_id)
            for change in track.changes
        ]
        base += track.count
    return tuple(sorted(changes, key=lambda change: change.row))
