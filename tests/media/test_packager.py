"""streamedge/media/packager.py: an MP4 as FLV, read and written through the cache."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamedge.cache.objects import Cache
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.records import Asset
from streamedge.cache.storage.store import Store
from streamedge.errors import OriginError, OriginFailure
from streamedge.media.flv.layout import FlvLayout
from streamedge.media.index_memory import IndexMemory, Lease
from streamedge.media.packager import PIECE_BYTES, SMALL_PIECE_BYTES, packaged_asset
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts
from streamedge.origin import PrioritizedRead
from streamedge.origin.http.origin import HttpOrigin
from streamedge.spans import Span
from tests.support.media.media_oracle import flv_of, title_of
from tests.support.origins.scripted_origin import Reply, ScriptedOrigin, read_all
from tests.support.rtmp.rtmp_media import avc_mp4, keyframe

Media = Callable[[str], bytes]


@asynccontextmanager
async def edge_of(root: Path) -> AsyncIterator[tuple[ScriptedOrigin, Cache, HttpOrigin]]:
    """A scripted origin, and a cache over it."""
    async with ScriptedOrigin() as server:
        origin = HttpOrigin(server.url)
        log = open_log(str(root.parent / "log"), "test")
        cache = Cache(Store(root, 0, log), log, Counts(), open_extents=64, retries=1)
        try:
            yield server, cache, origin
        finally:
            await cache.close()
            await origin.close()


def asset(origin: HttpOrigin) -> Asset:
    return Asset("site\nfilm.mp4", "film.mp4", origin, "site", TtlRules())


async def packaged(cache: Cache, source: Asset, data: bytes) -> tuple[Asset, FlvLayout]:
    reader = await cache.open(source, Span(0, 1))
    layout = FlvLayout(title_of(data))
    memory = IndexMemory[str, FlvLayout](1 << 30)

    async def layouts() -> Lease[FlvLayout]:
        return memory.lease("film") or memory.add("film", layout, layout.memory_size_bytes)

    packaged_flv = packaged_asset(cache, source, reader.head, layout.size_bytes, layouts)
    reader.close()
    return packaged_flv, layout


@pytest.mark.parametrize("name", ["film.mp4", "film-moov-last.mp4", "hevc", "video-only"])
async def test_any_span_equals_the_flv(media: Media, cache_root: Path, name: str) -> None:
    data = media(name)
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", data)
        flv, layout = await packaged(cache, asset(origin), data)
        expected = flv_of(layout, data)
        size = len(expected)
        for span in (
            Span(0, size), Span(0, 1), Span(size - 1, size), Span(1000, size // 2),
            Span(size // 2, size + 10_000), None,
        ):  # fmt: skip
            read = await flv.origin.read(flv.name, span)
            assert read is not None
            assert read.span == (span or Span(0, size)).intersect(Span(0, size))
            assert await read_all(read) == expected[read.span.start : read.span.end]


async def test_packaged_flv_is_built_once_through_the_cache(media: Media, cache_root: Path) -> None:
    data = media("film.mp4")
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", data)
        flv, layout = await packaged(cache, asset(origin), data)
        for _ in range(2):
            reader = await cache.open(flv)
            assert reader.head.content_type == "video/x-flv"
            assert await reader.read(Span(0, reader.size_bytes)) == flv_of(layout, data)
            reader.close()
        assert server.body_bytes_sent == len(data)


async def test_pieces_are_small_while_the_source_arrives(cache_root: Path) -> None:
    data = avc_mp4([keyframe(30_000)] * 60, 40)
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", data)
        flv, _ = await packaged(cache, asset(origin), data)
        for expected in (SMALL_PIECE_BYTES, PIECE_BYTES):  # cold, then with all bytes cached
            read = await flv.origin.read(flv.name, Span(0, 1_000_000))
            assert read is not None
            sizes = [len(piece) async for piece in read.pieces()]
            await read.close()
            assert sizes[0] == expected
            assert sum(sizes) == 1_000_000


async def test_read_ahead_makes_no_request_beside_a_running_fill_until_it_is_expedited(
    cache_root: Path,
) -> None:
    data = avc_mp4([keyframe(30_000)] * 200, 40)
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", data)
        server.hold("film.mp4", at=200_000)
        flv, _ = await packaged(cache, asset(origin), data)
        download = await cache.open(asset(origin), Span(0, len(data)))
        download.prefetch(Span(0, len(data)))
        await server.until(lambda: server.body_bytes_sent == 200_000)
        read = await flv.origin.read(flv.name, Span(5_000_000, 5_100_000))
        assert isinstance(read, PrioritizedRead)
        piece = asyncio.ensure_future(anext(aiter(read.pieces())))
        before = len(server.requests)
        for _ in range(10):  # it waits for a byte of the running download
            await asyncio.sleep(0)
        await origin.head("film.mp4")  # earlier requests have arrived by now
        assert [request.method for request in server.requests[before:]] == ["HEAD"]
        before = len(server.requests)
        read.expedite()
        await server.until(lambda: len(server.requests) > before)
        span = server.requests[-1].span
        assert span is not None
        assert 4_000_000 < span.start < 5_000_000
        server.release("film.mp4")
        assert len(await piece)
        await read.close()
        download.close()


async def test_read_of_another_version_or_past_the_end_is_refused(
    media: Media, cache_root: Path
) -> None:
    data = media("film.mp4")
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", data)
        flv, layout = await packaged(cache, asset(origin), data)
        head = await flv.origin.head(flv.name)
        assert head.version.size_bytes == layout.size_bytes
        assert head.version.is_strong
        assert await flv.origin.read(flv.name, if_none_match=head.version) is None
        other = type(head.version)('"other"', layout.size_bytes, None)
        with pytest.raises(OriginError) as changed:
            await flv.origin.read(flv.name, if_match=other)
        assert changed.value.failure is OriginFailure.CHANGED
        with pytest.raises(OriginError) as outside:
            await flv.origin.read(flv.name, Span(layout.size_bytes, layout.size_bytes + 1))
        assert outside.value.failure is OriginFailure.RANGE_OUTSIDE
        # Another version of the source is another asset.
        server.put("film.mp4", data, etag='"2"')
        again = Asset("site\nfilm.mp4", "film.mp4", origin, "site", TtlRules(default_ttl_s=0))
        assert (await packaged(cache, again, data))[0].key != flv.key


async def test_changed_source_is_never_mixed_with_the_old_one(
    media: Media, cache_root: Path
) -> None:
    data = media("film.mp4")
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", data)
        flv, layout = await packaged(cache, asset(origin), data)
        server.put("film.mp4", bytes(len(data)), etag='"2"')
        reader = await cache.open(flv)
        with pytest.raises(OriginError) as failed:
            await reader.read(Span(600_000, layout.size_bytes))
        assert failed.value.failure is OriginFailure.CHANGED
        reader.close()


async def test_failure_of_the_source_is_raised(media: Media, cache_root: Path) -> None:
    data = media("film.mp4")
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mp4", data)
        flv, layout = await packaged(cache, asset(origin), data)
        server.script(Reply(status=500), times=100)
        reader = await cache.open(flv)
        with pytest.raises(OriginError) as failed:
            await reader.read(Span(600_000, layout.size_bytes))
        assert failed.value.failure is OriginFailure.UNAVAILABLE
        # The retries for a span of the source are not multiplied.
        counts = Counter(request.span for request in server.requests if request.span is not None)
        assert max(counts.values()) <= cache.retries + 1
        reader.close()
