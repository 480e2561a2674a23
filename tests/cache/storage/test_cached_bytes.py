"""An operator's reads of cached bytes: what is cached, up to the first byte that is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamedge.cache.storage.cached_bytes import CachedBytes
from streamedge.cache.storage.extent import CHUNK_BYTES, EXTENT_BYTES
from streamedge.cache.storage.inspection import CacheInspector
from streamedge.cache.storage.records import asset_digest
from streamedge.spans import Span
from tests.support.http.location import Location, fetch, fills_ended, run_location
from tests.support.origins.scripted_origin import Pattern

FILM = Pattern(EXTENT_BYTES + 3 * CHUNK_BYTES + 10, seed=3)
SMALL = Pattern(5000, seed=4)
LIMIT_BYTES = 1 << 30


@pytest.fixture
async def location(cache_root: Path) -> AsyncIterator[Location]:
    async with run_location(cache_root) as location:
        location.server.put("film", FILM)
        location.server.put("small", SMALL)
        yield location


def open_cached(
    location: Location, name: str = "film", limit_bytes: int = LIMIT_BYTES
) -> CachedBytes:
    cached = CacheInspector(location.root).find(asset_digest(location.asset(name).key))
    assert cached is not None
    return CachedBytes(location.root, cached, limit_bytes)


async def test_reads_cross_extents_and_end_at_the_first_missing_byte(location: Location) -> None:
    worker = location.worker()
    last = EXTENT_BYTES + CHUNK_BYTES
    await fetch(worker, location.asset(), Span(EXTENT_BYTES - CHUNK_BYTES, last))
    await fills_ended(worker)
    requests = len(location.server.requests)
    film = open_cached(location)
    start = EXTENT_BYTES - CHUNK_BYTES
    across = Span(EXTENT_BYTES - 100, EXTENT_BYTES + 100)
    assert film.read(across) == FILM.read(across)
    assert not film.is_cut
    assert film.read(Span(start - 10, start + 10)) == b""
    assert film.is_cut
    film.close()
    assert len(location.server.requests) == requests


async def test_limit_closing_and_eviction_end_reads(location: Location) -> None:
    await fetch(location.worker(), location.asset(), Span(0, FILM.size_bytes))
    limited = open_cached(location, limit_bytes=1000)
    assert limited.read(Span(0, 2000)) == FILM.read(Span(0, 1000))
    assert limited.is_cut
    limited.close()
    film = open_cached(location)
    assert film.read(Span(0, 10)) == FILM.read(Span(0, 10))
    film.close()
    film.close()
    assert film.read(Span(0, 10)) == b""
    evicted = open_cached(location)
    for path in location.root.glob("extents/*/*"):
        path.unlink()
    assert evicted.read(Span(0, 10)) == b""
    evicted.close()


async def test_small_object_is_read_from_its_record_unless_it_is_damaged(
    location: Location,
) -> None:
    await fetch(location.worker(), location.asset("small"), Span(0, SMALL.size_bytes))
    small = open_cached(location, "small")
    assert small.read(Span(10, 4000)) == SMALL.read(Span(10, 4000))
    small.close()
    damaged = open_cached(location, "small")
    digest = asset_digest(location.asset("small").key)
    path = location.root / "assets" / digest[:2] / digest
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert damaged.read(Span(0, 10)) == b""
    damaged.close()
