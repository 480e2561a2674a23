"""Compressed objects in a real cache: compressed once, from one version, whole and by range."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import brotli
import pytest
import zstandard

from streamedge.cache.objects import VERSION_ONLY, Cache
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.eviction import scan
from streamedge.cache.storage.records import Asset
from streamedge.cache.storage.store import Store
from streamedge.delivery.http.compression import compressor as compressor_module
from streamedge.delivery.http.compression.compressor import (
    COMPRESSIONS_MAX,
    Compressor,
    encoded_key,
)
from streamedge.delivery.http.compression.encoders import Encoder, start_encoder
from streamedge.delivery.http.compression.negotiation import ContentCoding
from streamedge.errors import OriginError, OriginFailure
from streamedge.keys import split_key
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts
from streamedge.origin import Version
from streamedge.origin.http.origin import HttpOrigin
from streamedge.spans import Span
from tests.support.origins.scripted_origin import Reply, ScriptedOrigin, read_all
from tests.support.patience import PATIENCE_S

WHOLE = Span(0, 1 << 62)
PAGE = "".join(f"<p>line {number * number}</p>\n" for number in range(40_000)).encode()
CHANGED = PAGE.replace(b"line", b"LINE")
DECODERS = {
    ContentCoding.BROTLI: brotli.decompress,
    ContentCoding.ZSTANDARD: lambda data: zstandard.ZstdDecompressor().decompress(data),
    ContentCoding.GZIP: lambda data: zlib.decompress(data, 31),
}


class Site:
    """A page of a scripted origin, and workers that share a cache, with their compressors."""

    def __init__(self, root: Path, server: ScriptedOrigin) -> None:
        self.server = server
        self.origin = HttpOrigin(server.url)
        self.workers: list[Cache] = []
        self._root = root
        server.put("page", PAGE, etag='"v1"', content_type="text/html")

    def worker(self, *, retries: int = 1) -> tuple[Cache, Compressor]:
        """Starts one more worker."""
        log = open_log(str(self._root.parent / "log"), "test")
        store = Store(self._root, len(self.workers), log)
        cache = Cache(store, log, Counts(), open_extents=64, retries=retries)
        self.workers.append(cache)
        return cache, Compressor(cache)

    def page(self, ttl_s: float = 3600) -> Asset:
        return Asset("site\npage", "page", self.origin, "site", TtlRules(default_ttl_s=ttl_s))


@pytest.fixture
async def site(cache_root: Path) -> AsyncIterator[Site]:
    async with ScriptedOrigin() as server:
        site = Site(cache_root, server)
        try:
            yield site
        finally:
            for cache in site.workers:
                await cache.close()
            await site.origin.close()


async def open_encoded(
    cache: Cache, compressor: Compressor, page: Asset, encoding: ContentCoding, want: Span = WHOLE
) -> Reader:
    """Opens the identity object, then its compressed object, as a response does."""
    identity = await cache.open(page, WHOLE)
    try:
        return await cache.open(compressor.encoded_asset(page, identity.head, encoding), want)
    finally:
        identity.close()


async def fetch(
    cache: Cache, compressor: Compressor, page: Asset, encoding: ContentCoding, span: Span = WHOLE
) -> bytes:
    reader = await open_encoded(cache, compressor, page, encoding, span)
    try:
        return await reader.read(span)
    finally:
        reader.close()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ContentCoding]:
    """The compressions started so far."""
    begun: list[ContentCoding] = []

    def start(encoding: ContentCoding, size_bytes: int) -> Encoder:
        begun.append(encoding)
        return start_encoder(encoding, size_bytes)

    monkeypatch.setattr(compressor_module, "start_encoder", start)
    return begun


@pytest.mark.parametrize("encoding", ContentCoding)
async def test_object_is_compressed_once_with_one_origin_read(
    site: Site, started: list[ContentCoding], encoding: ContentCoding
) -> None:
    cache, compressor = site.worker()
    for result in (CacheResult.MISS, CacheResult.HIT):
        reader = await open_encoded(cache, compressor, site.page(), encoding)
        assert reader.result is result
        compressed = await reader.read(WHOLE)
        assert len(compressed) == reader.size_bytes < len(PAGE) / 2
        assert DECODERS[encoding](compressed) == PAGE
        version = reader.head.version
        assert version.etag == f'W/"v1-{encoding.value}"'
        assert reader.head.content_type == "text/html"
        reader.close()
    assert started == [encoding]
    assert site.server.body_bytes_sent == len(PAGE)


async def test_simultaneous_requests_share_one_compression(
    site: Site, started: list[ContentCoding]
) -> None:
    cache, compressor = site.worker()
    compressed = await asyncio.gather(
        *(fetch(cache, compressor, site.page(), ContentCoding.GZIP) for _viewer in range(20))
    )
    assert set(compressed) == {compressed[0]}
    assert started == [ContentCoding.GZIP]
    assert site.server.body_bytes_sent == len(PAGE)


async def test_another_worker_reuses_the_compressed_object(
    site: Site, started: list[ContentCoding]
) -> None:
    first = await fetch(*site.worker(), site.page(), ContentCoding.BROTLI)
    assert await fetch(*site.worker(), site.page(), ContentCoding.BROTLI) == first
    assert started == [ContentCoding.BROTLI]
    assert site.server.body_bytes_sent == len(PAGE)


async def test_representations_are_cached_side_by_side(
    site: Site, started: list[ContentCoding]
) -> None:
    cache, compressor = site.worker()
    compressed = [
        await fetch(cache, compressor, site.page(), encoding) for encoding in ContentCoding
    ]
    assert started == list(ContentCoding)
    for encoding, data in zip(ContentCoding, compressed, strict=True):
        assert await fetch(cache, compressor, site.page(), encoding) == data
    identity = await cache.open(site.page())
    assert await identity.read(WHOLE) == PAGE
    identity.close()
    assert started == list(ContentCoding)
    assert site.server.body_bytes_sent == len(PAGE)


@pytest.mark.parametrize("cold", [False, True])
async def test_ranges_apply_to_the_compressed_representation(
    site: Site, started: list[ContentCoding], cold: bool
) -> None:
    cache, compressor = site.worker()
    size = len(await fetch(*site.worker(), site.page(), ContentCoding.GZIP))
    page = site.page()
    if cold:
        site.server.put("page", CHANGED, etag='"v2"', content_type="text/html")
        page = site.page(ttl_s=0)
    content = CHANGED if cold else PAGE
    pieces = [
        await fetch(cache, compressor, page, ContentCoding.GZIP, Span(start, end))
        for start, end in ((0, 10), (10, 70_000), (70_000, size), (size, size + 10**6))
    ]
    assert [len(piece) for piece in pieces[:2]] == [10, 69_990]
    assert zlib.decompress(b"".join(pieces), 31) == content
    assert len(started) == (2 if cold else 1)


async def test_changed_version_is_compressed_again(
    site: Site, started: list[ContentCoding]
) -> None:
    cache, compressor = site.worker()
    page = site.page(ttl_s=0)  # revalidated each time
    for _unchanged in range(2):
        assert brotli.decompress(await fetch(cache, compressor, page, ContentCoding.BROTLI)) == PAGE
    old = await open_encoded(cache, compressor, page, ContentCoding.BROTLI)
    site.server.put("page", CHANGED, etag='"v2"', content_type="text/html")
    assert brotli.decompress(await fetch(cache, compressor, page, ContentCoding.BROTLI)) == CHANGED
    assert brotli.decompress(await old.read(WHOLE)) == PAGE  # its reader continues
    old.close()
    assert len(started) == 2


def test_key_differs_by_coding_and_version() -> None:
    versions = [
        Version('"v1"', 5000, 1),
        Version('"v2"', 5000, 1),
        Version('"v1"', 5001, 1),
        Version('"v1"', 5000, None),
        Version('"v1"', 5000, 1, "one answer"),
    ]
    keys = [
        encoded_key("site\npage", version, form) for version in versions for form in ContentCoding
    ]
    assert len(set(keys)) == len(keys)
    assert all(split_key(key)[1] == "site\npage" for key in keys)


async def test_origin_failure_is_passed_on_without_more_retries(site: Site) -> None:
    cache, compressor = site.worker(retries=1)
    identity = await cache.open(site.page(), VERSION_ONLY)
    encoded = compressor.encoded_asset(site.page(), identity.head, ContentCoding.GZIP)
    site.server.script(Reply(status=503), times=2)
    with pytest.raises(OriginError) as failed:
        await cache.open(encoded, WHOLE)
    assert failed.value.failure is OriginFailure.UNAVAILABLE
    assert len(site.server.requests) == 3  # the HEAD, the fill and its one retry
    reader = await cache.open(encoded, WHOLE)  # a failure is not stored
    assert zlib.decompress(await reader.read(WHOLE), 31) == PAGE
    reader.close()
    identity.close()


async def test_old_version_is_not_mixed_with_the_new_one(site: Site) -> None:
    cache, compressor = site.worker()
    identity = await cache.open(site.page(), VERSION_ONLY)
    site.server.put("page", CHANGED, etag='"v2"', content_type="text/html")
    with pytest.raises(OriginError) as failed:
        await cache.open(
            compressor.encoded_asset(site.page(), identity.head, ContentCoding.GZIP), WHOLE
        )
    assert failed.value.failure is OriginFailure.CHANGED
    identity.close()
    assert (
        zlib.decompress(await fetch(cache, compressor, site.page(), ContentCoding.GZIP), 31)
        == CHANGED
    )


async def test_incomplete_object_takes_no_compression_slot(
    site: Site, started: list[ContentCoding]
) -> None:
    """More incomplete objects than slots do not delay the compression of a complete one."""
    cache, compressor = site.worker()
    slow = []
    for number in range(COMPRESSIONS_MAX + 1):
        name = f"slow-{number}"
        site.server.put(name, PAGE, content_type="text/html")
        site.server.hold(name, at=70_000)
        asset = Asset(f"site\n{name}", name, site.origin, "site", TtlRules())
        slow.append(asyncio.create_task(fetch(cache, compressor, asset, ContentCoding.GZIP)))
    await site.server.until(lambda: site.server.body_bytes_sent == 70_000 * len(slow))
    async with asyncio.timeout(PATIENCE_S):
        compressed = await fetch(cache, compressor, site.page(), ContentCoding.GZIP)
    assert zlib.decompress(compressed, 31) == PAGE
    assert started == [ContentCoding.GZIP]
    for number in range(len(slow)):
        site.server.release(f"slow-{number}")
    assert {zlib.decompress(compressed, 31) for compressed in await asyncio.gather(*slow)} == {PAGE}


async def test_concurrent_compressions_are_limited(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[int] = [0, 0]  # now, and at most

    class Counting:
        def __init__(self, encoding: ContentCoding, size_bytes: int) -> None:
            self._encoder = start_encoder(encoding, size_bytes)
            running[0] += 1
            running[1] = max(running)

        def compress(self, data: bytes, /) -> bytes:
            return self._encoder.compress(data)

        def flush(self) -> bytes:
            running[0] -= 1
            return self._encoder.flush()

    monkeypatch.setattr(compressor_module, "start_encoder", Counting)
    cache, compressor = site.worker()
    fetches = []
    for number in range(8):
        site.server.put(f"page-{number}", PAGE, content_type="text/html")
        asset = Asset(f"site\n{number}", f"page-{number}", site.origin, "site", TtlRules())
        fetches.append(fetch(cache, compressor, asset, ContentCoding.GZIP))
    compressed = await asyncio.gather(*fetches)
    assert {zlib.decompress(one, 31) for one in compressed} == {PAGE}
    assert running == [0, COMPRESSIONS_MAX]


async def test_compressed_origin_behaves_like_any_origin(site: Site) -> None:
    cache, compressor = site.worker()
    identity = await cache.open(site.page(), WHOLE)
    encoded = compressor.encoded_asset(site.page(), identity.head, ContentCoding.ZSTANDARD)
    identity.close()
    head = await encoded.origin.head(encoded.name)
    size = head.version.size_bytes
    assert head.version.last_modified_s == identity.head.version.last_modified_s
    compressed = await read_all(await encoded.origin.read(encoded.name))
    assert (len(compressed), DECODERS[ContentCoding.ZSTANDARD](compressed)) == (size, PAGE)
    read = await encoded.origin.read(encoded.name, Span(5, 6), if_match=head.version)
    assert read is not None
    assert (read.head, read.span) == (head, Span(0, size))
    await read.close()
    assert await encoded.origin.read(encoded.name, if_none_match=head.version) is None
    with pytest.raises(OriginError) as changed:
        await encoded.origin.read(encoded.name, if_match=Version('"other"', size))
    assert changed.value.failure is OriginFailure.CHANGED
    with pytest.raises(OriginError) as outside:
        await encoded.origin.read(encoded.name, Span(size, size + 1))
    assert outside.value.failure is OriginFailure.RANGE_OUTSIDE


@pytest.mark.parametrize("encoding", list(DECODERS))
async def test_small_page_and_its_compressed_form_are_one_file_each(
    site: Site, cache_root: Path, started: list[ContentCoding], encoding: ContentCoding
) -> None:
    small = PAGE[:20_000]
    site.server.put("page", small, etag='"v1"', content_type="text/html")
    for _worker in range(2):
        cache, compressor = site.worker()
        assert DECODERS[encoding](await fetch(cache, compressor, site.page(), encoding)) == small
    assert started == [encoding]
    assert sorted(file.kind for file in scan(cache_root)) == ["assets", "assets"]
