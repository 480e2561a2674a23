"""Helpers of the media tests: feeding incremental parsers, and reading a file with FFmpeg."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Generator
from fractions import Fraction
from typing import NamedTuple, TypeVar

import av

from streamedge.media.flv.layout import FlvLayout
from streamedge.media.mp4.fragment_search import Budget, Section, walk_section
from streamedge.media.mp4.moov import locate_moov, parse_fragmented, parse_moov
from streamedge.media.mp4.title import Title, build_title
from streamedge.spans import Span

Result = TypeVar("Result")
MOOV_LIMIT_BYTES = 64 << 20
REQUESTS_MAX = 1000


def feed(parser: Generator[Span, bytes, Result], data: bytes) -> tuple[Result, list[Span]]:
    """Runs a parser that requests bytes; returns its result and the requested spans."""
    requests: list[Span] = []
    try:
        span = next(parser)
        while True:
            requests.append(span)
            assert 0 <= span.start < span.end
            assert len(requests) <= REQUESTS_MAX
            span = parser.send(data[span.start : span.end])
    except StopIteration as stop:
        result: Result = stop.value
        return result, requests


def title_of(data: bytes) -> Title:
    moov, _ = feed(locate_moov(len(data), MOOV_LIMIT_BYTES), data)
    movie = parse_moov(data[moov.start : moov.end])
    if movie.is_fragmented:
        fragments = fragments_of(data, moov.end)
        movie = parse_fragmented(data[moov.start : moov.end], fragments.moofs)
    return build_title(movie, len(data))


def fragments_of(data: bytes, start: int) -> Section:
    """The fragments from ``start`` on, read box by box."""
    walk = walk_section(len(data), Span(start, len(data)), Budget(MOOV_LIMIT_BYTES))
    return feed(walk, data)[0]


def sources_of(layout: FlvLayout, span: Span, data: bytes) -> list[bytes]:
    return [data[source.start : source.end] for source in layout.plan(span)]


def flv_of(layout: FlvLayout, data: bytes) -> bytes:
    whole = Span(0, layout.size_bytes)
    return layout.assemble(whole, sources_of(layout, whole, data))


class Packet(NamedTuple):
    dts_ms: int
    pts_ms: int
    is_keyframe: bool
    digest: str


class Demuxed(NamedTuple):
    """By stream type: packets shifted so that the earliest dts is 0, extradata, codec name."""

    packets: dict[str, list[Packet]]
    extradata: dict[str, bytes]
    codecs: dict[str, str]


def demux(data: bytes) -> Demuxed:
    packets: dict[str, list[Packet]] = {}
    extradata: dict[str, bytes] = {}
    codecs: dict[str, str] = {}
    with av.open(io.BytesIO(data), "r") as container:
        for stream in container.streams:
            packets[stream.type] = []
            extradata[stream.type] = bytes(stream.codec_context.extradata or b"")
            codecs[stream.type] = stream.codec_context.name
        for packet in container.demux():
            if packet.dts is None or packet.pts is None:
                continue
            packets[packet.stream.type].append(
                Packet(
                    _milliseconds(packet.dts, packet.time_base),
                    _milliseconds(packet.pts, packet.time_base),
                    packet.is_keyframe,
                    hashlib.sha256(bytes(packet)).hexdigest(),
                )
            )
    start_ms = min(
        stream_packets[0].dts_ms for stream_packets in packets.values() if stream_packets
    )
    shifted = {
        kind: [
            packet._replace(dts_ms=packet.dts_ms - start_ms, pts_ms=packet.pts_ms - start_ms)
            for packet in stream_packets
        ]
        for kind, stream_packets in packets.items()
    }
    return Demuxed(shifted, extradata, codecs)


def _milliseconds(time: int, time_base: Fraction) -> int:
    """Rounds to the nearest, halves away from zero, as FFmpeg does."""
    exact = time * time_base * 1000
    magnitude = int(abs(exact) + Fraction(1, 2))
    return magnitude if exact >= 0 else -magnitude
