"""Container files through the library: every frame, seeks, one run for all viewers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from streamedge.media.flv import tags as flv
from streamedge.media.medium import End, Medium, NeedData, Position, Skip
from tests.media.test_library import asset, titles_of
from tests.media.test_packager import edge_of
from tests.support.media.container_samples import (
    CLASSIC,
    ENHANCED,
    container_file,
    expected,
)
from tests.support.patience import PATIENCE_S
from tests.support.rtmp.rtmp_media import Demuxed, demux

START = Position(0, 0)
TOLERANCE_MS = 1


async def play(medium: Medium, position: Position = START, length_ms: int = 1000) -> bytes:
    """The media from a position to the end, as an FLV."""
    head = medium.head
    parts = [flv.file_header(has_audio=bool(head.metadata["hasAudio"]), has_video=head.has_video)]
    parts += [flv.tag(kind, body, 0) for kind, body in medium.sequence_headers(position)]
    while True:
        run = medium.next_run(position, length_ms, None)
        if isinstance(run, End):
            return b"".join(parts)
        if isinstance(run, NeedData):
            await ready(medium, run)
        elif isinstance(run, Skip):
            position = run.following
        else:
            parts.append(await run.reader.read(run.span))
            position = run.following


async def ready(medium: Medium, needed: NeedData) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_ready(failure: Exception | None) -> None:
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(failure)

    cancel = medium.when_ready(needed.span, on_ready)
    async with asyncio.timeout(PATIENCE_S):
        await future
    cancel()


def _record(data: bytes) -> bytes:
    """A codec's configuration. FFmpeg writes FLAC's without the start of a FLAC file."""
    return data.removeprefix(b"fLaC\x80\0\0\x22")


def assert_equal_packets(played: Demuxed, expected: Demuxed) -> None:
    """Compares two plays. FFmpeg rounds the times of copied audio once more."""
    assert played.codecs == expected.codecs
    assert {kind: _record(data) for kind, data in played.extradata.items()} == expected.extradata
    assert played.packets.keys() == expected.packets.keys()
    for kind, packets in expected.packets.items():
        received = played.packets[kind]
        assert [packet.digest for packet in received] == [packet.digest for packet in packets]
        assert [packet.is_keyframe for packet in received] == [
            packet.is_keyframe for packet in packets
        ]
        for packet, other in zip(received, packets, strict=True):
            assert abs(packet.dts_ms - other.dts_ms) <= TOLERANCE_MS
            assert abs(packet.pts_ms - other.pts_ms) <= TOLERANCE_MS


@pytest.mark.parametrize("length_ms", [0, 1000])
@pytest.mark.parametrize("name", [*CLASSIC, *ENHANCED])
async def test_every_frame_equals_ffmpegs_copy(cache_root: Path, name: str, length_ms: int) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        server.put(name, container_file(name))
        titles = titles_of(cache)
        medium = await titles.open(asset(origin, name))
        played = demux(await play(medium, length_ms=length_ms))
        assert_equal_packets(played, expected(name))
        medium.close()
        await titles.close()
