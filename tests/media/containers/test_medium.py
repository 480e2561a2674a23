"""Container files through the library: every frame, seeks, one run for all viewers."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from pathlib import Path

import pytest

from streamedge.cache.objects import VERSION_ONLY
from streamedge.errors import MediaError, MediaFault
from streamedge.media.containers.cutting import VIDEO_SEGMENT_MS
from streamedge.media.containers.process import (
    HelperLimits,
    HelperPool,
    HelperRequest,
    SourceFile,
)
from streamedge.media.flv import tags as flv
from streamedge.media.library import MediaLibrary
from streamedge.media.medium import End, Medium, NeedData, Position, Skip
from streamedge.media.track_choice import TrackChoice, read_choice
from tests.media.test_library import asset, titles_of
from tests.media.test_packager import edge_of
from tests.support.media.container_samples import (
    CLASSIC,
    ENHANCED,
    JOINED,
    JOINT_MS,
    SECONDS,
    container_file,
    copied_to_flv,
    expected,
    languages,
)
from tests.support.media.ffmpeg_packets import flv_packets
from tests.support.media.media_oracle import Packet
from tests.support.patience import PATIENCE_S
from tests.support.rtmp.rtmp_media import Demuxed, demux

START = Position(0, 0)
SMALL_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080000000037"
    "6ef9240000000a4944415478016360000000020001737501180000000049454e44ae426082"
)
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


def tail(packets: list[Packet], first_ms: int) -> list[str]:
    return [packet.digest for packet in packets if packet.dts_ms >= first_ms]


@pytest.mark.parametrize("name", [*CLASSIC, *ENHANCED])
async def test_seek_begins_at_the_last_keyframe(cache_root: Path, name: str) -> None:
    packets = expected(name).packets
    kind = "video" if "video" in packets else "audio"
    async with edge_of(cache_root) as (server, cache, origin):
        server.put(name, container_file(name))
        titles = titles_of(cache)
        # Backwards, so that no segment was made by reading on.
        for time_ms in (99_000, 10_900, 7_300, 6_001, 6_000, 2_500, 1_200, 1, 0, -5):
            medium = await titles.open(asset(origin, name))
            position = await medium.locate(time_ms)
            starts = [packet.dts_ms for packet in packets[kind] if packet.is_keyframe]
            before = [start for start in starts if start <= time_ms]
            first_ms = before[-1] if before else 0
            assert abs(position.time_ms - first_ms) <= TOLERANCE_MS
            played = demux(await play(medium, position)).packets
            received = [packet.digest for packet in played[kind]]
            assert received == tail(packets[kind], first_ms)
            medium.close()
        await titles.close()


@pytest.mark.parametrize("name", ["film.mkv", "film.ts", "song.aac"])
async def test_tag_after_a_time_is_located(cache_root: Path, name: str) -> None:
    packets = [packet for stream in expected(name).packets.values() for packet in stream]
    async with edge_of(cache_root) as (server, cache, origin):
        server.put(name, container_file(name))
        titles = titles_of(cache)
        medium = await titles.open(asset(origin, name))
        for time_ms in (0, 1_990, 7_000, 10_000):
            position = await medium.locate_after(time_ms)
            later = min(packet.dts_ms for packet in packets if packet.dts_ms > time_ms)
            assert abs(position.time_ms - later) <= TOLERANCE_MS
        position = await medium.locate_after(99_000)
        assert isinstance(medium.next_run(position, 0, None), End)
        medium.close()
        await titles.close()


@pytest.mark.parametrize("name", ["noise.mkv", "noise.ts"])
async def test_cold_seek_reads_a_part_of_the_file(cache_root: Path, name: str) -> None:
    data = container_file(name)
    async with edge_of(cache_root) as (server, cache, origin):
        server.put(name, data)
        titles = titles_of(cache)
        medium = await titles.open(asset(origin, name))
        position = await medium.locate(50_000)
        assert 46_000 < position.time_ms <= 50_000
        assert server.body_bytes_sent < len(data) / 2
        medium.close()
        await titles.close()


async def test_segments_are_the_same_whatever_was_made_before(cache_root: Path) -> None:
    async def segments(file: SourceFile, numbers: range) -> dict[int, bytes]:
        pool = HelperPool(HelperLimits())
        try:
            return {n: await pool.run(file, HelperRequest(n, (0, 1))) for n in numbers}
        finally:
            await pool.close()

    formats = {"mkv": "matroska", "ts": "mpegts", "webm": "matroska"}
    async with edge_of(cache_root) as (server, cache, origin):
        names = (
            "film.mkv",
            "film.ts",
            "film.webm",
            "hevc.ts",
            "long-gop.mkv",
            "cueless.mkv",
            JOINED,
        )
        for name in names:
            server.put(name, container_file(name))
            source = asset(origin, name)
            reader = await cache.open(source, VERSION_ONLY)
            head = reader.head
            reader.close()
            file = SourceFile(
                (name,),
                name,
                formats[name.rpartition(".")[2]],
                head.version.size_bytes,
                lambda source=source, head=head: cache.reopen(source, head),  # type: ignore[misc]
            )
            count = 20 if name == JOINED else 8
            forwards = await segments(file, range(count))
            backwards = await segments(file, range(count - 1, -1, -1))
            assert forwards == backwards
            assert forwards[count - 2] == forwards[count - 1]  # beyond the end


async def test_viewers_at_once_cause_one_run(cache_root: Path) -> None:
    name = "film.mkv"
    async with edge_of(cache_root) as (server, cache, origin):
        server.put(name, container_file(name))
        pool = HelperPool(HelperLimits())
        titles = MediaLibrary(
            cache, memory_bytes=64 << 20, index_bytes=64 << 20, moov_bytes=1 << 20, helpers=pool
        )

        async def view(delay_tags: int) -> bytes:
            medium = await titles.open(asset(origin, name))
            data = await play(medium, length_ms=1000 if delay_tags % 2 else 2000)
            medium.close()
            return data

        results = await asyncio.gather(*(view(number) for number in range(12)))
        assert len(set(results)) == 1
        head, segments = 1, -(-SECONDS * 1000 // VIDEO_SEGMENT_MS)
        assert pool.answers == head + segments
        assert pool.starts == 1
        await titles.close()
        # Another worker, or the same one later, needs no helper.
        other = HelperPool(HelperLimits(), is_available=lambda: False)
        later = MediaLibrary(
            cache, memory_bytes=64 << 20, index_bytes=64 << 20, moov_bytes=1 << 20, helpers=other
        )
        medium = await later.open(asset(origin, name))
        assert await play(medium) == results[0]
        medium.close()
        await later.close()


async def test_new_version_is_packaged_again(cache_root: Path) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        titles = titles_of(cache)
        for etag, name in (('"1"', "film.mkv"), ('"2"', "film.ts"), ('"3"', "song.aac")):
            server.put("film", container_file(name), etag=etag)
            medium = await titles.open(asset(origin, "film", ttl_s=0))
            assert_equal_packets(demux(await play(medium)), expected(name))
            medium.close()
        await titles.close()


async def test_running_play_stays_with_its_version(cache_root: Path) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        titles = titles_of(cache)
        server.put("film", container_file("film.mkv"), etag='"1"')
        medium = await titles.open(asset(origin, "film", ttl_s=0))
        whole = await play(medium)
        server.put("film", container_file("film.ts"), etag='"2"')
        newer = await titles.open(asset(origin, "film", ttl_s=0))
        assert await play(medium) == whole
        assert await play(newer) != whole
        newer.close()
        medium.close()
        await titles.close()


@pytest.mark.parametrize("name", ["film.mkv", "film.ts", "film.webm", "song.aac"])
async def test_truncated_file_plays_up_to_the_cut(cache_root: Path, name: str) -> None:
    data = container_file(name)
    async with edge_of(cache_root) as (server, cache, origin):
        server.put(name, data[: len(data) * 2 // 3])
        titles = titles_of(cache)
        medium = await titles.open(asset(origin, name))
        played = demux(await play(medium)).packets
        for kind, packets in expected(name).packets.items():
            received = [packet.digest for packet in played[kind]]
            count = len(received) - 1  # the last one may be cut
            assert count > len(packets) / 2
            assert received[:count] == [packet.digest for packet in packets[:count]]
        medium.close()
        await titles.close()


async def test_audio_is_chosen_by_language(cache_root: Path) -> None:
    data = container_file("languages.mkv")
    tracks = languages(data)
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mkv", data)
        titles = titles_of(cache)
        for audio, number in (("", 1), ("deu", 0), ("de", 0), ("1", 1), ("fra", 2)):
            choice = read_choice(audio, is_multitrack=False)
            medium = await titles.open(asset(origin, "film.mkv"), choice)
            played = demux(await play(medium)).packets["audio"]
            assert [packet.digest for packet in played] == tracks[number]
            medium.close()
        with pytest.raises(MediaError, match=r"0 .ger.*1 .eng.*2 .fre") as failed:
            await titles.open(asset(origin, "film.mkv"), TrackChoice("spa"))
        assert failed.value.fault is MediaFault.NO_SUCH_TRACK
        await titles.close()


async def test_tracks_that_cannot_be_played_are_named(cache_root: Path) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film", container_file("mpeg2.ts"))
        server.put("vp8", container_file("vp8.webm"))
        reports: list[tuple[str, tuple[str, ...]]] = []
        titles = MediaLibrary(
            cache, memory_bytes=64 << 20, index_bytes=64 << 20, moov_bytes=1 << 20,
            report=lambda name, faults: reports.append((name, faults)),
        )  # fmt: skip
        with pytest.raises(MediaError, match="mpeg2video, mp2") as failed:
            await titles.open(asset(origin, "film"))
        assert failed.value.fault is MediaFault.NO_SUPPORTED_TRACK
        medium = await titles.open(asset(origin, "vp8"))
        assert medium.head.enhanced == {"vp08"}
        assert len(flv_packets(await play(medium)).video) == SECONDS * 25
        medium.close()
        assert reports == [("vp8", ("a track that cannot be played: vorbis",))]
        await titles.close()


async def test_mpeg_ts_plays_on_where_its_clock_jumps_as_in_ffmpeg(cache_root: Path) -> None:
    """Recordings that were joined: the clock begins again, or is ten hours later."""
    film, later = container_file("film.ts"), container_file("later.ts")
    for number, parts in enumerate([(film, film), (film, later), (later, film, later)]):
        data = b"".join(parts)
        async with edge_of(cache_root / str(number)) as (server, cache, origin):
            server.put("joined.ts", data)
            titles = titles_of(cache)
            medium = await titles.open(asset(origin, "joined.ts"))
            played = demux(await play(medium)).packets
            for kind, packets in copied_to_flv("joined.ts", data).packets.items():
                received = played[kind]
                assert [one.digest for one in received] == [one.digest for one in packets]
                for packet, other in zip(received, packets, strict=True):
                    assert abs(packet.dts_ms - other.dts_ms) <= JOINT_MS * (len(parts) - 1)
                steps = [b.dts_ms - a.dts_ms for a, b in itertools.pairwise(received)]
                assert min(steps) >= 0
            medium.close()
            await titles.close()


async def test_subtitles_fonts_and_covers_are_left_out(cache_root: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "film.mkv", tmp_path / "more.mkv"
    source.write_bytes(container_file("film.mkv"))
    (tmp_path / "text.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nHello\n")
    (tmp_path / "font.ttf").write_bytes(bytes(5000))
    (tmp_path / "cover.png").write_bytes(SMALL_PNG)
    command: list[str | Path] = [
        "ffmpeg", "-v", "error", "-i", source, "-i", tmp_path / "text.srt",
        "-map", "1", "-map", "0", "-c", "copy", "-attach", tmp_path / "font.ttf", "-metadata:s:t:0",
        "mimetype=application/x-truetype-font", "-attach", tmp_path / "cover.png",
        "-metadata:s:t:1", "mimetype=image/png", target,
    ]  # fmt: skip
    await asyncio.to_thread(lambda: subprocess.run(command, check=True))
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mkv", target.read_bytes())
        titles = titles_of(cache)
        medium = await titles.open(asset(origin, "film.mkv"))
        assert_equal_packets(demux(await play(medium)), expected("film.mkv"))
        medium.close()
        await titles.close()
