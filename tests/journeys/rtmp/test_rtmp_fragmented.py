"""Journeys: real players receive every frame of fragmented MP4s, from a warm and a cold cache."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.media.fragment_writer import MUXERS, FragmentedFilm, fragmented_film, muxed
from tests.support.media.media_oracle import demux
from tests.support.origins.s3_server import S3Server
from tests.support.origins.scripted_origin import ScriptedOrigin
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_client import frames, open_client, samples
from tests.support.rtmp.rtmp_media import keyframe
from tests.support.rtmp.rtmp_players import (
    FFMPEG_5,
    FFMPEG_9,
    expected_packets,
    ffmpeg,
    flv_packets,
    packets,
    rtmpdump,
    run,
)

STOP = "NetStream.Play.Stop"
LIMITS = 'origin_retries = 1\nrtmp_ahead = "10h"'
NAMES = {f"{number:02}.mp4": muxer for number, muxer in enumerate(MUXERS)}
FRAGMENTS, FRAMES = 60, 25  # of a second each


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    folder = tmp_path_factory.mktemp("fragmented")
    films = folder / "films"
    films.mkdir()
    for name, muxer in NAMES.items():
        (films / name).write_bytes(muxed(MUXERS[muxer]))
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    with run_edge(folder / "edge", origins, limits=LIMITS) as running:
        yield running


@pytest.mark.parametrize("exe", [FFMPEG_5, FFMPEG_9], ids=["ffmpeg-5.1", "ffmpeg-9"])
@pytest.mark.parametrize("name", NAMES, ids=list(MUXERS))
async def test_ffmpeg_receives_every_frame(edge: EdgeProcess, name: str, exe: str) -> None:
    result = await ffmpeg(edge.rtmp(name), exe=exe)
    assert result.code == 0, result.stderr
    assert packets(result.output) == expected_packets(demux(muxed(MUXERS[NAMES[name]])))


@pytest.mark.parametrize("name", ["00.mp4", "01.mp4", "10.mp4"])
async def test_rtmpdump_receives_every_frame(edge: EdgeProcess, name: str, tmp_path: Path) -> None:
    await rtmpdump(edge.rtmp(name), tmp_path / "film.flv")
    assert flv_packets(tmp_path / "film.flv") == expected_packets(demux(muxed(MUXERS[NAMES[name]])))


async def test_mpv_plays_to_the_end(edge: EdgeProcess) -> None:
    result = await run(
        "mpv", "--no-config", "--vo=null", "--ao=null", "--untimed", "--length=3",
        edge.rtmp("00.mp4"),
    )  # fmt: skip
    assert result.code == 0, result.output
    assert b"VO: [null] 160x96" in result.output


async def test_seek_continues_from_the_keyframe(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        client.play("00.mp4")
        await client.until(lambda m: any(f.is_keyframe for f in frames([m])))
        client.seek(3500)
        await client.until_named("NetStream.Seek.Notify")
        messages = await client.until_named(STOP)
        first = next(frame for frame in samples(messages) if frame.kind == 9)
        assert first.is_keyframe
        assert first.time_ms == 3000


def long_film(*, sidx: bool = False, mfra: bool = False) -> FragmentedFilm:
    """60 MB, a second in each MB."""
    content = [[keyframe(40_000 + number)] * FRAMES for number in range(FRAGMENTS)]
    return fragmented_film(content, sidx=sidx, mfra=mfra)


@pytest.mark.parametrize("index", ["sidx", "mfra", "none"])
async def test_cold_play_starts_before_the_film_has_come(tmp_path: Path, index: str) -> None:
    film = long_film(sidx=index == "sidx", mfra=index == "mfra")
    async with ScriptedOrigin(rate_bytes_per_s=20e6, rate_shared=True) as origin:
        origin.put("film.mp4", film.data)
        toml = f'[origins.main]\ntype = "http"\nurl = "{origin.url}"\n'
        with run_edge(tmp_path, toml, limits=LIMITS, workers=2) as edge:
            async with open_client(edge.rtmp_port) as client:
                client.play("film.mp4")
                messages = await client.until(lambda m: any(f.is_keyframe for f in frames([m])))
                share = 0.7 if index == "none" else 0.4
                assert origin.body_bytes_sent < len(film.data) * share
                origin.rate_bytes_per_s = None
                received = samples(messages + await client.until_named(STOP))
                assert len(received) == FRAGMENTS * FRAMES
            before = origin.body_bytes_sent
            assert before < len(film.data) * 1.2
            async with open_client(edge.rtmp_port) as client:
                client.play("film.mp4")
                assert samples(await client.until_named(STOP)) == received
            # Another worker may read the index again, but from the cache.
            assert origin.body_bytes_sent == before


async def test_cold_seek_fetches_the_index_and_the_target(tmp_path: Path) -> None:
    film = long_film(sidx=True)
    async with ScriptedOrigin() as origin:
        origin.put("film.mp4", film.data)
        toml = f'[origins.main]\ntype = "http"\nurl = "{origin.url}"\n'
        with run_edge(tmp_path, toml, limits=LIMITS) as edge:
            async with open_client(edge.rtmp_port) as client:
                client.play("film.mp4", 50_000.0, 0.0)  # a single frame
                messages = await client.until_named(STOP)
                assert any(frame.is_keyframe for frame in samples(messages))
        assert origin.body_bytes_sent < len(film.data) / 2


async def test_cold_seek_in_a_bucket_reads_a_fraction_of_it(tmp_path: Path, s3: S3Server) -> None:
    film = long_film(mfra=True)
    await asyncio.to_thread(s3.put, "videos", "fragmented.mp4", film.data)
    toml = (
        '[origins.main]\ntype = "s3"\nbucket = "videos"\n'
        f'endpoint = "{s3.endpoint}"\nregion = "{s3.region}"\n'
        f'access_key_id = "{s3.access_key_id}"\nsecret_access_key = "{s3.secret_access_key}"\n'
    )
    with run_edge(tmp_path, toml, limits=LIMITS) as edge:
        async with open_client(edge.rtmp_port) as client:
            client.play("fragmented.mp4", 50_000.0, 0.0)  # a single frame
            messages = await client.until_named(STOP)
            assert any(frame.is_keyframe for frame in samples(messages))
        name = "streamedge_origin_bytes_total"
        read = await asyncio.to_thread(edge.await_metric, name, lambda value: value > 0)
        assert read < len(film.data) / 2
