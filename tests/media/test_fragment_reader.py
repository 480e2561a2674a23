"""streamedge/media/fragment_reader.py: fragments read through the cache, part by part."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from streamedge.errors import MediaError, OriginError
from streamedge.media.fragment_reader import SEARCHED_FILE_BYTES
from tests.media.test_library import asset, played_bytes, titles_of
from tests.media.test_packager import edge_of
from tests.support.media.fragment_writer import FragmentedFilm, fragmented_film
from tests.support.rtmp.rtmp_media import keyframe

FRAMES = 25


def large_film(*, sidx: bool = False, mfra: bool = False, fragments: int = 40) -> FragmentedFilm:
    """A film of 40 MB; each fragment has 1 MB."""
    frames = [[keyframe(40_000 + number)] * FRAMES for number in range(fragments)]
    return fragmented_film(frames, sidx=sidx, mfra=mfra)


@pytest.mark.parametrize("index", ["sidx", "mfra", "none"])
async def test_index_is_built_from_a_fraction_of_the_file(cache_root: Path, index: str) -> None:
    film = large_film(sidx=index == "sidx", mfra=index == "mfra")
    assert len(film.data) > SEARCHED_FILE_BYTES
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", film.data)
        titles = titles_of(cache)
        mediums = await asyncio.gather(
            *(titles.open(asset(origin, "film.mp4")) for _viewer in range(10))
        )
        assert all(medium.head is mediums[0].head for medium in mediums)
        assert mediums[0].head.duration_ms == 40 * FRAMES * 40
        share = 0.6 if index == "none" else 0.15
        assert server.body_bytes_sent < len(film.data) * share
        assert await played_bytes(mediums[0]) > len(film.data) * 0.98
        before = len(server.requests)
        assert await played_bytes(mediums[1]) > len(film.data) * 0.98
        assert len(server.requests) == before
        assert server.body_bytes_sent < len(film.data) * 1.1
        for medium in mediums:
            medium.close()
        await titles.close()


async def test_fragments_are_read_in_parallel(cache_root: Path) -> None:
    film = large_film(sidx=True)
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", film.data)
        titles = titles_of(cache)
        server.hold("film.mp4", at=film.positions[1] + 200_000)
        opened = asyncio.ensure_future(titles.open(asset(origin, "film.mp4")))
        await server.wait_for_requests(10)
        server.release("film.mp4")
        (await opened).close()
        await titles.close()


async def test_origin_that_fails_while_fragments_are_read_fails_the_open(cache_root: Path) -> None:
    film = large_film(sidx=True)
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", film.data)
        server.hold("film.mp4", at=film.positions[1] + 200_000)
        titles = titles_of(cache)
        opened = asyncio.ensure_future(titles.open(asset(origin, "film.mp4")))
        await server.wait_for_requests(3)
        await server.refuse()
        with pytest.raises(OriginError):
            await opened
        await server.accept()
        server.release("film.mp4")
        (await titles.open(asset(origin, "film.mp4"))).close()
        await titles.close()
        assert all(version.idle for version in cache.open_versions)


async def test_closed_library_ends_the_reads_of_fragments(cache_root: Path) -> None:
    film = large_film(sidx=True)
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", film.data)
        server.hold("film.mp4", at=film.positions[1] + 200_000)
        titles = titles_of(cache)
        opened = asyncio.ensure_future(titles.open(asset(origin, "film.mp4")))
        await server.wait_for_requests(3)
        await titles.close()
        with pytest.raises(asyncio.CancelledError):
            await opened
        assert [version.reader_count for version in cache.open_versions] == [0]


async def test_index_over_the_limit_is_refused(cache_root: Path) -> None:
    film = fragmented_film([[b"x" * 50] * 10 for _ in range(100)])
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", film.data)
        titles = titles_of(cache, moov_bytes=5000)
        with pytest.raises(MediaError, match=r"limits\.moov"):
            await titles.open(asset(origin, "film.mp4"))
        await titles.close()
