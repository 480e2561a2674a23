"""Fills that readers and workers share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamedge.cache.objects import Cache
from streamedge.cache.open_object import FILLS_MAX
from streamedge.cache.reader import Reader
from streamedge.cache.storage.extent import CHUNK_BYTES
from streamedge.errors import OriginError
from streamedge.ops.metrics import Gauge
from streamedge.spans import Span
from tests.support.http.location import Location, fetch, fills_ended, run_location
from tests.support.origins.scripted_origin import Pattern

FILM = Pattern(8 * CHUNK_BYTES + 777, seed=12)
ALL = Span(0, FILM.size_bytes)
STOP = 2 * CHUNK_BYTES + 1000


@pytest.fixture
async def location(cache_root: Path) -> AsyncIterator[Location]:
    async with run_location(cache_root) as location:
        location.server.put("film", FILM)
        yield location


async def stalled_fill(location: Location, worker: Cache) -> Reader:
    """A reader whose worker's fill has read STOP bytes and waits for the origin."""
    location.server.hold("film", at=STOP)
    reader = await worker.open(location.asset(), ALL)
    await reader.wait(Span(STOP - 1, STOP), eager=True)
    return reader


async def test_fill_of_another_worker_is_followed_as_it_arrives(location: Location) -> None:
    one, other = location.worker(), location.worker()
    filling = await stalled_fill(location, one)
    following = await other.open(location.asset(), ALL)
    await following.wait(Span(STOP - 1, STOP))
    assert following.ready_end(0, FILM.size_bytes) == STOP
    reading = asyncio.ensure_future(following.read(ALL))
    location.server.release("film", 5)
    await following.wait(Span(STOP + 4, STOP + 5), eager=True)
    assert following.ready_end(0, FILM.size_bytes) == STOP + 5
    location.server.release("film")
    assert await reading == FILM.read(ALL)
    assert len(location.server.requests) == 1
    for reader in (filling, following):
        reader.close()


async def test_fill_that_ends_early_is_continued_where_it_stopped(location: Location) -> None:
    one, other = location.worker(), location.worker()
    filling = await stalled_fill(location, one)
    following = await other.open(location.asset(), ALL)
    reading = asyncio.ensure_future(following.read(ALL))
    await one.close()
    await location.server.until(lambda: location.server.connections_open == 0)
    location.server.release("film")
    assert await reading == FILM.read(ALL)
    assert [request.span for request in location.server.requests] == [
        ALL.align(CHUNK_BYTES),
        Span(STOP, FILM.size_bytes),
    ]
    assert location.server.body_bytes_sent == FILM.size_bytes
    for reader in (filling, following):
        reader.close()


async def test_workers_fill_different_parts_at_the_same_time(location: Location) -> None:
    one, other = location.worker(), location.worker()
    filling = await stalled_fill(location, one)
    first = await other.open(location.asset())
    # Chunks that a worker has claimed are its own, wherever it has come to.
    reading = asyncio.ensure_future(first.read(Span(5 * CHUNK_BYTES, 6 * CHUNK_BYTES)))
    location.server.release("film")
    assert await reading == FILM.read(Span(5 * CHUNK_BYTES, 6 * CHUNK_BYTES))
    assert await filling.read(ALL) == FILM.read(ALL)
    assert location.bytes_requested() == FILM.size_bytes
    for reader in (filling, first):
        reader.close()


async def test_running_fills_are_limited_and_the_others_follow(location: Location) -> None:
    film = Pattern(2 * (FILLS_MAX + 10) * CHUNK_BYTES, seed=13)
    location.server.put("film", film)
    location.server.hold("film")
    worker = location.worker()
    reader = await worker.open(location.asset())
    spans = [Span(at, at + CHUNK_BYTES) for at in range(0, film.size_bytes, 2 * CHUNK_BYTES)]
    reading = [asyncio.ensure_future(reader.read(span)) for span in spans]
    await location.server.wait_for_requests(1 + FILLS_MAX)
    assert worker.counts.gauges[Gauge.RUNNING_FILLS] == FILLS_MAX
    assert len(location.server.requests) == 1 + FILLS_MAX
    location.server.release("film")
    assert await asyncio.gather(*reading) == [film.read(span) for span in spans]
    await fills_ended(worker)
    assert worker.counts.gauges[Gauge.RUNNING_FILLS] == 0
    assert location.server.body_bytes_sent == len(spans) * CHUNK_BYTES
    reader.close()


async def test_failing_origin_fails_each_worker_separately(location: Location) -> None:
    one, other = location.worker(retries=0), location.worker(retries=0)
    filling = await stalled_fill(location, one)
    following = await other.open(location.asset(), ALL)
    reading = [asyncio.ensure_future(each.read(ALL)) for each in (filling, following)]
    await location.server.refuse()
    for result in await asyncio.gather(*reading, return_exceptions=True):
        assert isinstance(result, OriginError)
    await location.server.accept()
    location.server.release("film")
    assert await filling.read(ALL) == await following.read(ALL) == FILM.read(ALL)
    assert location.bytes_requested() == FILM.size_bytes
    for reader in (filling, following):
        reader.close()


async def test_version_is_idle_without_readers_and_fills(location: Location) -> None:
    worker = location.worker()
    reader = await stalled_fill(location, worker)
    opened = reader.open_object
    assert not opened.idle
    reader.close()
    assert not opened.idle
    location.server.release("film")
    await fills_ended(worker)
    assert opened.idle
    assert opened.files.count == 1
    assert not opened.files.in_memory
    again = await worker.open(location.asset())
    assert not opened.idle
    again.close()


async def test_covered_bytes_are_cached_or_on_their_way(location: Location) -> None:
    worker = location.worker()
    reader = await stalled_fill(location, worker)
    assert reader.open_object.is_covered(ALL)
    assert location.server.body_bytes_sent == STOP
    location.server.release("film")
    await reader.read(ALL)
    assert reader.open_object.is_covered(ALL)
    reader.close()
    location.server.put("other", FILM)
    await fetch(worker, location.asset("other"), Span(0, 1))
    other = await worker.open(location.asset("other"))
    assert other.open_object.is_covered(Span(0, CHUNK_BYTES))
    assert not other.open_object.is_covered(Span(0, CHUNK_BYTES + 1))
    other.close()
