"""The media helper: a process that reads one container file by PyAV (libavformat).

``python -m streamedge.media.containers.helper DESCRIPTOR MEMORY_BYTES TIME_S``. It gets the file's
bytes and all requests over the socket DESCRIPTOR (``framing``). Before the first of them it gives
up what it does not need: it can open no file and no socket, start no program, signal no process,
and take no more than MEMORY_BYTES of address space. A request that takes more than TIME_S of
processor time ends it. It reads one version of one file in its life, so a hostile file cannot
change what is made of another.

Only this module, ``helper_process`` and ``poster_helper`` import PyAV.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import av
import av.subtitles.codeccontext
import av.subtitles.stream  # now, because later no file can be opened
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from streamedge.errors import MediaError
from streamedge.media.containers import codecs
from streamedge.media.containers.clock import BACK_MAX_MS, Clock, is_jumping
from streamedge.media.containers.cutting import (
    AUDIO_SEGMENT_MS,
    INTERLEAVE_MS,
    VIDEO_SEGMENT_MS,
    Cutter,
    Sample,
    decode_times,
)
from streamedge.media.containers.helper_process import (
    Connection,
    RemoteFile,
    answer_requests,
    run_helper,
)
from streamedge.media.containers.segment import SegmentFlag, SegmentTag, encode_segment
from streamedge.media.flv import tags as flv
from streamedge.media.mp4 import boxes
from streamedge.media.mp4.codecs import (
    CodecConfiguration,
    TrackKind,
    UnsupportedCodec,
    parse_stsd,
)

COMPOSITION_MAX_MS = (1 << 23) - 1  # FLV's composition time is a signed 24-bit number
PROBES = 16  # places of an MPEG-TS whose times are compared before the first seek
SEEK_EARLIER_MS = 10_000  # when a seek ended too late
STREAMS_MAX = 64
PRIMED_MAX = 10_000  # packets read until each track has shown its first one

MPEG_TS = "mpegts"

AnyPacket: TypeAlias = "Packet[Any]"

BUFFER_BYTES = 64 << 10
_TICKS_PER_S = 1_000_000  # of libavformat's durations


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """A playable stream. ``convert`` makes FLV's form of a packet's bytes."""

    index: int
    codec: CodecConfiguration
    convert: Callable[[bytes], bytes]
    frame_ticks: int  # about the duration of a frame, in units of the stream's time base
    milliseconds: Callable[[int], int]


def _rounded_ms(numerator: int, denominator: int, ticks: int) -> int:
    """A time in milliseconds, rounded to the nearest, halves away from zero."""
    magnitude = (abs(ticks) * numerator * 1000 + denominator // 2) // denominator
    return magnitude if ticks >= 0 else -magnitude


class Source:
    """An open container. ``head`` is a value for JSON, which ``container_head`` reads."""

    def __init__(self, file: RemoteFile, container_format: str) -> None:
        self._file = file
        self._format = container_format
        self._container = self._open()
        self._first_packets = self._read_first_packets()
        self._tracks: dict[int, Track] = {}
        self._reasons: dict[int, str] = {}
        for stream in self._streams():
            packet = next((one for one in self._first_packets if one.stream is stream), None)
            track = _track(stream, packet)
            if isinstance(track, Track):
                self._tracks[stream.index] = track
            else:
                self._reasons[stream.index] = track
        firsts: dict[int, int] = {}
        for sample in self._samples_from_start(None):
            firsts.setdefault(sample.track, sample.dts_ms)
            if len(firsts) == len(self._tracks) or sample.dts_ms > (
                min(firsts.values()) + INTERLEAVE_MS
            ):
                break
        self._start_ms = min(firsts.values(), default=0)
        self.has_video = any(track.codec.kind is TrackKind.VIDEO for track in self._tracks.values())
        self.segment_ms = VIDEO_SEGMENT_MS if self.has_video else AUDIO_SEGMENT_MS
        self._clock_jumps: bool | None = None if container_format == MPEG_TS else False
        self._chosen: tuple[int, ...] = ()
        self._cutter: Cutter | None = None

    def answer(self, request: Mapping[str, Any]) -> bytes:
        """The head as JSON, or the segment that is requested."""
        if request["segment"] is None:
            return json.dumps(self.head).encode()
        return self.segment(request["segment"], tuple(request["tracks"]))

    @property
    def head(self) -> dict[str, Any]:
        duration = self._container.duration
        return {
            "duration_ms": 0 if duration is None else max(0, duration * 1000 // _TICKS_PER_S),
            "segment_ms": self.segment_ms,
            "tracks": [self._track_value(stream) for stream in self._streams()],
        }

    def segment(self, number: int, chosen: tuple[int, ...]) -> bytes:
        """The bytes of a segment with the samples of the tracks ``chosen``."""
        cutter = self._cutter
        if cutter is None or chosen != self._chosen or not cutter.reaches(number):
            cutter = self._cutter_before(number, chosen)
        self._cutter, self._chosen = None, chosen
        samples, following = cutter.cut(number)
        segment = encode_segment([self._tag(sample) for sample in samples], following)
        self._cutter = cutter
        return segment

    def _open(self) -> Any:
        self._file.seek(0)
        return av.open(
            self._file,
            mode="r",
            format=self._format,
            metadata_errors="replace",
            buffer_size=BUFFER_BYTES,
        )

    def _streams(self) -> list[Stream]:
        return [
            stream
            for stream in list(self._container.streams)[:STREAMS_MAX]
            if stream.type in ("video", "audio")
            and not stream.disposition & Disposition.attached_pic
        ]

    def _track_value(self, stream: Stream) -> dict[str, Any]:
        value: dict[str, Any] = {
            "index": stream.index,
            "kind": stream.type,
            "language": str(stream.metadata.get("language", "und"))[:35],
            "is_default": bool(stream.disposition & Disposition.default),
        }
        track = self._tracks.get(stream.index)
        if track is None:
            return value | {"reason": self._reasons[stream.index]}
        codec = track.codec
        record = codec.sequence_header
        return value | {
            "four_cc": codec.four_cc,
            "classic_id": codec.classic_id,
            "record": None if record is None else record.hex(),
            "width": codec.width,
            "height": codec.height,
            "sample_rate": codec.sample_rate,
            "channels": codec.channels,
            "frame_rate": _frame_rate(stream),
        }

    def _read_first_packets(self) -> list[AnyPacket]:
        """The packets from the start on, until each stream has shown one."""
        missing = {stream.index for stream in self._streams()}
        first_ms: int | None = None
        packets: list[AnyPacket] = []
        for packet in self._packets(tuple(missing)):
            if packet.size == 0:
                continue
            packets.append(packet)
            missing.discard(packet.stream_index)
            ticks = packet.pts if packet.dts is None else packet.dts
            if ticks is not None and packet.time_base is not None:
                now_ms = int(ticks * packet.time_base * 1000)
                first_ms = now_ms if first_ms is None else first_ms
                if now_ms > first_ms + INTERLEAVE_MS:
                    break
            if not missing or len(packets) >= PRIMED_MAX:
                break
        return packets

    def _cutter_before(self, number: int, chosen: tuple[int, ...]) -> Cutter:
        """A cutter whose samples begin early enough for a segment."""
        start_ms = number * self.segment_ms
        for earlier_ms in (INTERLEAVE_MS, INTERLEAVE_MS + SEEK_EARLIER_MS):
            if start_ms <= earlier_ms or self._has_clock_jumps(chosen):
                break
            samples = self._samples_from(start_ms - earlier_ms, chosen)
            first = next(samples, None)
            if first is not None and first.dts_ms <= start_ms - INTERLEAVE_MS // 2:
                return Cutter(samples, chosen, self.segment_ms, start_ms)
        self._container.close()
        self._container = self._open()
        self._first_packets = []
        return Cutter(
            self._samples_from_start(self._start_ms, chosen), chosen, self.segment_ms, start_ms
        )

    def _samples_from(self, time_ms: int, chosen: tuple[int, ...]) -> Iterator[Sample]:
        """The samples from a keyframe, or a byte position, at or before a time."""
        stream = next((one for one in self._container.streams if one.index == chosen[0]), None)
        if stream is None:  # it appears late, and the file was opened again
            return iter(())
        ticks = (
            (time_ms + self._start_ms)
            * stream.time_base.denominator
            // (1000 * stream.time_base.numerator)
        )
        try:
            self._container.seek(ticks, stream=stream, backward=True)
        except av.FFmpegError:
            return iter(())
        return self._samples(self._packets(chosen), self._start_ms, knows_start=False)

    def _samples_from_start(
        self, start_ms: int | None, chosen: tuple[int, ...] | None = None
    ) -> Iterator[Sample]:
        """``start_ms``: as ``_sample``. ``chosen``: None for all tracks."""
        first, self._first_packets = self._first_packets, []
        indexes = tuple(self._tracks) if chosen is None else chosen

        def packets() -> Iterator[AnyPacket]:
            yield from (packet for packet in first if packet.stream_index in indexes)
            yield from self._packets(indexes)

        return self._samples(packets(), start_ms, knows_start=True)

    def _packets(self, indexes: tuple[int, ...]) -> Iterator[AnyPacket]:
        """The packets of streams, up to the file's end or to damage that stops the demuxer."""
        streams = [stream for stream in self._container.streams if stream.index in indexes]
        try:
            yield from self._container.demux(*streams) if streams else ()
        except MemoryError:
            raise
        except (av.FFmpegError, IndexError):
            # PyAV raises IndexError at the end of a file in which streams have appeared late.
            return

    def _samples(
        self, packets: Iterator[AnyPacket], start_ms: int | None, *, knows_start: bool
    ) -> Iterator[Sample]:
        """The samples of packets. ``knows_start``: they begin at the file's start."""
        clock = Clock()
        latest_ms: dict[int, int] = {}
        for packet in self._with_decode_times(packets, knows_start=knows_start):
            track = self._tracks[packet.stream_index]
            shift_ms = 0
            if start_ms is not None and packet.dts is not None:
                time_ms = track.milliseconds(packet.dts) - start_ms
                if self._format == MPEG_TS:
                    frame_ms = track.milliseconds(packet.duration or track.frame_ticks)
                    shift_ms = clock.shift_ms(track.index, time_ms, frame_ms)
                    self._clock_jumps = clock.has_jumped or self._clock_jumps
                elif time_ms < latest_ms.get(track.index, time_ms) - BACK_MAX_MS:
                    return  # a medium with one clock ends here
            origin_ms = None if start_ms is None else start_ms - shift_ms
            sample = _sample(packet, track, origin_ms, latest_ms)
            if sample is not None:
                yield sample

    def _with_decode_times(
        self, packets: Iterator[AnyPacket], *, knows_start: bool
    ) -> Iterator[AnyPacket]:
        """Packets that have data and a decoding time.

        Matroska has presentation times only. libavformat computes decoding times, and does not
        know those of the first frames: at the start they are made up, elsewhere the frames are
        left out.
        """
        waiting: dict[int, list[AnyPacket]] = {}
        begun: set[int] = set()  # tracks with a decoding time
        for packet in packets:
            if packet.size == 0:
                continue
            index = packet.stream_index
            if packet.dts is None:
                if index in begun:
                    packet.dts = packet.pts
                else:
                    if packet.pts is not None and knows_start:
                        waiting.setdefault(index, []).append(packet)
                    continue
            begun.add(index)
            before = waiting.pop(index, [])
            _set_decode_times(before, packet.dts, self._tracks[index])
            yield from (*before, packet)
        for index, before in waiting.items():
            _set_decode_times(before, None, self._tracks[index])
            yield from before

    def _has_clock_jumps(self, chosen: tuple[int, ...]) -> bool:
        """Whether times of the file do not say where a frame is, so that a seek would mislead."""
        if self._clock_jumps is None:
            times_ms = [self._time_at(part / PROBES, chosen) for part in range(PROBES)]
            self._clock_jumps = is_jumping([one for one in times_ms if one is not None])
        return self._clock_jumps

    def _time_at(self, part: float, chosen: tuple[int, ...]) -> int | None:
        """The first decoding time behind a place of the file."""
        try:
            position = int(part * self._file.size_bytes)
            self._container.seek(position, unsupported_byte_offset=True)
        except av.FFmpegError:
            return None
        for packet in self._packets(chosen[:1]):
            if packet.dts is not None:
                return self._tracks[packet.stream_index].milliseconds(packet.dts)
        return None

    def _tag(self, sample: Sample) -> SegmentTag:
        codec = self._tracks[sample.track].codec
        has_composition = sample.composition_ms != 0
        header = flv.sample_header(codec, is_key=sample.is_key, has_composition=has_composition)
        if flv.composition_size_bytes(codec, has_composition=has_composition):
            header += (sample.composition_ms & 0xFFFFFF).to_bytes(3, "big")
        flags = SegmentFlag.VIDEO if sample.is_video else SegmentFlag(0)
        if sample.is_video and sample.is_key:
            flags |= SegmentFlag.KEYFRAME
        data = flv.tag(int(codec.kind), header + sample.data, sample.dts_ms)
        return SegmentTag(sample.dts_ms, flags, data)


def _set_decode_times(packets: list[AnyPacket], first_dts: int | None, track: Track) -> None:
    """Sets the decoding times of frames before the first one that has one (None: none has)."""
    if not packets:
        return
    pts = [packet.pts for packet in packets if packet.pts is not None]
    first = min(pts) if first_dts is None else first_dts
    times = decode_times(pts, first, packets[0].duration or track.frame_ticks)
    for packet, dts in zip(packets, times, strict=True):
        packet.dts = dts


def _sample(
    packet: AnyPacket, track: Track, start_ms: int | None, latest_ms: dict[int, int]
) -> Sample | None:
    """The sample of a packet; None if nothing is left of it.

    ``start_ms``: the time in the file at which the medium begins; None to leave times as they are.
    ``latest_ms``: the last time of each track.
    """
    data = track.convert(bytes(packet))
    if not data or packet.dts is None:
        return None
    dts_ms = track.milliseconds(packet.dts)
    pts_ms = track.milliseconds(packet.dts if packet.pts is None else packet.pts)
    if start_ms is not None:
        dts_ms, pts_ms = max(0, dts_ms - start_ms), pts_ms - start_ms
    dts_ms = max(dts_ms, latest_ms.get(track.index, dts_ms))
    latest_ms[track.index] = dts_ms
    is_video = track.codec.kind is TrackKind.VIDEO
    composition_ms = pts_ms - dts_ms if is_video else 0
    if abs(composition_ms) > COMPOSITION_MAX_MS:
        composition_ms = 0
    return Sample(
        track.index, dts_ms, composition_ms, packet.is_keyframe or not is_video, is_video, data
    )


def _frame_rate(stream: Stream) -> float:
    rate = stream.average_rate if isinstance(stream, VideoStream) else None
    return 0.0 if rate is None else round(float(rate), 3)


# libavcodec's name of a codec: FLV's or Enhanced RTMP's.
_MUXED = frozenset({"h264", "hevc", "vp9", "mp3", "opus", "flac"})
_DOLBY: Mapping[str, str] = {"ac3": "ac-3", "eac3": "ec-3"}


def _track(stream: Stream, packet: AnyPacket | None) -> Track | str:
    """The track of a stream, or why it cannot be played."""
    if not isinstance(stream, VideoStream | AudioStream):
        return stream.type
    if not stream.codec_context:  # libavcodec has no decoder
        return f"unknown {stream.type}"
    name = stream.codec_context.codec.canonical_name
    if packet is None:
        return f"{name} without a frame at the start"
    try:
        codec, convert = _codec(stream, name, bytes(packet))
    except (MediaError, av.FFmpegError, ValueError) as exc:
        if isinstance(exc, MemoryError):
            raise
        return f"{name} ({exc})"
    if isinstance(codec, UnsupportedCodec):
        return name
    base = stream.time_base
    if base is None or base <= 0:
        return f"{name} without a time base"
    rate = stream.average_rate if isinstance(stream, VideoStream) else None
    return Track(
        stream.index,
        codec,
        convert,
        int(1 / (rate * base)) if rate else int(1 / (25 * base)),
        partial(_rounded_ms, base.numerator, base.denominator),
    )


def _codec(
    stream: VideoStream | AudioStream, name: str, data: bytes
) -> tuple[CodecConfiguration | UnsupportedCodec, Callable[[bytes], bytes]]:
    record = stream.codec_context.extradata or b""
    if isinstance(stream, VideoStream):
        size = stream.width, stream.height
        if name == "av1":
            if not record.startswith(b"\x81"):  # av1C: marker and version 1
                return UnsupportedCodec(name), bytes
            return CodecConfiguration(TrackKind.VIDEO, "av01", None, record, *size), bytes
        if name == "vp8":
            record = codecs.vp8_configuration()
            return CodecConfiguration(TrackKind.VIDEO, "vp08", None, record, *size), bytes
        if name not in _MUXED:
            return UnsupportedCodec(name), bytes
        is_byte_stream = name in ("h264", "hevc") and not record.startswith(b"\x01")
        return _muxed(stream, TrackKind.VIDEO), codecs.with_lengths if is_byte_stream else bytes
    rate, channels = stream.sample_rate, stream.channels
    if name == "aac":
        if not record or codecs.is_adts(data):
            record = codecs.adts_configuration(data)
        codec = CodecConfiguration(
            TrackKind.AUDIO, "mp4a", 10, record, sample_rate=rate, channels=channels
        )
        return codec, codecs.without_adts
    if name in _DOLBY:
        codec = CodecConfiguration(
            TrackKind.AUDIO, _DOLBY[name], None, b"", sample_rate=rate, channels=channels
        )
        return codec, bytes
    return (_muxed(stream, TrackKind.AUDIO) if name in _MUXED else UnsupportedCodec(name)), bytes


def _muxed(
    stream: VideoStream | AudioStream, kind: TrackKind
) -> CodecConfiguration | UnsupportedCodec:
    """The configuration that libavformat writes into an MP4 for a stream."""
    file = io.BytesIO()
    options = {"movflags": "empty_moov+default_base_moof", "strict": "experimental"}
    with av.open(file, "w", format="mp4", options=options) as muxer:
        muxer.add_stream_from_template(stream)
        muxer.start_encoding()
        moov = file.getvalue()
    stsd = boxes.find(memoryview(moov), "moov", "trak", "mdia", "minf", "stbl", "stsd")
    return UnsupportedCodec("?") if stsd is None else parse_stsd(stsd, kind)[0].codec


def serve(connection: Connection, time_s: int) -> None:
    """Answers requests for the head and for segments until the worker closes the connection."""
    answer_requests(connection, time_s, lambda file, format_: Source(file, format_).answer)


if __name__ == "__main__":
    run_helper(sys.argv[1:], serve)
