"""Journeys: real players play Matroska, WebM, MPEG-TS and ADTS from a real edge."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.event_loop import until
from tests.support.media.container_samples import (
    CLASSIC,
    ENHANCED,
    JOINED,
    JOINT_MS,
    SECONDS,
    container_file,
    expected,
)
from tests.support.origins.scripted_origin import ScriptedOrigin
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_client import (
    RtmpClient,
    frames,
    information,
    message_name,
    open_client,
    samples,
)
from tests.support.rtmp.rtmp_media import sample_file
from tests.support.rtmp.rtmp_players import (
    FFMPEG_5,
    FFMPEG_9,
    PlayedPacket,
    duration_s,
    expected_packets,
    ffmpeg,
    flv_packets,
    packets,
    rtmpdump,
    run,
)

ROOT = Path(__file__).parents[3]
START, STOP = "NetStream.Play.Start", "NetStream.Play.Stop"
FAILED, INVALID = "NetStream.Play.Failed", "NetStream.Play.FileStructureInvalid"
LIMITS = 'rtmp_ahead = "10h"'
WITHOUT_EXTRA = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name == "av" else find_spec(name, package)
)
"""
# The containers' names for libavformat are the ways in which the helper misbehaves.
BROKEN_HELPERS = """
import functools
from streamedge.build import rtmp
from streamedge.media import library
from streamedge.media.sniffing import FileKind
rtmp.HelperPool = functools.partial(
    rtmp.HelperPool, module="tests.support.media.broken_helper"
)
library.FORMATS.update(
    {FileKind.MATROSKA: "grow", FileKind.MPEG_TS: "hang", FileKind.ADTS: "crash"}
)
"""
TOLERANCE_MS = 1  # FFmpeg rounds the times of copied audio once more


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    folder = tmp_path_factory.mktemp("containers")
    films = folder / "films"
    films.mkdir()
    for name in (*CLASSIC, *ENHANCED, JOINED, "mpeg2.ts"):
        (films / name).write_bytes(container_file(name))
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    with run_edge(folder / "edge", origins, limits=LIMITS, workers=2) as running:
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


@pytest.mark.parametrize("exe", [FFMPEG_5, FFMPEG_9], ids=["ffmpeg-5.1", "ffmpeg-9"])
async def test_ffmpeg_receives_every_frame_of_joined_recordings(
    edge: EdgeProcess, exe: str
) -> None:
    """MPEG-TS whose clock jumps forward and back again."""
    result = await ffmpeg(edge.rtmp(JOINED), exe=exe)
    assert result.code == 0, result.stderr
    received = packets(result.output)
    for kind, stream in expected_packets(expected(JOINED)).items():
        assert [packet.digest for packet in received[kind]] == [one.digest for one in stream]
        times = [packet.dts_ms for packet in received[kind]]
        assert times == sorted(times)
        for packet, other in zip(received[kind], stream, strict=True):
            assert abs(packet.dts_ms - other.dts_ms) <= 2 * JOINT_MS


async def test_seek_behind_a_jump_of_the_clock(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play(JOINED)
        await client.until(lambda m: any(frame.is_keyframe for frame in frames([m])))
        client.seek((SECONDS + 5) * 1000)
        await client.until_named("NetStream.Seek.Notify")
        rest = samples(await client.until_named(STOP))
    assert rest[0].is_keyframe
    assert abs(rest[0].time_ms - (SECONDS + 5) * 1000) <= 2100
    assert abs(rest[-1].time_ms - 3 * SECONDS * 1000) <= 1000


@pytest.mark.parametrize("name", ["film.mkv", "film.ts", "song.aac"])
async def test_rtmpdump_receives_every_frame(edge: EdgeProcess, name: str, tmp_path: Path) -> None:
    await rtmpdump(edge.rtmp(name), tmp_path / "film.flv")
    assert_equal(flv_packets(tmp_path / "film.flv"), expected_packets(expected(name)))


@pytest.mark.parametrize("name", ["film.mkv", "film.ts", "long-gop.mkv", "cueless.mkv"])
async def test_seek_continues_from_the_keyframe(edge: EdgeProcess, name: str) -> None:
    keyframes = [packet for packet in expected(name).packets["video"] if packet.is_keyframe]
    async with open_client(edge.rtmp_port) as client:
        client.play(name)
        await client.until(lambda m: any(frame.is_keyframe for frame in frames([m])))
        for time_ms in (7_500, 2_100, 9_900):
            before = [packet.dts_ms for packet in keyframes if packet.dts_ms <= time_ms]
            client.seek(time_ms)
            await client.until_named("NetStream.Seek.Notify")
            messages = await client.until_named(STOP)
            first = next(frame for frame in samples(messages) if frame.kind == 9)
            assert first.is_keyframe
            assert abs(first.time_ms - before[-1]) <= TOLERANCE_MS


async def test_mpv_and_ffprobe_play(edge: EdgeProcess) -> None:
    result = await run(
        "mpv", "--no-config", "--vo=null", "--ao=null", "--untimed", "--length=3",
        edge.rtmp("film.mkv"),
    )  # fmt: skip
    assert result.code == 0, result.output
    assert b"VO: [null] 160x96" in result.output
    for name in ("film.mkv", "film.ts", "film.webm"):
        file = edge.folder.parent / "films" / name
        assert abs(await duration_s(edge.rtmp(name)) - await duration_s(str(file))) <= 0.1


async def test_codecs_that_are_not_played_are_named(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play("mpeg2.ts")
        messages = await client.until_named(START, "NetStream.Play.NoSupportedTrackFound")
        assert "mpeg2video, mp2" in str(information(messages[-1])["description"])


async def test_viewers_of_two_workers_read_the_file_once(tmp_path: Path) -> None:
    data = container_file("noise.mkv")
    async with ScriptedOrigin() as origin:
        origin.put("film.mkv", data)
        toml = f'[origins.main]\ntype = "http"\nurl = "{origin.url}"\n'
        with run_edge(tmp_path, toml, limits=LIMITS, workers=2) as edge:
            results = await asyncio.gather(*(ffmpeg(edge.rtmp("film.mkv")) for _ in range(6)))
            for result in results:
                assert result.code == 0, result.stderr
                assert_equal(packets(result.output), expected_packets(expected("noise.mkv")))
            assert origin.body_bytes_sent < len(data) * 1.1
            # Everything is packaged, so nothing of the file is read again.
            before = origin.body_bytes_sent
            again = await ffmpeg(edge.rtmp("film.mkv"))
            assert again.output == results[0].output
            assert origin.body_bytes_sent == before


@pytest.mark.parametrize("name", ["noise.mkv", "noise.ts"])
async def test_cold_play_and_seek_read_a_part_of_the_file(tmp_path: Path, name: str) -> None:
    data = container_file(name)
    async with ScriptedOrigin(rate_bytes_per_s=len(data) / 10, rate_shared=True) as origin:
        origin.put("film", data)
        toml = f'[origins.main]\ntype = "http"\nurl = "{origin.url}"\n'
        with run_edge(tmp_path, toml, limits=LIMITS) as edge:
            async with open_client(edge.rtmp_port) as client:
                client.play("film")
                await client.until(lambda m: any(frame.is_keyframe for frame in frames([m])))
                assert origin.body_bytes_sent < len(data) / 4
            async with open_client(edge.rtmp_port) as client:
                client.play("film", 50_000.0, 0.0)  # a single frame
                messages = await client.until_named(STOP)
                assert any(frame.is_keyframe for frame in samples(messages))
            assert origin.body_bytes_sent < len(data) * 0.75


async def test_without_the_extra_the_play_fails_with_its_name(tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    for name in ("film.mkv", "film.ts", "song.aac", "film.webm"):
        (films / name).write_bytes(container_file(name))
    (films / "film.mp4").write_bytes(sample_file("film.mp4"))
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    with run_edge(tmp_path / "edge", origins, limits=LIMITS, prelude=WITHOUT_EXTRA) as edge:
        async with open_client(edge.rtmp_port) as client:
            for name in ("film.mkv", "film.ts", "song.aac", "film.webm"):
                status = await _refusal(client, name)
                assert status["code"] == FAILED
                assert "streamedge[media]" in str(status["description"])
            client.play("film.mp4")
            await client.until_named(START)
        result = await ffmpeg(edge.rtmp("film.mkv"))
        assert result.code != 0
        assert "streamedge[media]" in result.stderr


async def test_helper_that_breaks_off_takes_no_worker_down(tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    for name in ("film.mkv", "film.ts", "song.aac"):
        (films / name).write_bytes(container_file(name))
    (films / "film.mp4").write_bytes(sample_file("film.mp4"))
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    limits = 'media_helper_time = "1s"\nmedia_helper_memory = "256MiB"'
    with run_edge(
        tmp_path / "edge", origins, limits=limits, prelude=BROKEN_HELPERS,
        environment={"PYTHONPATH": str(ROOT)},
    ) as edge:  # fmt: skip
        before = await asyncio.to_thread(edge.worker_pids)
        async with open_client(edge.rtmp_port) as viewer, open_client(edge.rtmp_port) as client:
            viewer.play("film.mp4")
            await viewer.until_named(START)
            for name, text in (
                ("film.mkv", "limits.media_helper_memory"),
                ("film.ts", "limits.media_helper_time"),
                ("song.aac", "SIGSEGV"),
            ):
                for _ in range(2):
                    status = await _refusal(client, name)
                    assert status["code"] == INVALID
                    assert text in str(status["description"])
            await viewer.until_named(STOP)  # the other play has gone on
        lines = await asyncio.to_thread(edge.await_log, "media_helper_failed", 3)
        assert [(line["name"], line["reason"]) for line in lines] == [
            ("film.mkv", "memory"), ("film.ts", "time"), ("song.aac", "crash"),
        ]  # fmt: skip
        assert await asyncio.to_thread(edge.worker_pids) == before


def hostile_files() -> dict[str, bytes]:
    """Matroska files that were edited to make their reader hang, grow or crash."""
    film, webm = container_file("film.mkv"), container_file("vp8.webm")
    seek_head, private = film.index(b"\x11\x4d\x9b\x74"), film.index(b"\x63\xa2")
    clusters = film.index(b"\x1f\x43\xb6\x75")
    loop = bytearray(film)
    at = seek_head
    while (at := film.find(b"\x53\xac", at, clusters)) >= 0:  # SeekPosition
        size = film[at + 2] & 15
        loop[at + 3 : at + 3 + size] = bytes(size)
        at += 3
    group = b"\xa0\x01" + (1 << 55).to_bytes(7, "big")
    frame_size = (16_383).to_bytes(2, "little") * 2
    files = {
        "pictures.webm": re.sub(
            rb"\x9d\x01\x2a....", b"\x9d\x01\x2a" + frame_size, webm, flags=re.S
        ),
        "seek-head-in-itself.mkv": bytes(loop),
        "private-of-4-gib.mkv": film[: private + 2] + b"\x08\xff\xff\xff\xff" + film[private + 3 :],
        "clusters-of-an-exbibyte.mkv": re.sub(
            b"\x1f\x43\xb6\x75.", b"\x1f\x43\xb6\x75\x01" + b"\x0f" + b"\xff" * 6, film, flags=re.S
        ),
        "nested-groups.mkv": film[:clusters] + group * 100_000,
    }
    assert not {film, webm} & set(files.values())
    return files


async def test_hostile_matroska_plays_or_is_refused_by_name(tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    files = hostile_files()
    for name, data in files.items():
        (films / name).write_bytes(data)
    (films / "film.mkv").write_bytes(container_file("film.mkv"))
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    limits = f'{LIMITS}\nmedia_helper_time = "2s"\nmedia_helper_memory = "256MiB"'
    with run_edge(tmp_path / "edge", origins, limits=limits) as edge:
        before = await asyncio.to_thread(edge.worker_pids)
        for name in files:
            async with open_client(edge.rtmp_port) as client:
                client.play(name)
                await client.until_named(STOP, FAILED, INVALID)
        result = await ffmpeg(edge.rtmp("film.mkv"))
        assert_equal(packets(result.output), expected_packets(expected("film.mkv")))
        assert await asyncio.to_thread(edge.worker_pids) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_helpers_end_with_their_worker(tmp_path: Path, number: signal.Signals) -> None:
    films = tmp_path / "films"
    films.mkdir()
    (films / "film.mkv").write_bytes(container_file("film.mkv"))
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    with run_edge(tmp_path / "edge", origins, limits=LIMITS) as edge:
        (worker,) = await asyncio.to_thread(edge.worker_pids)
        async with open_client(edge.rtmp_port) as client:
            client.play("film.mkv")
            await client.until(lambda m: any(frame.is_keyframe for frame in frames([m])))
            helpers = _children(worker)
            assert len(helpers) == 1
            assert b"streamedge.media.containers.helper" in _command(helpers[0])
            os.kill(worker, number)
        await until(lambda: b"streamedge.media.containers.helper" not in _command(helpers[0]))


def _children(pid: int) -> list[int]:
    """The processes that the threads of a process have started."""
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(word) for each in lists for word in each.split()]


def _command(pid: int) -> bytes:
    """A process's command line; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def _refusal(client: RtmpClient, name: str) -> dict[str, Any]:
    client.play(name)
    messages = await client.until_named(START, FAILED, INVALID)
    assert message_name(messages[-1]) != START
    return information(messages[-1])
