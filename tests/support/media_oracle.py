"""Helpers of the media tests: feeding incremental parsers, and FFmpeg's view of a file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Generator
from fractions import Fraction
from typing import NamedTuple, TypeVar

import av

from streamedge.media.flv.layout import FlvLayout
from streamedge.media.mp4.moov import locate_moov, parse_moov
from streamedge.media.mp4.title import Title, build_title
from streamedge.spans import Span

Result = TypeVar("Result")
MOOV_LIMIT_BYTES = 64 << 20
ASKS_MAX = 1000


def feed(parser: Generator[Span, bytes, Result], data: bytes) -> tuple[Result, list[Span]]:
    """Runs a parser that asks for bytes; returns its result and what it asked for."""
    asked: list[Span] = []
    try:
        span = next(parser)
        while True:
            asked.append(span)
            assert 0 <= span.start < span.end
            assert len(asked) <= ASKS_MAX
            span = parser.send(data[span.start : span.end])
    except StopIteration as stop:
        result: Result = stop.value
        return result, asked


def title_of(data: bytes) -> Title:
    moov, _ = feed(locate_moov(len(data), MOOV_LIMIT_BYTES), data)
    return build_title(parse_moov(data[moov.start : moov.end]), len(data))


def sources_of(layout: FlvLayout, span: Span, data: bytes) -> list[bytes]:
    return [data[wanted.start : wanted.end] for wanted in layout.plan(span)]


def flv_of(layout: FlvLayout, data: bytes) -> bytes:
    whole = Span(0, layout.size_bytes)
    return layout.assemble(whole, sources_of(layout, whole, data))


class Packet(NamedTuple):
    dts_ms: int
    pts_ms: int
    is_keyframe: bool
    digest: str


class Demuxed(NamedTuple):
    """By stream type: packets moved so that the earliest dts is 0, extradata, codec name."""

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
    start_ms = min(found[0].dts_ms for found in packets.values() if found)
    moved = {
        kind: [
            packet._replace(dts_ms=packet.dts_ms - start_ms, pts_ms=packet.pts_ms - start_ms)
            for packet in found
        ]
        for kind, found in packets.items()
    }
    return Demuxed(moved, extradata, codecs)


def _milliseconds(time: int, time_base: Fraction) -> int:
    """To the nearest, halves away from zero, as FFmpeg rescales."""
    exact = time * time_base * 1000
    magnitude = int(abs(exact) + Fraction(1, 2))
    return magnitude if exact >= 0 else -magnitude
