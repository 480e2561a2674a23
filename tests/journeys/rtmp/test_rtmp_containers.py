"""Journeys: real players play Matroska, WebM, MPEG-TS and ADTS from a real edge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.media.container_samples import CLASSIC, ENHANCED, container_file, expected
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_players import (
    FFMPEG_5,
    FFMPEG_9,
    PlayedPacket,
    expected_packets,
    ffmpeg,
    flv_packets,
    packets,
    rtmpdump,
)

TOLERANCE_MS = 1  # FFmpeg rounds the times of copied audio once more


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    folder = tmp_path_factory.mktemp("containers")
    films = folder / "films"
    films.mkdir()
    for name in (*CLASSIC, *ENHANCED, "mpeg2.ts"):
        (films / name).write_bytes(container_file(name))
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    with run_edge(folder / "edge", origins, limits='rtmp_ahead = "10h"', workers=2) as running:
        yield running


def assert_equal(
    received: dict[str, list[PlayedPacket]], expected_streams: dict[str, list[PlayedPacket]]
) -> None:
    assert received.keys() == expected_streams.keys()
    for kind, stream in expected_streams.items():
        assert [packet.digest for packet in received[kind]] == [packet.digest for packet in stream]
        for packet, other in zip(received[kind], stream, strict=True):
            assert abs(packet.dts_ms - other.dts_ms) <= TOLERANCE_MS
            assert abs(packet.pts_ms - other.pts_ms) <= TOLERANCE_MS


@pytest.mark.parametrize("exe", [FFMPEG_5, FFMPEG_9], ids=["ffmpeg-5.1", "ffmpeg-9"])
@pytest.mark.parametrize("name", CLASSIC)
async def test_ffmpeg_receives_every_frame(edge: EdgeProcess, name: str, exe: str) -> None:
    result = await ffmpeg(edge.rtmp(name), exe=exe)
    assert result.code == 0, result.stderr
    assert_equal(packets(result.output), expected_packets(expected(name)))


@pytest.mark.parametrize("name", ENHANCED)
async def test_current_ffmpeg_receives_every_enhanced_frame(edge: EdgeProcess, name: str) -> None:
    result = await ffmpeg(edge.rtmp(name), exe=FFMPEG_9)
    assert result.code == 0, result.stderr
    assert_equal(packets(result.output), expected_packets(expected(name)))


@pytest.mark.parametrize("name", ["film.mkv", "film.ts", "song.aac"])
async def test_rtmpdump_receives_every_frame(edge: EdgeProcess, name: str, tmp_path: Path) -> None:
    await rtmpdump(edge.rtmp(name), tmp_path / "film.flv")
    assert_equal(flv_packets(tmp_path / "film.flv"), expected_packets(expected(name)))
