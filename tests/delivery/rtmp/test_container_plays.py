"""Plays of container files and changes of the file: running plays, seeks, invalidations."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.media.container_samples import container_file, expected
from tests.support.rtmp.rtmp_client import (
    RtmpClient,
    frames,
    information,
    message_name,
    open_client,
    samples,
)
from tests.support.rtmp.rtmp_edge import serve_rtmp

START, STOP = "NetStream.Play.Start", "NetStream.Play.Stop"
FAILED = "NetStream.Play.Failed"


async def count(client: RtmpClient, *, kind: int = 9) -> int:
    """How many frames come until the end of the play."""
    return sum(frame.kind == kind for frame in samples(await client.until_named(STOP)))


@pytest.mark.parametrize("soft", [False, True])
async def test_invalidated_file_is_packaged_again(cache_root: Path, soft: bool) -> None:
    async with serve_rtmp(cache_root) as edge, open_client(edge.port) as client:
        edge.origin.put("film.mkv", container_file("film.mkv"), etag='"1"')
        client.play("film.mkv")
        assert await count(client) == len(expected("film.mkv").packets["video"])
        # An MPEG-TS under the same name, and another codec.
        edge.origin.put("film.mkv", container_file("long-gop.ts"), etag='"2"')
        client.play("film.mkv")
        assert await count(client, kind=8) == len(expected("film.mkv").packets["audio"])
        edge.invalidate("/film.mkv", soft=soft)
        client.play("film.mkv")
        assert await count(client, kind=8) == len(expected("long-gop.ts").packets["audio"])


async def test_seek_opens_the_new_version(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge, open_client(edge.port) as client:
        edge.origin.put("film.mkv", container_file("film.mkv"), etag='"1"')
        client.play("film.mkv")
        await client.until_named(STOP)
        edge.origin.put("film.mkv", container_file("song.aac"), etag='"2"')
        edge.invalidate("/film.mkv")
        client.seek(0)
        await client.until_named("NetStream.Seek.Notify")
        received = samples(await client.until_named(STOP))
        assert {frame.kind for frame in received} == {8}
        assert len(received) == len(expected("song.aac").packets["audio"])


async def test_origin_that_fails_ends_the_play_and_not_the_file(cache_root: Path) -> None:
    data = container_file("noise.mkv")
    async with serve_rtmp(cache_root) as edge, open_client(edge.port) as client:
        edge.origin.put("film.mkv", data)
        edge.origin.hold("film.mkv", at=len(data) // 2)
        client.play("film.mkv")
        await client.until(lambda m: any(frame.is_keyframe for frame in frames([m])))
        await edge.origin.refuse()
        messages = await client.until_named(FAILED, STOP)
        assert message_name(messages[-1]) == FAILED
        assert "origin" in str(information(messages[-1])["description"])
        await edge.origin.accept()
        edge.origin.release("film.mkv")
        client.play("film.mkv")
        assert await count(client) == len(expected("noise.mkv").packets["video"])
        assert edge.lines("media_helper_failed") == []


async def test_viewer_that_leaves_ends_nothing_for_others(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mkv", container_file("noise.mkv"))
        edge.origin.hold("film.mkv", at=100_000)
        async with open_client(edge.port) as stayer:
            async with open_client(edge.port) as leaver:
                leaver.play("film.mkv")
                stayer.play("film.mkv")
                await edge.origin.until(lambda: edge.origin.body_bytes_sent >= 100_000)
            edge.origin.release("film.mkv")
            assert await count(stayer) == len(expected("noise.mkv").packets["video"])
        await edge.until_gone()
