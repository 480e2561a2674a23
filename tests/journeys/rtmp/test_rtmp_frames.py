"""Journeys: real players receive every frame of a file unchanged and at the right time.

Debian's FFmpeg, the current FFmpeg and rtmpdump play from a real edge. Their packets are compared
with those that FFmpeg reads from the file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_client import open_client, samples
from tests.support.rtmp.rtmp_media import (
    avc_mp4,
    demux,
    expected,
    keyframe,
    sample_file,
    tags_flv,
    tiny_frame,
)
from tests.support.rtmp.rtmp_players import (
    BUFFER_MS,
    FFMPEG_5,
    FFMPEG_9,
    PlayedPacket,
    duration_s,
    expected_packets,
    ffmpeg,
    flv_packets,
    packets,
    rtmpdump,
)

CLASSIC = {
    "film.mp4": "film.mp4",
    "film-moov-last.mp4": "film-moov-last.mp4",
    "film.flv": "film.flv",
    "film-keyframes.flv": "film-keyframes.flv",
    "song.mp3": "song.mp3",
    "song.m4a": "song.m4a",
    "three-b-frames.mp4": "video-only",
    "mp3-in-mp4.mp4": "mp3-in-mp4",
    "aac.mov": "aac-in-mov",
}
ENHANCED = {
    "hevc.mp4": "hevc",
    "av1-opus.mp4": "av1-opus",
    "vp9-ac3.mp4": "vp9-ac3",
    "h264-opus.mp4": "h264-opus",
    "h264-flac.mp4": "flac",
    "eac3.mp4": "eac3",
}
CODECS = {
    "hevc.mp4": "hvc1,avc1,mp4a",
    "av1-opus.mp4": "av01,Opus",
    "vp9-ac3.mp4": "vp09,ac-3",
    "h264-opus.mp4": "Opus",
    "h264-flac.mp4": "fLaC",
    "eac3.mp4": "ec-3",
}
STRICT = (
    '[[distributions]]\nid = "ESTREAM"\ntype = "rtmp"\norigin = "main"\n'
    '[[distributions]]\nid = "ESTRICT"\ntype = "rtmp"\norigin = "main"\n'
    'application = ["strict"]\nenhanced = "strict"\n'
)
FIVE_HOURS_S = 5 * 3600
LONG_STEP_MS = 4000
MINUTE_S = 60
LARGE_BYTES = 4 << 20


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    folder = tmp_path_factory.mktemp("frames")
    films = folder / "films"
    films.mkdir()
    for name, source in (CLASSIC | ENHANCED).items():
        (films / name).write_bytes(sample_file(source))
    (films / "minute.flv").write_bytes(tags_flv(MINUTE_S, frame_bytes=200))
    (films / "long.mp4").write_bytes(_five_hours())
    (films / "large.mp4").write_bytes(_large_frame())
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    limits = 'rtmp_ahead = "24h"'
    with run_edge(folder / "edge", origins, distributions=STRICT, limits=limits) as running:
        yield running


@pytest.mark.parametrize("exe", [FFMPEG_5, FFMPEG_9], ids=["ffmpeg-5.1", "ffmpeg-9"])
@pytest.mark.parametrize("name", CLASSIC)
async def test_ffmpeg_receives_every_frame(edge: EdgeProcess, name: str, exe: str) -> None:
    result = await ffmpeg(edge.rtmp(name), exe=exe)
    assert result.code == 0, result.stderr
    assert packets(result.output) == expected_packets(expected(CLASSIC[name]))


@pytest.mark.parametrize("exe", [FFMPEG_5, FFMPEG_9], ids=["ffmpeg-5.1", "ffmpeg-9"])
@pytest.mark.parametrize("options", [(), ("-ss", "10", "-t", "1")], ids=["to the end", "seek"])
async def test_ffmpeg_sees_no_track_that_the_file_does_not_have(
    edge: EdgeProcess, options: tuple[str, ...], exe: str
) -> None:
    # Its default buffer: with a larger one, the end has come before it seeks.
    buffer_ms = 3000 if options else BUFFER_MS
    result = await ffmpeg(edge.rtmp("film.mp4"), exe=exe, options=options, buffer_ms=buffer_ms)
    assert packets(result.output)["video"]
    assert re.findall(r"New \w+ stream", result.stderr) == []


@pytest.mark.parametrize("name", CLASSIC)
async def test_rtmpdump_receives_every_frame(edge: EdgeProcess, name: str, tmp_path: Path) -> None:
    await rtmpdump(edge.rtmp(name), tmp_path / "got.flv")
    assert flv_packets(tmp_path / "got.flv") == expected_packets(expected(CLASSIC[name]))


@pytest.mark.parametrize("options", [("--playlist",), ("--subscribe", "film")])
async def test_rtmpdump_plays_with_further_calls(
    edge: EdgeProcess, options: tuple[str, ...], tmp_path: Path
) -> None:
    """set_playlist before the play, FCSubscribe after the connect."""
    await rtmpdump(edge.rtmp("film.mp4"), tmp_path / "got.flv", *options)
    assert flv_packets(tmp_path / "got.flv") == expected_packets(expected("film.mp4"))


async def test_ffmpeg_plays_with_a_subscription(edge: EdgeProcess) -> None:
    result = await ffmpeg(edge.rtmp("film.mp4"), options=("-rtmp_subscribe", "film"))
    assert packets(result.output) == expected_packets(expected("film.mp4"))


@pytest.mark.parametrize("name", ["film.mp4", "song.mp3", "song.m4a", "minute.flv"])
async def test_rtmpdump_reports_a_complete_download(
    edge: EdgeProcess, name: str, tmp_path: Path
) -> None:
    # rtmpdump reports a stream as incomplete if its last frame begins 0.1 % before its duration, so
    # FLV files must be long enough.
    result = await rtmpdump(edge.rtmp(name), tmp_path / "got.flv")
    assert (result.code, "Download complete" in result.stderr) == (0, True), result.stderr


@pytest.mark.parametrize("name", ENHANCED)
async def test_current_ffmpeg_receives_every_enhanced_frame(edge: EdgeProcess, name: str) -> None:
    result = await ffmpeg(edge.rtmp(name), exe=FFMPEG_9)
    assert result.code == 0, result.stderr
    assert packets(result.output) == expected_packets(expected(ENHANCED[name]))


@pytest.mark.parametrize("name", ENHANCED)
async def test_strict_plays_the_codecs_that_a_client_announces(
    edge: EdgeProcess, name: str
) -> None:
    result = await ffmpeg(
        edge.rtmp(name, "strict"),
        exe=FFMPEG_9,
        options=("-rtmp_enhanced_codecs", CODECS[name], "-rtmp_app", "strict"),
    )
    assert result.code == 0, result.stderr
    assert packets(result.output) == expected_packets(expected(ENHANCED[name]))


async def test_strict_refuses_client_without_announced_codecs(edge: EdgeProcess) -> None:
    result = await ffmpeg(edge.rtmp("hevc.mp4", "strict"), exe=FFMPEG_9)
    assert result.code != 0
    assert "Enhanced RTMP codecs" in result.stderr
    assert "hvc1" in result.stderr
    async with open_client(edge.rtmp_port, "strict", fourCcList=["av01"]) as client:
        client.play("hevc.mp4")
        messages = await client.until_named("NetStream.Play.Failed", "NetStream.Play.Start")
        assert b"hvc1" in messages[-1].payload
        assert b"NetStream.Play.Failed" in messages[-1].payload
    async with open_client(edge.rtmp_port, "strict", fourCcList=["*"]) as client:
        client.play("hevc.mp4")
        await client.until_named("NetStream.Play.Start")


async def test_strict_plays_classic_codecs_to_every_client(edge: EdgeProcess) -> None:
    result = await ffmpeg(edge.rtmp("film.mp4", "strict"))
    assert packets(result.output) == expected_packets(expected("film.mp4"))


@pytest.mark.parametrize("name", ["film.mp4", "film.flv", "film-keyframes.flv", "song.mp3"])
async def test_ffprobe_reports_the_files_duration(edge: EdgeProcess, name: str) -> None:
    file = edge.folder.parent / "films" / name
    assert abs(await duration_s(edge.rtmp(name)) - await duration_s(str(file))) <= 0.05


async def test_frame_of_four_mebibytes_arrives_complete(edge: EdgeProcess, tmp_path: Path) -> None:
    file = demux(_large_frame())
    assert len(file.packets["video"]) == 8
    for exe in (FFMPEG_5, FFMPEG_9):
        result = await ffmpeg(edge.rtmp("large.mp4"), exe=exe)
        assert packets(result.output) == expected_packets(file), result.stderr
    await rtmpdump(edge.rtmp("large.mp4"), tmp_path / "got.flv")
    assert flv_packets(tmp_path / "got.flv") == expected_packets(file)
    async with open_client(edge.rtmp_port) as client:
        client.play("large.mp4")
        received = samples(await client.until_named("NetStream.Play.Stop"))
        assert max(len(frame.body) for frame in received) == LARGE_BYTES + 5


async def test_timestamps_continue_past_24_bits(edge: EdgeProcess, tmp_path: Path) -> None:
    # 2^24 ms are 4 h 39 min.
    times_ms = list(range(0, FIVE_HOURS_S * 1000, LONG_STEP_MS))
    for exe in (FFMPEG_5, FFMPEG_9):
        result = await ffmpeg(edge.rtmp("long.mp4"), exe=exe)
        assert [packet.dts_ms for packet in packets(result.output)["video"]] == times_ms, (
            result.stderr
        )
    await rtmpdump(edge.rtmp("long.mp4"), tmp_path / "got.flv")
    assert [packet.dts_ms for packet in flv_packets(tmp_path / "got.flv")["video"]] == times_ms
    async with open_client(edge.rtmp_port) as client:
        client.play("long.mp4")
        received = samples(await client.until_named("NetStream.Play.Stop"))
        assert [frame.time_ms for frame in received] == times_ms
        client.seek(1 << 24)
        received = samples(await client.until_named("NetStream.Play.Stop"))
        assert [frame.time_ms for frame in received] == [
            time_ms for time_ms in times_ms if time_ms >= (1 << 24) - (1 << 24) % LONG_STEP_MS
        ]


async def test_rtmpdump_starts_and_stops_at_the_given_times(
    edge: EdgeProcess, tmp_path: Path
) -> None:
    await rtmpdump(edge.rtmp("minute.flv"), tmp_path / "got.flv", "-A", "30", "-B", "40")
    received = _flv_times(tmp_path / "got.flv")
    # rtmpdump adds the start to the edge's times, which therefore must begin at 0.
    assert received[0] == 30_000
    assert 39_960 <= received[-1] <= 40_000
    assert received == sorted(received)
    assert _numbers(tmp_path / "got.flv")[0] == 30 * 25


async def test_rtmpdump_resumes_a_partial_download(edge: EdgeProcess, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.flv", tmp_path / "cut.flv"
    await rtmpdump(edge.rtmp("film.mp4"), whole)
    tags = [end for _, end in _tag_spans(whole.read_bytes())]
    # rtmpdump writes tag by tag, so a killed one stops at the end of a tag.
    cut.write_bytes(whole.read_bytes()[: tags[len(tags) * 2 // 5]])
    result = await rtmpdump(edge.rtmp("film.mp4"), cut, "--resume")
    assert result.code == 0, result.stderr
    assert flv_packets(cut) == flv_packets(whole)


def _five_hours() -> bytes:
    count = FIVE_HOURS_S * 1000 // LONG_STEP_MS
    return avc_mp4([keyframe(), *map(tiny_frame, range(1, count))], LONG_STEP_MS)


def _large_frame() -> bytes:
    frames = [keyframe()] * 8
    frames[3] = keyframe(LARGE_BYTES)
    return avc_mp4(frames, 40)


def _tag_spans(data: bytes) -> Iterator[tuple[int, int]]:
    """The spans of an FLV's tags."""
    at = 13
    while at + 11 <= len(data):
        end = at + 15 + int.from_bytes(data[at + 1 : at + 4])
        yield at, end
        at = end


def _flv_times(path: Path) -> list[int]:
    return sorted(packet.dts_ms for stream in _absolute(path).values() for packet in stream)


def _absolute(path: Path) -> dict[str, list[PlayedPacket]]:
    """An FLV's media tags with their own timestamps."""
    data = path.read_bytes()
    tags: dict[str, list[PlayedPacket]] = {"audio": [], "video": []}
    for at, end in _tag_spans(data):
        kind = data[at]
        time_ms = int.from_bytes(data[at + 4 : at + 7]) | data[at + 7] << 24
        body = data[at + 11 : end - 4]
        if kind in (8, 9) and not (kind == 9 and body[1] == 0):
            name = "audio" if kind == 8 else "video"
            tags[name].append(PlayedPacket(time_ms, time_ms, body.hex()))
    return tags


def _numbers(path: Path) -> list[int]:
    """The numbers of the ``tags_flv`` frames that a file has."""
    video = _absolute(path)["video"]
    return [struct.unpack_from(">I", bytes.fromhex(packet.digest), 9)[0] for packet in video]
