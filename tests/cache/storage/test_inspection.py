"""What the cache map shows of the cache folder."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.cache.storage.changes import ChangeCounter
from streamedge.cache.storage.eviction import Evictor
from streamedge.cache.storage.extent import CHUNK_BYTES, EXTENT_BYTES, HEADER_BYTES
from streamedge.cache.storage.inspection import (
    CachedRange,
    CacheInspector,
    KeyParts,
    ObjectKind,
    RangeState,
    parse_key,
)
from streamedge.cache.storage.maintenance import purge, verify
from streamedge.cache.storage.pins import pin, unpin
from streamedge.cache.storage.records import key_hash
from streamedge.keys import join_key
from streamedge.spans import Span
from tests.support.event_loop import until
from tests.support.http.location import Location, fetch, fills_ended, run_location
from tests.support.origins.scripted_origin import Pattern

FILM = Pattern(10 * CHUNK_BYTES + 1000, seed=4)
ALL = Span(0, FILM.size_bytes)


@pytest.fixture
async def location(cache_root: Path) -> AsyncIterator[Location]:
    async with run_location(cache_root) as location:
        location.server.put("film", FILM)
        location.server.put("page", Pattern(5000, seed=1), content_type="text/html")
        yield location


def film(location: Location) -> str:
    return key_hash(location.asset().key).digest


async def test_whole_object_is_one_cached_range(location: Location) -> None:
    await fetch(location.worker(), location.asset(), ALL)
    inspector = CacheInspector(location.root)
    cached = inspector.find(film(location))
    assert cached is not None
    assert cached.size_bytes == cached.cached_bytes == FILM.size_bytes
    assert cached.ranges == (CachedRange(0, FILM.size_bytes, RangeState.CACHED),)
    assert cached.disk_bytes > FILM.size_bytes
    assert cached.record.head.version.etag == '"1"'


async def test_small_object_is_cached_in_its_record(location: Location) -> None:
    await fetch(location.worker(), location.asset("page"), Span(0, 5000))
    (cached,) = CacheInspector(location.root).page().objects
    assert cached.ranges == (CachedRange(0, 5000, RangeState.CACHED),)


async def test_half_filled_object_shows_which_ranges_are_here(location: Location) -> None:
    worker = location.worker()
    await fetch(worker, location.asset(), Span(0, 1))
    await fills_ended(worker)
    cached = CacheInspector(location.root).find(film(location))
    assert cached is not None
    assert cached.ranges[0].start == 0
    extent = location.extent(FILM.size_bytes)
    assert extent is not None
    try:
        ready = extent.ready_bytes(0, FILM.size_bytes)
        assert cached.ranges[0].end == ready
    finally:
        extent.close()


async def test_chunk_that_a_worker_fills_is_filling(location: Location) -> None:
    worker = location.worker()
    location.server.hold("film", at=2 * CHUNK_BYTES + 500)
    reader = await worker.open(location.asset(), ALL)
    waiting = asyncio.create_task(reader.read(ALL))
    inspector = CacheInspector(location.root)

    def states() -> list[RangeState]:
        cached = inspector.find(film(location))
        return [] if cached is None else [one.state for one in cached.ranges]

    await until(lambda: states() == [RangeState.CACHED, RangeState.FILLING])
    cached = inspector.find(film(location))
    assert cached is not None
    assert cached.ranges[0].end == cached.ranges[1].start
    assert cached.cached_bytes == cached.ranges[0].end
    location.server.release("film")
    assert await waiting == FILM.read(ALL)
    reader.close()


async def test_chunks_of_an_earlier_era_are_unchecked(location: Location) -> None:
    await fetch(location.worker(), location.asset(), ALL)
    era = json.loads((location.root / "era").read_text())
    (location.root / "era").write_text(json.dumps(era | {"era": era["era"] + 1}))
    cached = CacheInspector(location.root).find(film(location))
    assert cached is not None
    assert [one.state for one in cached.ranges] == [RangeState.UNCHECKED]


async def test_pages_hold_all_objects_once_in_order(location: Location) -> None:
    worker = location.worker()
    names = [f"page-{number}" for number in range(7)]
    for name in names:
        location.server.put(name, Pattern(300, seed=2), content_type="text/html")
        await fetch(worker, location.asset(name), Span(0, 300))
    inspector, cursor = CacheInspector(location.root), ""
    keys: list[str] = []
    while True:
        page = inspector.page(cursor, limit=2)
        keys += [one.record.key for one in page.objects]
        cursor = page.cursor
        if not cursor:
            break
    assert sorted(keys) == sorted(f"origin/{name}" for name in names)
    digests = [key_hash(key).digest for key in keys]
    assert digests == sorted(digests)


async def test_page_ends_after_its_time(location: Location) -> None:
    worker = location.worker()
    for number in range(3):
        location.server.put(f"page-{number}", Pattern(300, seed=2))
        await fetch(worker, location.asset(f"page-{number}"), Span(0, 300))
    ticks = iter(range(100))
    page = CacheInspector(location.root, lambda: next(ticks)).page()
    assert (page.scanned, len(page.objects)) == (1, 1)
    assert page.cursor


async def test_pattern_selects_names(location: Location) -> None:
    worker = location.worker()
    await fetch(worker, location.asset(), ALL)
    await fetch(worker, location.asset("page"), Span(0, 5000))
    inspector = CacheInspector(location.root)

    def names(pattern: str) -> set[str]:
        return {one.parts.name for one in inspector.page(pattern=pattern).objects}

    assert names("film") == names("*film") == {"origin/film"}
    assert names("") == names("*") == {"origin/film", "origin/page"}
    assert names("film*") == set()


async def test_damaged_and_foreign_files_are_left_out(location: Location) -> None:
    await fetch(location.worker(), location.asset("page"), Span(0, 5000))
    folder = location.root / "assets" / "aa"
    folder.mkdir(exist_ok=True)
    (folder / ("a" * 64)).write_bytes(b"{")
    (folder / "notes.txt").write_bytes(b"x")
    (location.root / "assets" / "file").write_bytes(b"x")
    assert len(CacheInspector(location.root).page().objects) == 1


def test_keys_say_what_they_are() -> None:
    source = join_key("site", "/a/b", "q=1")
    assert parse_key(source) == KeyParts(ObjectKind.OBJECT, "site", "/a/b", ("q=1",))
    assert parse_key(join_key("variant", source, "accept=a")) == KeyParts(
        ObjectKind.VARIANT, "site", "/a/b", ("q=1", "accept=a")
    )
    assert parse_key(join_key("flv", source, "3")).kind is ObjectKind.PACKAGED
    assert parse_key(join_key("compressed", source, "br")).kind is ObjectKind.COMPRESSED


@given(st.text())
def test_any_key_has_parts(key: str) -> None:
    assert parse_key(key).kind in ObjectKind


async def test_purged_object_is_fetched_again_also_where_it_is_open(location: Location) -> None:
    workers = [location.worker(), location.worker()]
    for worker in workers:
        await fetch(worker, location.asset(), ALL)
    location.server.put("film", Pattern(FILM.size_bytes, seed=9), etag='"2"')
    cached = CacheInspector(location.root).find(film(location))
    assert cached is not None
    purge(location.root, ChangeCounter(location.root), cached)
    assert not location.extent_path(FILM.size_bytes).exists()
    for worker in workers:
        body = await fetch(worker, location.asset(), ALL)
        assert body == Pattern(FILM.size_bytes, seed=9).read(ALL)


async def test_verify_removes_a_damaged_extent(location: Location) -> None:
    await fetch(location.worker(), location.asset(), ALL)
    cached = CacheInspector(location.root).find(film(location))
    assert cached is not None
    (sound,) = verify(location.root, cached)
    assert (sound.checked_bytes, sound.damaged) == (FILM.size_bytes, ())
    path = location.extent_path(FILM.size_bytes)
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, b"damage", HEADER_BYTES + 3 * CHUNK_BYTES + 17)
    os.close(fd)
    (damaged,) = verify(location.root, cached)
    assert damaged.damaged == (str(path),)
    assert not path.exists()
    assert list(verify(location.root, cached)) == [(0, ())]
    await location.workers[0].close()
    assert await fetch(location.worker(), location.asset(), ALL) == FILM.read(ALL)


async def test_verify_removes_a_damaged_small_object(location: Location) -> None:
    await fetch(location.worker(), location.asset("page"), Span(0, 5000))
    (cached,) = CacheInspector(location.root).page().objects
    path = location.root / "assets" / cached.id[:2] / cached.id
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    ((_bytes, damaged),) = verify(location.root, cached)
    assert damaged == (str(path),)
    assert not path.exists()


async def test_verify_leaves_out_what_a_worker_fills(location: Location) -> None:
    worker = location.worker()
    await fetch(worker, location.asset(), ALL)
    cached = CacheInspector(location.root).find(film(location))
    assert cached is not None
    extent = location.extent(FILM.size_bytes)
    assert extent is not None
    fd = os.open(extent.path, os.O_WRONLY)
    os.pwrite(fd, b"damage", HEADER_BYTES)
    os.close(fd)
    assert extent.lock(Span(0, 1)).size
    (result,) = verify(location.root, cached)
    assert result.damaged == ()
    extent.close()
    (result,) = verify(location.root, cached)
    assert result.damaged


async def test_pinned_object_is_not_evicted(location: Location) -> None:
    worker = location.worker()
    await fetch(worker, location.asset(), ALL)
    await fetch(worker, location.asset("page"), Span(0, 5000))
    await worker.close()
    inspector = CacheInspector(location.root)
    pin(location.root, film(location))
    evictor = Evictor(location.root, 1, exempt_paths=inspector.pinned_paths)
    evictor.evict()
    evictor.close()
    assert [one.is_pinned for one in inspector.page().objects] == [True]
    assert location.extent_path(FILM.size_bytes).exists()
    assert inspector.pinned_bytes() > FILM.size_bytes
    unpin(location.root, film(location))
    evictor = Evictor(location.root, 1, exempt_paths=inspector.pinned_paths)
    evictor.evict()
    evictor.close()
    assert inspector.page().objects == ()


async def test_ranges_of_several_extents_are_joined(location: Location) -> None:
    large = Pattern(EXTENT_BYTES + CHUNK_BYTES, seed=5)
    location.server.put("film", large)
    worker = location.worker()
    span = Span(EXTENT_BYTES - 10, EXTENT_BYTES + 10)
    await fetch(worker, location.asset(), span)
    await fills_ended(worker)
    cached = CacheInspector(location.root).find(film(location))
    assert cached is not None
    last = cached.ranges[-1]
    assert last.start < EXTENT_BYTES - 10
    assert last.end >= EXTENT_BYTES + 10
    assert all(
        one.end < other.start for one, other in zip(cached.ranges, cached.ranges[1:], strict=False)
    )
