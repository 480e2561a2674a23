"""Several fills of one object: which readers wait, which read for themselves, where fills end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamedge.cache import fill_plan
from streamedge.cache.fill_plan import QUICK_ABORT_BYTES
from streamedge.cache.objects import Cache
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.storage.extent import CHUNK_BYTES
from streamedge.spans import Span
from tests.support.http.location import Location, fetch, fills_ended, run_location
from tests.support.origins.scripted_origin import Pattern, Reply

FILM = Pattern(60 * CHUNK_BYTES + 777, seed=21)
ALL = Span(0, FILM.size_bytes)
STOP = 2 * CHUNK_BYTES
TAIL = Span(54 * CHUNK_BYTES + 10, 55 * CHUNK_BYTES + 20)


@pytest.fixture
async def location(cache_root: Path) -> AsyncIterator[Location]:
    async with run_location(cache_root) as location:
        location.server.put("film", FILM)
        yield location


@pytest.fixture(autouse=True)
def slow_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each origin sends 10 KB in the time that another read needs to begin."""
    monkeypatch.setattr(fill_plan.Pace, "round_trip_bytes", 10_000)


async def held_download(location: Location, worker: Cache) -> Reader:
    """A reader of the whole object, whose fill has read ``STOP`` bytes and waits for the origin."""
    location.server.hold("film", at=STOP)
    reader = await worker.open(location.asset(), ALL)
    await reader.wait(Span(STOP - 1, FILM.size_bytes), eager=True)
    return reader


def requested_spans(location: Location) -> list[Span]:
    return [request.span for request in location.server.requests if request.span is not None]


async def test_range_far_ahead_of_a_fill_is_read_at_once(location: Location) -> None:
    worker = location.worker()
    download = await held_download(location, worker)
    tail = await worker.open(location.asset(), TAIL)
    reading = asyncio.ensure_future(tail.read(TAIL))
    await location.server.wait_for_requests(2)
    assert requested_spans(location)[1] == TAIL.align(CHUNK_BYTES)
    location.server.release("film")
    assert await reading == FILM.read(TAIL)
    assert await download.read(ALL) == FILM.read(ALL)
    for reader in (download, tail):
        reader.close()
    await fills_ended(worker)
    assert requested_spans(location) == [
        ALL.align(CHUNK_BYTES),
        TAIL.align(CHUNK_BYTES),
        Span(56 * CHUNK_BYTES, FILM.size_bytes),
    ]


async def test_range_is_read_beside_the_fill_of_another_worker(location: Location) -> None:
    one, other = location.worker(), location.worker()
    download = await held_download(location, one)
    tail = await other.open(location.asset(), TAIL)
    reading = asyncio.ensure_future(tail.read(TAIL))
    await location.server.wait_for_requests(2)
    assert requested_spans(location)[1] == TAIL.align(CHUNK_BYTES)
    location.server.release("film")
    assert await reading == FILM.read(TAIL)
    assert await download.read(ALL) == FILM.read(ALL)
    for reader in (download, tail):
        reader.close()
    for worker in (one, other):
        await fills_ended(worker)
    # The download ends where the other worker has read, and requests the bytes behind.
    assert requested_spans(location)[2:] == [Span(56 * CHUNK_BYTES, FILM.size_bytes)]
    extent = location.extent(FILM.size_bytes)
    assert extent is not None
    assert extent.lock(Span(0, extent.chunks)) == Span(0, extent.chunks)
    assert extent.settle()
    one.store.close_extent(extent)


async def test_reader_near_a_fill_waits_for_it(location: Location) -> None:
    worker = location.worker()
    download = await held_download(location, worker)
    near = await worker.open(location.asset(), Span(STOP + 9_000, STOP + 9_100))
    reading = asyncio.ensure_future(near.read(Span(STOP + 9_000, STOP + 9_100)))
    await asyncio.sleep(0)
    location.server.release("film")
    assert await reading == FILM.read(Span(STOP + 9_000, STOP + 9_100))
    assert await download.read(ALL) == FILM.read(ALL)
    assert len(location.server.requests) == 1
    for reader in (download, near):
        reader.close()


async def test_prefetch_shortens_no_running_fill(location: Location) -> None:
    worker = location.worker()
    download = await held_download(location, worker)
    download.prefetch(Span(TAIL.start, FILM.size_bytes))
    location.server.release("film")
    assert await download.read(ALL) == FILM.read(ALL)
    assert len(location.server.requests) == 1
    download.close()


@pytest.mark.parametrize("says_so", [True, False])
async def test_reader_waits_for_the_fill_of_an_origin_without_ranges(
    location: Location, says_so: bool
) -> None:
    headers = (("Accept-Ranges", "none" if says_so else None),)
    location.server.script(Reply(headers=headers, ignore_range=True), times=9)
    worker = location.worker()
    download = await held_download(location, worker)
    tail = await worker.open(location.asset(), TAIL)
    reading = asyncio.ensure_future(tail.read(TAIL))
    # An origin that does not say so is detected, and its second response is closed.
    count = 1 if says_so else 2
    await location.server.wait_for_requests(count)
    await location.server.until(lambda: location.server.connections_open == 1)
    tail.prefetch(Span(TAIL.end, FILM.size_bytes))
    for _each_looks_again in range(3):
        tail.open_object.tick(patient=True, recheck=True)
    location.server.release("film")
    assert await reading == FILM.read(TAIL)
    assert await download.read(ALL) == FILM.read(ALL)
    assert len(location.server.requests) == count
    for reader in (download, tail):
        reader.close()


async def test_whole_response_to_a_range_is_stored_completely(location: Location) -> None:
    location.server.script(Reply(), times=1)
    location.server.script(Reply(ignore_range=True), times=9)
    worker = location.worker()
    reader = await worker.open(location.asset())  # a HEAD
    assert await reader.read(TAIL) == FILM.read(TAIL)
    assert await reader.read(ALL) == FILM.read(ALL)
    assert len(location.server.requests) == 2
    reader.close()


async def test_fill_without_readers_ends_and_releases_its_locks(location: Location) -> None:
    worker = location.worker()
    film = Pattern(2 * QUICK_ABORT_BYTES + STOP, seed=22)
    location.server.put("film", film)
    reader = await held_download(location, worker)
    reader.close()
    await location.server.until(lambda: location.server.connections_open == 0)
    await fills_ended(worker)
    extent = location.extent(film.size_bytes)
    assert extent is not None
    assert extent.lock(Span(0, extent.chunks)) == Span(0, extent.chunks)
    assert extent.ready_bytes(0, film.size_bytes) == STOP
    worker.store.close_extent(extent)
    location.server.release("film")
    assert await fetch(worker, location.asset(), Span(0, film.size_bytes)) == film.read(
        Span(0, film.size_bytes)
    )
    assert location.bytes_requested() == film.size_bytes


async def test_fill_continues_for_the_reader_that_stays(location: Location) -> None:
    worker = location.worker()
    film = Pattern(3 * QUICK_ABORT_BYTES, seed=22)
    location.server.put("film", film)
    first = await held_download(location, worker)
    second = await worker.open(location.asset(), Span(0, film.size_bytes))
    reading = asyncio.ensure_future(second.read(Span(0, film.size_bytes)))
    await asyncio.sleep(0)
    first.close()
    location.server.release("film")
    assert await reading == film.read(Span(0, film.size_bytes))
    assert len(location.server.requests) == 1
    second.close()


async def test_fill_continues_for_a_reader_that_reads_ahead(location: Location) -> None:
    """It reads in small steps behind the fill; another reader leaves between two steps."""
    worker = location.worker()
    film = Pattern(3 * QUICK_ABORT_BYTES, seed=23)
    location.server.put("film", film)
    first = await held_download(location, worker)
    second = first.clone()
    second.prefetch(Span(0, film.size_bytes))
    assert await second.read(Span(0, 10)) == film.read(Span(0, 10))
    first.close()
    location.server.release("film")
    assert await second.read(Span(10, film.size_bytes)) == film.read(Span(10, film.size_bytes))
    assert len(location.server.requests) == 1
    second.close()


async def test_response_for_a_cached_version_is_closed(location: Location) -> None:
    worker = location.worker()
    await fetch(worker, location.asset(), ALL)
    reader = await worker.open(location.asset(), ALL)
    read = await location.origin.read("film")
    assert read is not None
    location.server.hold("film", at=STOP)
    reader.open_object.adopt(read)
    await fills_ended(worker)
    await location.server.until(lambda: location.server.connections_open == 0)
    reader.close()


async def test_cached_range_is_a_hit_while_a_fill_approaches_it(location: Location) -> None:
    worker = location.worker()
    await fetch(worker, location.asset(), TAIL)
    download = await held_download(location, worker)
    warm = await worker.open(location.asset(), TAIL)
    assert warm.result is CacheResult.HIT
    far = await worker.open(location.asset(), Span(TAIL.start - 5 * CHUNK_BYTES, TAIL.start))
    assert far.result is CacheResult.MISS
    location.server.release("film")
    for reader in (download, warm, far):
        reader.close()
