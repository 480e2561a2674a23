"""HTTP requests to the cache: waiting, disconnects, failures, and what stays open after them."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from streamedge.cache.lookup.outcome import Passed, Stored, Unavailable
from streamedge.cache.objects import Cache
from streamedge.cache.origin_requests import WHOLE
from streamedge.cache.responses import ResponseCache
from streamedge.cache.rfc9111.vary import variant_key
from streamedge.cache.storage.extent import Extent
from streamedge.cache.storage.records import Record
from streamedge.cache.storage.store import prepare_folder
from streamedge.errors import CacheFullError, OriginError, OriginFailure
from streamedge.ops.metrics import Gauge
from streamedge.origin.objects import ObjectUpstream
from streamedge.spans import Span
from tests.support.http.film import BYTES, FILM, FRESH, PRIVATE, STALE, body_of, put, request
from tests.support.http.location import Location, fills_ended, run_location
from tests.support.origins.scripted_origin import Reply
from tests.support.patience import PATIENCE_S


@pytest.fixture
async def location(cache_root: Path) -> AsyncIterator[Location]:
    async with run_location(cache_root) as location:
        yield location


async def wait_until_idle(location: Location, worker: Cache) -> None:
    """Waits until no task runs, and checks that no version, lock or connection is in use."""
    await fills_ended(worker)
    assert worker.counts.gauges[Gauge.RUNNING_FILLS] == 0
    assert all(version.idle for version in worker.open_versions)
    for key in ("site\nfilm", variant_key("site\nfilm", ("accept",), {})):
        assert worker.store.lock_asset(key)
        worker.store.unlock_asset(key)
    assert location.origin.client.stats().leased == 0


async def test_cold_response_is_followed_by_a_hit(location: Location) -> None:
    put(location)
    worker = location.worker()
    responses = ResponseCache(worker)
    miss = await responses.respond(request(location))
    assert isinstance(miss, Stored)
    assert (miss.cache_status.forwarded, miss.cache_status.stored) == ("uri-miss", True)
    assert await body_of(miss) == BYTES
    hit = await responses.respond(request(location))
    assert isinstance(hit, Stored)
    assert hit.cache_status.hit
    assert await body_of(hit) == BYTES
    await wait_until_idle(location, worker)
    assert len(location.server.requests) == 1


@pytest.mark.parametrize("other_workers_lookups", [0, 1])
async def test_miss_reads_the_record_again_only_after_another_lookup_has_ended(
    location: Location, monkeypatch: pytest.MonkeyPatch, other_workers_lookups: int
) -> None:
    put(location)
    store = location.worker().store
    worker = location.worker()
    loads: list[str] = []
    load_record, lock_asset = worker.store.load_record, worker.store.lock_asset

    def counted_load(key: str) -> Record | None:
        loads.append(key)
        return load_record(key)

    def lock_after_others(key: str) -> bool:
        for _lookup in range(other_workers_lookups):
            store.changes.lookup_ended(key)
        return lock_asset(key)

    monkeypatch.setattr(worker.store, "load_record", counted_load)
    monkeypatch.setattr(worker.store, "lock_asset", lock_after_others)
    await body_of(await ResponseCache(worker).respond(request(location)))
    assert loads == ["site\nfilm"] * (1 + other_workers_lookups)


@pytest.mark.parametrize("fields", [FRESH, STALE, PRIVATE])
async def test_request_cancelled_before_the_response_leaves_nothing_open(
    location: Location, fields: tuple[tuple[str, str], ...]
) -> None:
    put(location, fields)
    worker = location.worker()
    responses = ResponseCache(worker)
    location.server.hold_responses()
    viewers = [asyncio.create_task(responses.respond(request(location))) for _ in range(3)]
    await location.server.wait_for_requests(1)
    for viewer in viewers:
        viewer.cancel()
    await asyncio.gather(*viewers, return_exceptions=True)
    assert all(viewer.cancelled() for viewer in viewers)
    location.server.release_responses()
    await wait_until_idle(location, worker)
    assert len(location.server.requests) == 1


async def test_request_cancelled_at_the_response_leaves_nothing_open(location: Location) -> None:
    """The lookup has ended, and the viewer is cancelled before it runs again."""
    put(location)
    worker = location.worker()
    responses = ResponseCache(worker)
    location.server.hold_responses()
    first = asyncio.create_task(responses.respond(request(location)))
    await location.server.wait_for_requests(1)
    lookup = worker.in_flight.find("site\nfilm")
    assert lookup is not None
    lookup.ended().add_done_callback(lambda _done: viewer.cancel())
    viewer = asyncio.create_task(responses.respond(request(location)))
    await asyncio.sleep(0)
    location.server.release_responses()
    assert await body_of(await first) == BYTES
    await asyncio.gather(viewer, return_exceptions=True)
    await wait_until_idle(location, worker)
    assert viewer.cancelled()


async def test_disconnect_without_other_waiters_leaves_nothing_open(location: Location) -> None:
    put(location, PRIVATE)
    worker = location.worker()
    responses = ResponseCache(worker)
    assert await body_of(await responses.respond(request(location))) == BYTES
    location.server.hold_responses()
    viewer = asyncio.create_task(responses.respond(request(location)))
    await location.server.wait_for_requests(2)
    viewer.cancel()
    await asyncio.gather(viewer, return_exceptions=True)
    await location.server.until(lambda: location.server.connections_open == 0)
    await wait_until_idle(location, worker)


async def test_disconnect_during_the_lookup_of_another_worker_leaves_nothing_open(
    location: Location,
) -> None:
    put(location)
    one, other = location.worker(), location.worker()
    location.server.hold_responses()
    responding = asyncio.create_task(ResponseCache(one).respond(request(location)))
    await location.server.wait_for_requests(1)
    waiting = asyncio.create_task(ResponseCache(other).respond(request(location)))
    for _turn in range(10):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    location.server.release_responses()
    assert await body_of(await responding) == BYTES
    await wait_until_idle(location, one)
    await wait_until_idle(location, other)
    assert len(location.server.requests) == 1


async def test_request_cancelled_during_the_body_leaves_nothing_open(location: Location) -> None:
    put(location)
    worker = location.worker()
    location.server.hold("film", at=1000)
    outcome = await ResponseCache(worker).respond(request(location))
    assert isinstance(outcome, Stored)
    reading = asyncio.create_task(outcome.reader.read(Span(0, FILM.size_bytes)))
    await location.server.until(lambda: location.server.body_bytes_sent == 1000)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    outcome.reader.close()
    location.server.release("film")
    await wait_until_idle(location, worker)
    assert await body_of(await ResponseCache(worker).respond(request(location))) == BYTES
    assert len(location.server.requests) == 1


async def test_passed_response_of_a_disconnected_request_is_not_reused(location: Location) -> None:
    put(location, PRIVATE)
    worker = location.worker()
    responses = ResponseCache(worker)
    location.server.hold_responses()
    location.server.script(Reply(status=200, headers=PRIVATE, body=b"for one viewer"))
    first = asyncio.create_task(responses.respond(request(location)))
    await location.server.wait_for_requests(1)
    second = asyncio.create_task(responses.respond(request(location)))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    location.server.release_responses()
    assert await body_of(await second) == BYTES
    await wait_until_idle(location, worker)


async def test_head_does_not_answer_waiting_gets(location: Location) -> None:
    put(location)
    worker = location.worker()
    responses = ResponseCache(worker)
    location.server.hold_responses()
    head = asyncio.create_task(responses.respond(request(location, "HEAD")))
    await location.server.wait_for_requests(1)
    gets = [asyncio.create_task(responses.respond(request(location))) for _ in range(3)]
    await asyncio.sleep(0)
    location.server.release_responses()
    response = await head
    assert isinstance(response, Passed)
    response.response.close()
    for one in gets:
        assert await body_of(await one) == BYTES
    await wait_until_idle(location, worker)
    assert [seen.method for seen in location.server.requests] == ["HEAD", "GET"]


async def test_failure_reaches_all_waiters(location: Location) -> None:
    worker = location.worker(retries=0)
    responses = ResponseCache(worker)
    location.server.script(Reply(reset_at=0, status=200, headers=(("Content-Length", None),)))
    location.server.script(Reply(raw=b"nonsense\r\n\r\n"), times=5)
    location.server.hold_responses()
    viewers = [asyncio.create_task(responses.respond(request(location))) for _ in range(3)]
    await location.server.wait_for_requests(1)
    await location.server.refuse()
    results = await asyncio.gather(*viewers, return_exceptions=True)
    assert all(isinstance(result, OriginError) for result in results)
    await wait_until_idle(location, worker)


@pytest.mark.parametrize(
    ("status", "fields"),
    [(416, {"range": "bytes=400000-"}), (412, {}), (304, {"if-none-match": '"1"'})],
)
async def test_response_to_one_viewers_conditions_does_not_mark_the_key(
    location: Location, status: int, fields: dict[str, str]
) -> None:
    """Else one viewer could keep all others from sharing responses."""
    put(location)
    worker = location.worker()
    location.server.script(Reply(status=status))
    want = Span(400_000, 400_001) if "range" in fields else WHOLE
    outcome = await ResponseCache(worker).respond(request(location, want=want, fields=fields))
    if isinstance(outcome, Passed):
        outcome.response.close()
    assert len(worker.hit_for_miss) == 0


async def test_only_if_cached_sends_no_request(location: Location) -> None:
    put(location)
    worker = location.worker()
    fields = {"cache-control": "only-if-cached"}
    sent_requests = request(location, fields=fields, applies_request_directives=True)
    assert await ResponseCache(worker).respond(sent_requests) == Unavailable()
    assert location.server.requests == []


async def test_write_refuses_a_version_that_another_worker_has_open(location: Location) -> None:
    put(location, etag="")
    workers = [location.worker(), location.worker()]
    caches = [ResponseCache(worker) for worker in workers]
    for cache in caches:
        assert await body_of(await cache.respond(request(location))) == BYTES
    assert len(location.server.requests) == 1
    caches[0].refuse_written("site\nfilm")
    location.server.put("film", b"new", etag="", headers=FRESH)
    for cache in reversed(caches):
        outcome = await cache.respond(request(location))
        assert isinstance(outcome, Stored)
        assert outcome.reader.size_bytes == 3
        outcome.reader.close()
    assert len(location.server.requests) == 2
    for worker in workers:
        await wait_until_idle(location, worker)


async def test_write_is_effective_when_no_record_can_be_saved(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(location, etag="")
    caches = [ResponseCache(location.worker()) for _ in range(2)]
    for cache in caches:
        assert await body_of(await cache.respond(request(location))) == BYTES

    def full(_old: str, _new: str) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "replace", full)
    caches[0].refuse_written("site\nfilm")
    location.server.put("film", b"new", etag="", headers=FRESH)
    for cache in reversed(caches):
        assert await body_of(await cache.respond(request(location))) == b"new"
    monkeypatch.undo()
    for cache in caches:
        assert await body_of(await cache.respond(request(location))) == b"new"


async def test_write_stays_effective_after_a_version_fails(location: Location) -> None:
    put(location)
    one, other = location.worker(), location.worker()
    assert await body_of(await ResponseCache(one).respond(request(location))) == BYTES
    await fills_ended(one)
    asset = request(location).asset
    old = one.store.load_record(asset.key)
    assert old is not None
    one.refuse_older(asset.key)
    one.store.forget_record(asset.key)
    assert not other.remember(asset, old)
    other.store.save_record(old)  # as a process that was saving it when the write came
    location.server.put("film", b"new", etag='"2"', headers=FRESH)
    for worker in (one, other):
        assert await body_of(await ResponseCache(worker).respond(request(location))) == b"new"


async def test_records_from_before_a_power_failure_are_validated(
    location: Location, cache_root: Path
) -> None:
    put(location, (("Cache-Control", "max-age=60, stale-if-error=60"),))
    assert await body_of(await ResponseCache(location.worker()).respond(request(location))) == BYTES
    (cache_root / "era").write_text('{"era": 1, "clean": false, "boot_id": "another boot"}')
    prepare_folder(cache_root)
    cache = ResponseCache(location.worker(retries=0))
    location.server.script(Reply(status=503))
    failed = await cache.respond(request(location))
    assert isinstance(failed, Stored)
    assert failed.reader.head.status == 503  # not the old response: it may be outdated
    failed.reader.close()


async def test_cache_that_can_store_nothing_passes_responses_through(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(location)
    worker = location.worker()

    def full(_digest: bytes, _body_bytes: int) -> Extent:
        raise CacheFullError("full")

    monkeypatch.setattr(worker.store, "make_extent", full)
    for _viewer in range(2):
        outcome = await ResponseCache(worker).respond(request(location))
        assert isinstance(outcome, Passed)
        assert await body_of(outcome) == BYTES
    await wait_until_idle(location, worker)


@pytest.mark.parametrize("vary", [(), (("Vary", "Accept"),)])
async def test_response_requested_before_a_write_is_not_stored(
    location: Location, vary: tuple[tuple[str, str], ...]
) -> None:
    put(location, FRESH + vary)
    one, other = location.worker(), location.worker()
    caches = [ResponseCache(one), ResponseCache(other)]
    location.server.hold_responses()
    responding = asyncio.create_task(caches[0].respond(request(location)))
    await location.server.wait_for_requests(1)
    caches[1].refuse_written("site\nfilm")
    location.server.release_responses()
    assert await body_of(await responding) == BYTES
    await fills_ended(one)
    for cache in caches:
        outcome = await cache.respond(request(location))
        assert isinstance(outcome, Stored)
        assert outcome.reader.head.version.etag == '"1"'
        outcome.reader.close()
    assert len(location.server.requests) == 2
    for worker in (one, other):
        await wait_until_idle(location, worker)


async def test_304_requested_before_a_write_confirms_nothing(location: Location) -> None:
    put(location, STALE)
    worker = location.worker()
    cache = ResponseCache(worker)
    assert await body_of(await cache.respond(request(location))) == BYTES
    put(location, FRESH)
    location.server.hold_responses()
    responding = asyncio.create_task(cache.respond(request(location)))
    await location.server.wait_for_requests(2)
    cache.refuse_written("site\nfilm")
    location.server.put("film", b"new", etag='"2"', headers=FRESH)
    location.server.release_responses()
    assert await body_of(await responding) == BYTES
    outcome = await cache.respond(request(location))
    assert isinstance(outcome, Stored)
    assert outcome.reader.size_bytes == 3
    outcome.reader.close()
    await wait_until_idle(location, worker)


async def test_304_about_another_version_is_followed_by_a_plain_request(location: Location) -> None:
    """RFC 9111 §4.3.4: it selects nothing here, so the whole object is requested."""
    put(location, STALE)
    worker = location.worker()
    cache = ResponseCache(worker)
    assert await body_of(await cache.respond(request(location))) == BYTES
    location.server.script(Reply(status=304, headers=(("ETag", '"other"'),)))
    outcome = await cache.respond(request(location))
    assert await body_of(outcome) == BYTES
    assert [("if-none-match" in seen.headers) for seen in location.server.requests] == [
        False,
        True,
        False,
    ]
    await wait_until_idle(location, worker)


@pytest.mark.parametrize("status", [206, 304])
async def test_response_that_does_not_fit_the_request_is_an_origin_failure(
    location: Location, status: int
) -> None:
    worker = location.worker(retries=0)
    fields = (("Content-Range", "bytes 0-2/9"),)
    location.server.script(Reply(status=status, headers=fields, body=b"abc"), times=2)
    with pytest.raises(OriginError):
        await ResponseCache(worker).respond(request(location))
    await wait_until_idle(location, worker)


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({}, WHOLE),
        ({"range": "bytes=5-9"}, Span(5, 10)),
        ({"if-none-match": '"0"'}, Span(0, 0)),
    ],
)
async def test_object_that_must_not_be_stored_is_passed_completely(
    location: Location, fields: dict[str, str], want: Span
) -> None:
    """Objects are requested in pieces; a piece of one that is not stored is no response."""
    put(location, PRIVATE)
    worker = location.worker()
    cache = ResponseCache(worker)
    sent_requests = replace(
        request(location, fields=fields, want=want),
        upstream=ObjectUpstream(location.origin),
        is_object=True,
    )
    for _before_and_after_it_is_known in range(2):
        outcome = await cache.respond(sent_requests)
        assert isinstance(outcome, Passed)
        assert outcome.response.status == 200
        assert await body_of(outcome) == BYTES
    await wait_until_idle(location, worker)


async def test_age_counts_from_before_the_request(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time in transit counts as age (RFC 9111 §4.2.3)."""
    put(location)
    worker = location.worker()
    real = time.time
    location.server.hold_responses()
    responding = asyncio.create_task(ResponseCache(worker).respond(request(location)))
    await location.server.wait_for_requests(1)
    monkeypatch.setattr("time.time", lambda: real() + 30)
    location.server.release_responses()
    outcome = await responding
    assert isinstance(outcome, Stored)
    assert outcome.reader.age_s(time.time()) >= 30
    outcome.reader.close()


async def following(location: Location) -> tuple[list[Cache], list[Stored]]:
    """Readers of two workers, of an unfinished response without validators."""
    put(location, etag="")
    location.server.hold("film", at=1000)
    workers, stored = [location.worker(), location.worker()], []
    for worker in workers:
        outcome = await ResponseCache(worker).respond(request(location))
        assert isinstance(outcome, Stored)
        stored.append(outcome)
    assert stored[0].reader.head.version.id
    return workers, stored


async def test_response_without_validators_is_followed_in_another_worker(
    location: Location,
) -> None:
    workers, stored = await following(location)
    reading = [asyncio.ensure_future(body_of(outcome)) for outcome in stored]
    await stored[1].reader.wait(Span(999, 1000))
    location.server.release("film")
    assert [await each for each in reading] == [BYTES, BYTES]
    assert len(location.server.requests) == 1
    for worker in workers:
        await wait_until_idle(location, worker)


async def test_response_without_validators_fails_when_its_fill_has_ended(
    location: Location,
) -> None:
    workers, (first, second) = await following(location)
    first.reader.close()
    reading = asyncio.ensure_future(body_of(second))
    await workers[0].close()
    with pytest.raises(OriginError) as caught:
        await reading
    assert caught.value.failure is OriginFailure.CHANGED


async def test_workers_do_not_wait_for_each_other_for_uncacheable_responses(
    location: Location,
) -> None:
    """The last of six workers waits for two lookups of others at most, then sends its request."""
    put(location, PRIVATE)
    first, second, rest = (asyncio.Event() for _ in range(3))
    for after in (first, second, *[rest] * 4):
        location.server.script(Reply(after=after))
    caches = [ResponseCache(location.worker()) for _ in range(6)]
    viewers = [asyncio.create_task(cache.respond(request(location))) for cache in caches]
    for sent_requests, after in ((1, first), (2, second)):
        await location.server.wait_for_requests(sent_requests)
        assert len(location.server.requests) == sent_requests
        after.set()
    await location.server.wait_for_requests(6)  # all at once: none of them has a response yet
    rest.set()
    for viewer in viewers:
        assert await body_of(await viewer) == BYTES


async def test_read_past_the_end_of_a_response_without_a_length_ends_with_it(
    location: Location,
) -> None:
    """A player of such an object requests bytes beyond its end while its size is unknown."""
    put(location)
    worker = location.worker()
    responses = ResponseCache(worker)
    location.server.script(Reply(chunked=True))
    location.server.hold("film", at=1000)
    viewer = await responses.respond(request(location))
    player = await worker.open(request(location).asset, Span(0, 2 * FILM.size_bytes))
    past_the_end = asyncio.create_task(player.read(Span(0, 2 * FILM.size_bytes)))
    await asyncio.sleep(0)  # the player waits for its first byte
    location.server.release("film")
    async with asyncio.timeout(PATIENCE_S):
        assert await past_the_end == BYTES
    player.close()
    assert await body_of(viewer) == BYTES
    await wait_until_idle(location, worker)
    assert len(location.server.requests) == 1
