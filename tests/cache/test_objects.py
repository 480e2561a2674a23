"""``Cache.open``: cold, fresh, stale and changed objects, and many readers at once."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamedge.cache.lookup import fetch as fetch_module
from streamedge.cache.objects import TOUCH_INTERVAL_S, VERSION_ONLY, Cache
from streamedge.cache.open_object import FILLS_MAX
from streamedge.cache.reader import CacheResult
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.eviction import Evictor
from streamedge.cache.storage.extent import CHUNK_BYTES, EXTENT_BYTES, HEADER_BYTES, mark_evicted
from streamedge.cache.storage.records import Record
from streamedge.errors import OriginError, OriginFailure
from streamedge.ops.metrics import Gauge
from streamedge.origin import OriginHead, Version
from streamedge.spans import Span
from tests.support.event_loop import until
from tests.support.http.location import Location, fetch, fills_ended, run_location
from tests.support.origins.scripted_origin import Pattern, Reply

HOUR = TtlRules(default_ttl_s=3600.0)
FILM = Pattern(4 * CHUNK_BYTES + 777, seed=5)
CHANGED = Pattern(FILM.size_bytes + 1, seed=6)
ALL = Span(0, FILM.size_bytes)
FIRST = Span(0, CHUNK_BYTES)


@pytest.fixture
async def location(cache_root: Path) -> AsyncIterator[Location]:
    async with run_location(cache_root) as location:
        location.server.put("film", FILM, content_type="video/mp4")
        yield location


async def open_result(worker: Cache, location: Location, ttl_s: float = 3600.0) -> CacheResult:
    """The result of an open of the film, after a read of ``want``."""
    reader = await worker.open(location.asset(default_ttl_s=ttl_s), FIRST)
    try:
        assert await reader.read(FIRST) == FILM.read(FIRST)
        return reader.result
    finally:
        reader.close()


# --- cold -----------------------------------------------------------------------------------


async def test_cold_open_is_one_request_with_the_first_bytes(location: Location) -> None:
    worker = location.worker()
    want = Span(CHUNK_BYTES + 5, CHUNK_BYTES + 10)
    before_s = time.time()
    reader = await worker.open(location.asset(), want)
    assert reader.result is CacheResult.MISS
    assert reader.size_bytes == FILM.size_bytes
    assert reader.head.version.etag == '"1"'
    assert reader.head.content_type == "video/mp4"
    assert 0 <= reader.age_s(time.time()) <= time.time() - before_s
    assert await reader.read(want) == FILM.read(want)
    reader.close()
    (request,) = location.server.requests
    assert (request.method, request.span) == ("GET", Span(CHUNK_BYTES, 2 * CHUNK_BYTES))
    assert not {"if-none-match", "if-match"} & request.headers.keys()


async def test_open_for_the_version_reads_no_byte(location: Location) -> None:
    worker = location.worker()
    reader = await worker.open(location.asset(), VERSION_ONLY)
    assert (reader.result, reader.size_bytes) == (CacheResult.MISS, FILM.size_bytes)
    assert [request.method for request in location.server.requests] == ["HEAD"]
    assert await reader.read(ALL) == FILM.read(ALL)
    reader.close()
    assert location.server.requests[1].headers["if-match"] == '"1"'


@pytest.mark.parametrize(
    "size_bytes", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES]
)
async def test_objects_around_the_size_of_a_chunk_are_read(
    location: Location, size_bytes: int
) -> None:
    film = Pattern(size_bytes, seed=7)
    location.server.put("film", film)
    for worker in (location.worker(), location.worker()):
        for want in (Span(0, 10**9), Span(size_bytes - 1, size_bytes)):
            assert await fetch(worker, location.asset(), want) == film.read(want)
    assert location.server.body_bytes_sent == size_bytes


@pytest.mark.parametrize("ignore_range", [False, True])
async def test_open_beyond_the_end_gives_the_version(
    location: Location, ignore_range: bool
) -> None:
    worker = location.worker()
    location.server.script(Reply(ignore_range=ignore_range))
    reader = await worker.open(location.asset(), Span(10**7, 10**7 + 1))
    assert (reader.result, reader.size_bytes) == (CacheResult.MISS, FILM.size_bytes)
    assert await reader.read(Span(10**7, 10**7 + 1)) == b""
    assert await reader.read(ALL) == FILM.read(ALL)
    reader.close()
    assert location.server.requests[1].method == "HEAD"


async def test_empty_object_is_read(location: Location) -> None:
    location.server.put("film", b"")
    worker = location.worker()
    for result in (CacheResult.MISS, CacheResult.HIT):
        reader = await worker.open(location.asset(), Span(0, 100))
        assert (reader.result, reader.size_bytes) == (result, 0)
        assert await reader.read(Span(0, 100)) == b""
        reader.close()
    stale = await worker.open(location.asset(default_ttl_s=0), Span(0, 100))
    assert stale.result is CacheResult.REFRESH_HIT
    stale.close()


async def test_read_across_the_end_of_an_extent_is_complete(location: Location) -> None:
    film = Pattern(EXTENT_BYTES + 3 * CHUNK_BYTES + 9, seed=8)
    location.server.put("film", film)
    worker = location.worker()
    border = Span(EXTENT_BYTES - 100, EXTENT_BYTES + 100)
    assert await fetch(worker, location.asset(), border) == film.read(border)
    assert [request.span for request in location.server.requests] == [
        Span(EXTENT_BYTES - CHUNK_BYTES, EXTENT_BYTES),
        Span(EXTENT_BYTES, EXTENT_BYTES + CHUNK_BYTES),
    ]
    end = Span(film.size_bytes - 9, film.size_bytes)
    assert await fetch(worker, location.asset(), end) == film.read(end)
    assert location.extent_path(film.size_bytes, index=0).exists()
    assert location.extent_path(film.size_bytes, index=1).exists()
    assert not location.extent_path(film.size_bytes, index=2).exists()
    sent_bytes = location.server.body_bytes_sent
    assert await fetch(location.worker(), location.asset(), border) == film.read(border)
    assert location.server.body_bytes_sent == sent_bytes == 2 * CHUNK_BYTES + 9


async def test_origin_that_ignores_ranges_fills_the_whole_object(location: Location) -> None:
    worker = location.worker()
    location.server.script(Reply(ignore_range=True))
    want = Span(2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 1)
    assert await fetch(worker, location.asset(), want) == FILM.read(want)
    assert await fetch(worker, location.asset(), ALL) == FILM.read(ALL)
    assert len(location.server.requests) == 1


# --- fresh and stale ------------------------------------------------------------------------


async def test_hit_sends_no_request_in_any_worker(location: Location) -> None:
    worker, other = location.worker(), location.worker()
    assert await open_result(worker, location) is CacheResult.MISS
    assert await open_result(worker, location) is CacheResult.HIT
    assert await open_result(other, location) is CacheResult.HIT
    assert len(location.server.requests) == 1


async def test_stored_record_without_the_bytes_is_a_miss(location: Location) -> None:
    worker = location.worker()
    await fetch(worker, location.asset(), FIRST)
    want = Span(2 * CHUNK_BYTES, 3 * CHUNK_BYTES)
    reader = await worker.open(location.asset(), want)
    assert reader.result is CacheResult.MISS
    assert await reader.read(want) == FILM.read(want)
    reader.close()


async def test_stale_object_is_validated_by_one_request_without_body(location: Location) -> None:
    worker = location.worker()
    await open_result(worker, location)
    sent = location.server.body_bytes_sent
    for count in (2, 3):
        assert await open_result(worker, location, ttl_s=0) is CacheResult.REFRESH_HIT
        assert len(location.server.requests) == count
        assert location.server.requests[-1].headers["if-none-match"] == '"1"'
    assert location.server.body_bytes_sent == sent
    # It is fresh again for all.
    assert await open_result(location.worker(), location) is CacheResult.HIT


async def test_stale_object_without_the_requested_bytes_fetches_them(location: Location) -> None:
    worker = location.worker()
    await open_result(worker, location)
    assert await fetch(worker, location.asset(default_ttl_s=0), ALL) == FILM.read(ALL)
    assert location.server.body_bytes_sent == FILM.size_bytes


@pytest.mark.parametrize(
    ("cache_control", "ttl_s", "result"),
    [
        ("max-age=1000", 0.0, CacheResult.HIT),
        ("max-age=0", 3600.0, CacheResult.REFRESH_HIT),
        ("no-store", 3600.0, CacheResult.MISS),
        ("private", 3600.0, CacheResult.MISS),
        ("s-maxage=0, max-age=100", 3600.0, CacheResult.REFRESH_HIT),
        ("public", 3600.0, CacheResult.HIT),
        ("public", 0.0, CacheResult.REFRESH_HIT),
    ],
)
async def test_lifetime_of_the_origin_overrides_the_default_ttl(
    location: Location, cache_control: str, ttl_s: float, result: CacheResult
) -> None:
    location.server.put("film", FILM, headers=(("Cache-Control", cache_control),))
    worker = location.worker()
    await open_result(worker, location, ttl_s)
    assert await open_result(worker, location, ttl_s) is result
    assert await open_result(location.worker(), location, ttl_s) is result


async def test_changed_object_is_new_for_new_readers_and_old_for_open_ones(
    location: Location,
) -> None:
    worker = location.worker()
    old = await worker.open(location.asset(), FIRST)
    assert await old.read(FIRST) == FILM.read(FIRST)
    location.server.put("film", CHANGED, etag='"2"')
    stale = location.asset(default_ttl_s=0)
    new = await worker.open(stale, FIRST)
    assert new.result is CacheResult.MISS
    assert new.head.version.etag == '"2"'
    assert await new.read(Span(0, 10**9)) == CHANGED.read(Span(0, 10**9))
    assert old.head.version.etag == '"1"'
    assert await old.read(FIRST) == FILM.read(FIRST)
    with pytest.raises(OriginError) as caught:
        await old.read(ALL)
    assert caught.value.failure is OriginFailure.CHANGED
    assert await old.read(FIRST) == FILM.read(FIRST)
    # From now on, opens return the new version.
    assert (await fetch(worker, location.asset(), FIRST)) == CHANGED.read(FIRST)
    old.close()
    new.close()
    assert worker.counts.gauges[Gauge.OPEN_EXTENTS] == 1


async def test_fill_of_a_changed_object_makes_the_next_open_ask_the_origin(
    location: Location,
) -> None:
    worker, other = location.worker(), location.worker()
    reader = await worker.open(location.asset(), FIRST)
    await reader.read(FIRST)
    location.server.put("film", CHANGED, etag='"2"')
    with pytest.raises(OriginError):
        await reader.read(ALL)
    reader.close()
    assert not location.record_path().exists()
    assert await fetch(other, location.asset(), FIRST) == CHANGED.read(FIRST)
    assert await fetch(worker, location.asset(), FIRST) == CHANGED.read(FIRST)


@pytest.mark.parametrize("damage", [b"", bytes(300), b'{"key": 1}'])
async def test_damaged_record_is_fetched_again(location: Location, damage: bytes) -> None:
    await fetch(location.worker(), location.asset(), FIRST)
    location.record_path().write_bytes(damage)
    sent = location.server.body_bytes_sent
    assert await fetch(location.worker(), location.asset(), ALL) == FILM.read(ALL)
    assert len(location.server.requests) > 1
    assert location.server.body_bytes_sent - sent <= FILM.size_bytes + CHUNK_BYTES


async def test_damaged_extents_are_dropped_and_fetched_again(location: Location) -> None:
    await fetch(location.worker(), location.asset(), ALL)
    path = location.extent_path(FILM.size_bytes)
    with path.open("r+b") as file:
        file.write(b"XXXX")
    assert await fetch(location.worker(), location.asset(), ALL) == FILM.read(ALL)
    assert [line["path"] for line in location.events("extent_dropped")] == [str(path)]
    assert location.server.body_bytes_sent == 2 * FILM.size_bytes
    assert await fetch(location.worker(), location.asset(), ALL) == FILM.read(ALL)
    assert location.server.body_bytes_sent == 2 * FILM.size_bytes


async def test_peek_returns_open_and_fresh_versions(location: Location) -> None:
    worker = location.worker()
    key = location.asset().key
    assert worker.peek(key, HOUR, time.time()) is None
    await open_result(worker, location)
    now_s = time.time()
    version = worker.peek(key, HOUR, now_s)
    assert version is not None
    assert version.head.version.etag == '"1"'
    assert worker.peek(key, HOUR, now_s + 3601) is None
    assert worker.peek(key, HOUR, now_s - 3601) is None
    assert worker.peek(key, TtlRules(default_ttl_s=0), now_s) is None
    assert worker.peek("other", HOUR, now_s) is None


async def test_peek_checks_for_evicted_files_at_intervals(location: Location) -> None:
    worker = location.worker()
    await open_result(worker, location)
    key, now_s = location.asset().key, time.time()
    assert worker.peek(key, HOUR, now_s) is not None
    Evictor(location.root, 1).evict()
    assert worker.peek(key, HOUR, now_s + 1) is not None
    for _each_time in range(2):
        assert worker.peek(key, HOUR, now_s + TOUCH_INTERVAL_S + 1) is None


async def test_used_files_are_touched(location: Location) -> None:
    worker = location.worker()
    reader = await worker.open(location.asset(), FIRST)
    files = [location.extent_path(FILM.size_bytes), location.record_path()]
    for path in files:
        os.utime(path, (1000, 1000))
    now_s = time.time()
    for later_s in (0, 1, TOUCH_INTERVAL_S + 1):
        assert worker.peek(location.asset().key, HOUR, now_s + later_s) is not None
        assert [path.stat().st_atime == 1000 for path in files] == [later_s == 1] * 2
        for path in files:
            os.utime(path, (1000, 1000))
    reader.close()


# --- failures -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (404, OriginFailure.NOT_FOUND),
        (410, OriginFailure.NOT_FOUND),
        (401, OriginFailure.FORBIDDEN),
        (403, OriginFailure.FORBIDDEN),
    ],
)
async def test_refusal_of_one_request_reaches_all_waiters(
    location: Location, status: int, failure: OriginFailure
) -> None:
    worker = location.worker()
    location.server.script(Reply(status=status))
    opens = [worker.open(location.asset(), FIRST) for _ in range(5)]
    errors = await asyncio.gather(*opens, return_exceptions=True)
    assert len(location.server.requests) == 1
    assert len({id(error) for error in errors}) == 5
    for error in errors:
        assert isinstance(error, OriginError)
        assert error.failure is failure
    # If the RFC allows it, the response is cached, as over HTTP.
    assert [await open_failure(worker, location) for _ in range(2)] == (
        [OriginFailure.NOT_FOUND] * 2 if status == 404 else [None] * 2
    )


async def open_failure(worker: Cache, location: Location) -> OriginFailure | None:
    try:
        (await worker.open(location.asset(), FIRST)).close()
    except OriginError as exc:
        return exc.failure
    return None


async def test_open_is_retried_within_the_budget(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "backoff_s", lambda _attempt, _jitter: 0.0)
    worker = location.worker(retries=2)
    location.server.script(Reply(status=503), times=2)
    assert await fetch(worker, location.asset(), FIRST) == FILM.read(FIRST)
    assert len(location.server.requests) == 3
    location.server.script(Reply(status=503), times=3)
    with pytest.raises(OriginError) as caught:
        await worker.open(location.asset("other"), FIRST)
    assert caught.value.failure is OriginFailure.UNAVAILABLE
    assert len(location.server.requests) == 6


async def test_stale_object_that_was_deleted_is_not_found(location: Location) -> None:
    worker = location.worker()
    await open_result(worker, location)
    location.server.remove("film")
    with pytest.raises(OriginError) as caught:
        await worker.open(location.asset(default_ttl_s=0), FIRST)
    assert caught.value.failure is OriginFailure.NOT_FOUND


# --- many at once ---------------------------------------------------------------------------


async def test_concurrent_opens_are_one_request(location: Location) -> None:
    worker = location.worker()
    readers = await asyncio.gather(*(worker.open(location.asset(), FIRST) for _ in range(20)))
    assert [reader.result for reader in readers] == [CacheResult.MISS] + [CacheResult.HIT] * 19
    for reader in readers:
        assert await reader.read(ALL) == FILM.read(ALL)
        reader.close()
    assert location.server.body_bytes_sent == FILM.size_bytes


async def test_concurrent_opens_of_workers_are_one_request(location: Location) -> None:
    workers = [location.worker() for _ in range(3)]
    location.server.hold_responses()
    opens = [asyncio.ensure_future(worker.open(location.asset(), FIRST)) for worker in workers]
    await location.server.wait_for_requests(1)
    location.server.release_responses()
    readers = await asyncio.gather(*opens)
    for reader in readers:
        assert await reader.read(FIRST) == FILM.read(FIRST)
        reader.close()
    assert location.server.body_bytes_sent == CHUNK_BYTES
    assert len(location.server.requests) == 1


async def test_cold_open_locks_its_chunks_before_others_see_the_record(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker may look at the record before the first byte has come."""
    one, other = location.worker(), location.worker()
    save_record = one.store.save_record
    others: list[asyncio.Task[bytes]] = []

    def save_and_be_overtaken(record: Record) -> None:
        save_record(record)
        reader = other.reopen(location.asset(), record.head)
        reader.prefetch(ALL)
        assert not other.running_tasks
        reader.close()
        others.append(asyncio.ensure_future(fetch(other, location.asset(), ALL)))

    monkeypatch.setattr(one.store, "save_record", save_and_be_overtaken)
    assert await fetch(one, location.asset(), ALL) == FILM.read(ALL)
    assert await others[0] == FILM.read(ALL)
    assert location.bytes_requested() == FILM.size_bytes


async def test_worker_sends_its_own_request_when_another_is_refused(location: Location) -> None:
    one, other = location.worker(), location.worker()
    location.server.script(Reply(status=403))
    location.server.hold_responses()
    first = asyncio.ensure_future(one.open(location.asset(), FIRST))
    await location.server.wait_for_requests(1)
    second = asyncio.ensure_future(other.open(location.asset(), FIRST))
    location.server.release_responses()
    with pytest.raises(OriginError):
        await first
    reader = await second
    assert await reader.read(FIRST) == FILM.read(FIRST)
    reader.close()


async def test_reader_that_leaves_during_an_open_does_not_cancel_it(location: Location) -> None:
    worker = location.worker()
    location.server.hold_responses()
    cancelled_open = asyncio.ensure_future(worker.open(location.asset(), FIRST))
    staying = asyncio.ensure_future(worker.open(location.asset(), FIRST))
    await location.server.wait_for_requests(1)
    cancelled_open.cancel()
    await asyncio.wait([cancelled_open])
    location.server.release_responses()
    reader = await staying
    assert await reader.read(FIRST) == FILM.read(FIRST)
    reader.close()
    assert len(location.server.requests) == 1


async def test_open_continues_when_all_readers_have_left(location: Location) -> None:
    worker = location.worker()
    location.server.hold_responses()
    opens = [asyncio.ensure_future(worker.open(location.asset(), ALL)) for _ in range(3)]
    await location.server.wait_for_requests(1)
    for each in opens:
        each.cancel()
    await asyncio.wait(opens)
    lookups = worker.running_tasks
    location.server.release_responses()
    await asyncio.gather(*lookups)
    await fills_ended(worker)
    sent = location.server.body_bytes_sent
    assert sent == FILM.size_bytes
    assert await open_result(worker, location) is CacheResult.HIT
    assert len(location.server.requests) == 1


async def test_cancelled_reader_loses_and_repeats_nothing(
    location: Location,
) -> None:
    worker = location.worker()
    for turns in range(40):
        name = f"film-{turns}"
        film = Pattern(2 * CHUNK_BYTES + turns, seed=turns)
        all_bytes = Span(0, film.size_bytes)
        location.server.put(name, film)
        cancelled_read = asyncio.ensure_future(fetch(worker, location.asset(name), all_bytes))
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled_read.cancel()
        await asyncio.wait([cancelled_read])
        assert await fetch(worker, location.asset(name), all_bytes) == film.read(all_bytes)
        sent = [each.body_bytes_sent for each in location.server.requests if each.name == name]
        assert sum(sent) == film.size_bytes
    await fills_ended(worker)
    assert all(version.idle for version in worker.open_versions)


# --- open versions --------------------------------------------------------------------------


async def test_least_recently_used_files_are_closed_beyond_the_limit(location: Location) -> None:
    worker = location.worker(open_extents=3)
    films = {name: Pattern(1000, seed=ord(name)) for name in "abcdef"}
    for name, film in films.items():
        location.server.put(name, film)
    staying = await worker.open(location.asset("a"), Span(0, 1000))
    await staying.read(Span(0, 1000))
    for name in "bcbdbe":
        await fetch(worker, location.asset(name), Span(0, 1000))
        await until(lambda: worker.counts.gauges[Gauge.OPEN_EXTENTS] <= 3)
    assert [version.asset.name for version in worker.open_versions] == ["a", "b", "e"]
    assert await fetch(worker, location.asset("c"), Span(0, 1000)) == films["c"].read(Span(0, 1000))
    assert await staying.read(Span(0, 1000)) == films["a"].read(Span(0, 1000))
    staying.close()
    assert len(location.server.requests) == 5


async def test_versions_without_files_are_limited_too(location: Location) -> None:
    worker = location.worker(open_extents=3)
    for number in range(10):
        location.server.put(f"{number}", FILM)
        (await worker.open(location.asset(f"{number}"))).close()
    await until(lambda: len(worker.open_versions) <= 3)
    assert [version.asset.name for version in worker.open_versions] == ["7", "8", "9"]


async def test_versions_are_limited_by_the_memory_of_their_records(location: Location) -> None:
    """A few with long header fields are as much as many with short ones."""
    worker = location.worker(records_bytes=100_000)
    for number in range(30):
        location.server.put(f"{number}", FILM, headers=(("X-Long", "x" * 20_000),))
        (await worker.open(location.asset(f"{number}"))).close()
    await until(lambda: len(worker.open_versions) <= 4)
    assert [version.asset.name for version in worker.open_versions] == ["26", "27", "28", "29"]
    for version in worker.open_versions:
        worker.drop(version)
    for number in range(30):
        location.server.put(f"short {number}", FILM)
        (await worker.open(location.asset(f"short {number}"))).close()
    assert len(worker.open_versions) == 30


async def test_version_in_use_is_closed_only_after_its_last_reader(location: Location) -> None:
    worker = location.worker(open_extents=2)
    readers = []
    for number in range(5):
        location.server.put(f"{number}", FILM)
        readers.append(await worker.open(location.asset(f"{number}"), ALL))
    for reader in readers:
        assert await reader.read(ALL) == FILM.read(ALL)
    await fills_ended(worker)
    assert worker.counts.gauges[Gauge.OPEN_EXTENTS] == 5
    for reader in readers:
        reader.close()
    await until(lambda: worker.counts.gauges[Gauge.OPEN_EXTENTS] == 2)


async def test_open_files_of_one_object_are_limited_while_it_is_read(location: Location) -> None:
    film = Pattern(5 * EXTENT_BYTES, seed=8)
    location.server.put("film", film)
    worker = location.worker(open_extents=2)
    staying = await worker.open(location.asset(), ALL)
    await staying.read(Span(0, 10))
    for index in range(5):
        span = Span(index * EXTENT_BYTES, index * EXTENT_BYTES + 10)
        assert await fetch(worker, location.asset(), span) == film.read(span)
        await fills_ended(worker)
        await until(lambda: worker.counts.gauges[Gauge.OPEN_EXTENTS] <= 2)
    requests = len(location.server.requests)
    for index in range(5):
        span = Span(index * EXTENT_BYTES, index * EXTENT_BYTES + 10)
        assert await fetch(worker, location.asset(), span) == film.read(span)
    assert len(location.server.requests) == requests
    staying.close()


async def test_evicted_files_are_closed_soon_unless_they_are_read(location: Location) -> None:
    film = Pattern(2 * EXTENT_BYTES, seed=8)
    location.server.put("film", film)
    worker = location.worker()
    reader = await worker.open(location.asset(), Span(0, 10))
    for start in (EXTENT_BYTES, 0):
        await reader.read(Span(start, start + 10))
    await fills_ended(worker)
    for index in range(2):
        path = location.extent_path(film.size_bytes, index=index)
        with path.open("r+b") as file:
            mark_evicted(file.fileno())
        path.unlink()
    await until(lambda: worker.counts.gauges[Gauge.OPEN_EXTENTS] == 1)
    assert await reader.read(Span(0, 10)) == film.read(Span(0, 10))
    reader.close()
    await until(lambda: worker.counts.gauges[Gauge.OPEN_EXTENTS] == 0)
    assert await fetch(worker, location.asset(), Span(0, 10)) == film.read(Span(0, 10))


@pytest.mark.parametrize("cut_bytes", [HEADER_BYTES, HEADER_BYTES + 10, HEADER_BYTES + 70_000])
@pytest.mark.parametrize("while_open", [True, False])
async def test_truncated_file_is_fetched_again(
    location: Location, cut_bytes: int, while_open: bool
) -> None:
    film = Pattern(5 * CHUNK_BYTES, seed=9)
    all_bytes = Span(0, film.size_bytes)
    location.server.put("film", film)
    worker, other = location.worker(), location.worker()
    for one in (worker, other):
        assert await fetch(one, location.asset(), all_bytes) == film.read(all_bytes)
    os.truncate(location.extent_path(film.size_bytes), cut_bytes)
    for one in (worker, other) if while_open else (location.worker(),):
        assert await fetch(one, location.asset(), all_bytes) == film.read(all_bytes)
    assert len(location.events("extent_dropped")) >= 1
    assert location.server.body_bytes_sent <= 3 * film.size_bytes


async def test_version_closed_before_its_reader_came_is_closed_by_it(
    location: Location,
) -> None:
    worker = location.worker()
    await fetch(worker, location.asset(), ALL)
    version = worker.peek(location.asset().key, HOUR, time.time())
    assert version is not None
    worker.drop(version)
    late = worker.reader(version, FIRST, CacheResult.HIT)
    assert await late.read(ALL) == FILM.read(ALL)
    assert worker.counts.gauges[Gauge.OPEN_EXTENTS] == 1
    late.close()
    assert worker.counts.gauges[Gauge.OPEN_EXTENTS] == 0


async def test_evicted_files_are_created_again_while_their_readers_finish(
    location: Location,
) -> None:
    worker = location.worker()
    old = await worker.open(location.asset(), ALL)
    await old.read(ALL)
    assert len(Evictor(location.root, 1).evict()) == 2
    assert not location.extent_path(FILM.size_bytes).exists()
    new = await worker.open(location.asset(), ALL)
    assert new.result is CacheResult.MISS
    assert await new.read(ALL) == FILM.read(ALL)
    assert await old.read(ALL) == FILM.read(ALL)
    assert location.extent_path(FILM.size_bytes).exists()
    assert location.server.body_bytes_sent == 2 * FILM.size_bytes
    old.close()
    new.close()
    assert worker.counts.gauges[Gauge.OPEN_EXTENTS] == 1


async def test_evicted_file_is_filled_to_the_end_for_its_reader(location: Location) -> None:
    worker = location.worker()
    location.server.hold("film", at=CHUNK_BYTES + 5)
    old = await worker.open(location.asset(), ALL)
    await old.wait(Span(CHUNK_BYTES + 4, CHUNK_BYTES + 5), eager=True)
    Evictor(location.root, 1).evict()
    location.server.release("film")
    assert await old.read(ALL) == FILM.read(ALL)
    old.close()
    assert await fetch(worker, location.asset(), ALL) == FILM.read(ALL)


async def test_reopen_sends_no_request_and_keeps_its_version(location: Location) -> None:
    worker = location.worker()
    await fetch(worker, location.asset(), FIRST)
    head = OriginHead(Version('"1"', FILM.size_bytes, 1_700_000_000), "video/mp4")
    again = worker.reopen(location.asset(), head)
    assert again.result is CacheResult.HIT
    location.server.put("film", CHANGED, etag='"2"')
    new = await worker.open(location.asset(default_ttl_s=0), FIRST)
    requests = len(location.server.requests)
    late = worker.reopen(location.asset(), head)
    for old in (again, late):
        assert await old.read(FIRST) == FILM.read(FIRST)
        assert len(location.server.requests) == requests
    for old in (again, late):
        with pytest.raises(OriginError) as caught:
            await old.read(ALL)
        assert caught.value.failure is OriginFailure.CHANGED
        old.close()
    assert await new.read(FIRST) == CHANGED.read(FIRST)
    new.close()
    assert worker.counts.gauges[Gauge.OPEN_EXTENTS] == 1


async def test_ready_bytes_of_a_version_that_is_refused_meanwhile_can_still_be_sent(
    location: Location,
) -> None:
    worker, other = location.worker(), location.worker()
    asset = location.asset()
    await fetch(worker, asset, Span(0, 10))
    open_object = worker.find_open(asset.key)
    assert open_object is not None
    ready = open_object.files.ready(0, 10)
    assert ready is not None
    other.refuse_older(asset.key)
    assert worker.find_open(asset.key) is None
    assert os.pread(ready.fd, ready.size_bytes, ready.offset) == FILM.read(Span(0, 10))
    await until(lambda: worker.counts.gauges[Gauge.OPEN_EXTENTS] == 0)


async def test_close_ends_fills_and_closes_files(location: Location) -> None:
    worker = location.worker()
    location.server.hold("film", at=5)
    reader = await worker.open(location.asset(), ALL)
    waiting = asyncio.ensure_future(reader.read(ALL))
    await reader.wait(Span(4, 5), eager=True)
    await worker.close()
    with pytest.raises(OriginError, match="stopping"):
        await waiting
    reader.close()
    await worker.close()
    assert worker.counts.gauges[Gauge.OPEN_EXTENTS] == 0
    assert worker.counts.gauges[Gauge.RUNNING_FILLS] == 0
    location.server.release("film")
    # The bytes that had arrived are cached.
    assert await fetch(location.worker(), location.asset(), ALL) == FILM.read(ALL)
    assert location.server.requests[1].span == Span(5, FILM.size_bytes)


async def test_close_releases_a_fill_that_has_not_begun(location: Location) -> None:
    worker = location.worker()
    reader = await worker.open(location.asset())
    reader.prefetch(ALL)
    reader.close()
    await worker.close()
    assert worker.counts.gauges[Gauge.RUNNING_FILLS] == 0
    assert worker.counts.gauges[Gauge.OPEN_EXTENTS] == 0
    assert await fetch(location.worker(), location.asset(), ALL) == FILM.read(ALL)


async def test_close_ends_fills_that_begin_while_others_end(location: Location) -> None:
    film = Pattern(2 * (FILLS_MAX + 10) * CHUNK_BYTES, seed=13)
    location.server.put("film", film)
    location.server.hold("film")
    worker = location.worker()
    reader = await worker.open(location.asset())
    reading = [
        asyncio.ensure_future(reader.read(Span(at, at + 1)))
        for at in range(0, film.size_bytes, 2 * CHUNK_BYTES)
    ]
    await location.server.wait_for_requests(1 + FILLS_MAX)
    await worker.close()
    assert worker.counts.gauges[Gauge.RUNNING_FILLS] == 0
    for result in await asyncio.gather(*reading, return_exceptions=True):
        assert isinstance(result, OriginError)
    reader.close()


async def test_close_ends_a_running_lookup(location: Location) -> None:
    worker = location.worker()
    location.server.hold_responses()
    opening = asyncio.ensure_future(worker.open(location.asset(), FIRST))
    await location.server.wait_for_requests(1)
    await worker.close()
    with pytest.raises(asyncio.CancelledError):
        await opening
    location.server.release_responses()
    assert await fetch(location.worker(), location.asset(), FIRST) == FILM.read(FIRST)
