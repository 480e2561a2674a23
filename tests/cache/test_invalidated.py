"""Both entry points of the cache after an invalidation: what is refused, what is stale."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from streamedge.cache.lookup.outcome import Outcome, Stored
from streamedge.cache.objects import Cache
from streamedge.cache.origin_requests import WHOLE, CacheRequest
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.responses import ResponseCache
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.records import Asset, InvalidationTarget
from streamedge.errors import OriginError
from streamedge.origin import OriginRequest
from streamedge.origin.objects import RequestedObject
from streamedge.spans import Span
from tests.support.http.location import Location, fetch, fills_ended, run_location
from tests.support.origins.scripted_origin import Pattern, Reply
from tests.support.patience import PATIENCE_S

OLD, NEW = Pattern(300_000, seed=3), Pattern(200_000, seed=4)
ALL_OLD = Span(0, OLD.size_bytes)
FRESH = (("Cache-Control", "max-age=3600"),)


@pytest.fixture
async def location(cache_root: Path) -> AsyncIterator[Location]:
    async with run_location(cache_root) as location:
        yield location


def put_old(location: Location, fields: tuple[tuple[str, str], ...] = FRESH) -> None:
    location.server.put("film", OLD, etag='"old"', headers=fields)


def put_new(
    location: Location, fields: tuple[tuple[str, str], ...] = FRESH, etag: str = '"new"'
) -> None:
    location.server.put("film", NEW, etag=etag, headers=fields)


def request(
    location: Location,
    *,
    scope: str = "E",
    target: str = "/film",
    tag_field: str = "",
    fields: dict[str, str] | None = None,
) -> CacheRequest:
    origin = RequestedObject("main", location.origin, OriginRequest("GET", "film"))
    subject = InvalidationTarget(scope, target, tag_field)
    asset = Asset("site\nfilm", "film", origin, "main", TtlRules(), (), subject)
    sent = fields or {}
    origin_request = OriginRequest("GET", "film")
    return CacheRequest(asset, location.origin, origin_request, sent, WHOLE, selected_by=sent)


async def body_of(outcome: Outcome) -> bytes:
    assert isinstance(outcome, Stored)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await outcome.reader.read(Span(0, outcome.reader.size_bytes))
    finally:
        outcome.reader.close()


async def fetched(cache: ResponseCache, origin_request: CacheRequest) -> tuple[bytes, CacheResult]:
    outcome = await cache.respond(origin_request)
    assert isinstance(outcome, Stored)
    return await body_of(outcome), outcome.result


def bytes_of(pattern: Pattern) -> bytes:
    return pattern.read(Span(0, pattern.size_bytes))


def asset_of(location: Location, scope: str = "E") -> Asset:
    """The same object as players open it."""
    return replace(location.asset(), subject=InvalidationTarget(scope, "/film"))


# HTTP requests


async def test_hard_invalidation_fetches_once_and_then_hits_in_every_worker(
    location: Location,
) -> None:
    put_old(location)
    one, other = (ResponseCache(location.worker()) for _ in range(2))
    for cache in (one, other):
        await fetched(cache, request(location))
    put_new(location)
    location.invalidate("/film")
    assert await fetched(one, request(location)) == (bytes_of(NEW), CacheResult.MISS)
    assert await fetched(other, request(location)) == (bytes_of(NEW), CacheResult.HIT)
    assert await fetched(one, request(location)) == (bytes_of(NEW), CacheResult.HIT)
    assert len(location.server.requests) == 2
    assert "if-none-match" not in location.server.requests[1].headers


async def test_record_on_disk_is_refused_too(location: Location) -> None:
    put_old(location)
    await fetched(ResponseCache(location.worker()), request(location))
    location.invalidate("/fi*")
    put_new(location)
    new_cache = ResponseCache(location.worker())
    assert await fetched(new_cache, request(location)) == (bytes_of(NEW), CacheResult.MISS)


async def test_invalidation_before_the_first_request_has_no_effect(location: Location) -> None:
    location.invalidate("/*")
    put_old(location)
    cache = ResponseCache(location.worker())
    assert await fetched(cache, request(location)) == (bytes_of(OLD), CacheResult.MISS)
    assert await fetched(cache, request(location)) == (bytes_of(OLD), CacheResult.HIT)


async def test_other_paths_and_distributions_stay_cached(location: Location) -> None:
    put_old(location)
    cache = ResponseCache(location.worker())
    await fetched(cache, request(location))
    location.invalidate("/films", "/film?x=1", "/other/*", "#film")
    location.invalidate("/*", scope="F")
    assert await fetched(cache, request(location)) == (bytes_of(OLD), CacheResult.HIT)
    assert len(location.server.requests) == 1


async def test_distributions_that_share_an_object_are_invalidated_separately(
    location: Location,
) -> None:
    put_old(location)
    cache = ResponseCache(location.worker())
    await fetched(cache, request(location))
    location.invalidate("/film", scope="E")
    put_new(location)
    assert await fetched(cache, request(location, scope="F")) == (
        bytes_of(OLD),
        CacheResult.HIT,
    )
    assert await fetched(cache, request(location, scope="E")) == (
        bytes_of(NEW),
        CacheResult.MISS,
    )
    assert await fetched(cache, request(location, scope="F")) == (
        bytes_of(NEW),
        CacheResult.HIT,
    )


async def test_soft_invalidation_validates_and_is_fresh_again_after_a_304(
    location: Location,
) -> None:
    put_old(location)
    one, other = (ResponseCache(location.worker()) for _ in range(2))
    for cache in (one, other):
        await fetched(cache, request(location))
    location.invalidate("/film", soft=True)
    assert await fetched(one, request(location)) == (bytes_of(OLD), CacheResult.REFRESH_HIT)
    assert await fetched(other, request(location)) == (bytes_of(OLD), CacheResult.HIT)
    assert await fetched(one, request(location)) == (bytes_of(OLD), CacheResult.HIT)
    assert len(location.server.requests) == 2
    assert location.server.requests[1].headers["if-none-match"] == '"old"'


@pytest.mark.parametrize("is_open", [True, False])
async def test_record_is_validated_after_the_end_of_the_lease(
    location: Location, is_open: bool
) -> None:
    """Though no timer has noted it, because the process was stopped."""
    now_s = 10.0
    put_old(location)
    first, second = location.worker(), location.worker()
    await fetched(ResponseCache(first), request(location))
    worker = first if is_open else second
    worker.invalidation_checker.limit_hearing(20.0, lambda: now_s)
    if is_open:
        assert (await fetched(ResponseCache(worker), request(location)))[1] is CacheResult.HIT
    now_s = 20.0
    outcome = await fetched(ResponseCache(worker), request(location))
    assert outcome[1] is CacheResult.REFRESH_HIT


async def test_soft_invalidation_gives_the_new_version(location: Location) -> None:
    put_old(location)
    cache = ResponseCache(location.worker())
    await fetched(cache, request(location))
    location.invalidate("/film", soft=True)
    put_new(location)
    assert await fetched(cache, request(location)) == (bytes_of(NEW), CacheResult.MISS)


@pytest.mark.parametrize("failure", [Reply(status=503), Reply(status=500)])
async def test_soft_invalidation_serves_stale_if_the_origin_fails(
    location: Location, failure: Reply
) -> None:
    put_old(location)
    cache = ResponseCache(location.worker(retries=0))
    await fetched(cache, request(location))
    location.invalidate("/film", soft=True)
    location.server.script(failure)
    assert (await fetched(cache, request(location)))[0] == bytes_of(OLD)
    put_new(location)
    assert await fetched(cache, request(location)) == (bytes_of(NEW), CacheResult.MISS)


async def test_soft_invalidation_serves_stale_only_within_stale_if_error(
    location: Location,
) -> None:
    put_old(location, (("Cache-Control", "max-age=3600, stale-if-error=0"),))
    cache = ResponseCache(location.worker(retries=0))
    await fetched(cache, request(location))
    location.invalidate("/film", soft=True)
    await location.server.refuse()
    with pytest.raises(OriginError):
        await cache.respond(request(location))
    await location.server.accept()


async def test_soft_invalidation_serves_stale_within_stale_while_revalidate(
    location: Location,
) -> None:
    put_old(location, (("Cache-Control", "max-age=3600, stale-while-revalidate=600"),))
    worker = location.worker()
    cache = ResponseCache(worker)
    await fetched(cache, request(location))
    location.invalidate("/film", soft=True)
    put_new(location)
    location.server.hold_responses()
    for _ in range(2):
        assert await fetched(cache, request(location)) == (bytes_of(OLD), CacheResult.HIT)
    await location.server.wait_for_requests(2)
    location.server.release_responses()
    await fills_ended(worker)
    assert await fetched(cache, request(location)) == (bytes_of(NEW), CacheResult.HIT)
    assert len(location.server.requests) == 2


async def test_hard_invalidation_serves_no_stale_if_the_origin_fails(location: Location) -> None:
    directives = "max-age=3600, stale-while-revalidate=600, stale-if-error=600"
    put_old(location, (("Cache-Control", directives),))
    cache = ResponseCache(location.worker(retries=0))
    await fetched(cache, request(location))
    location.invalidate("/film")
    await location.server.refuse()
    with pytest.raises(OriginError):
        await cache.respond(request(location))
    await location.server.accept()


async def test_hard_invalidation_during_a_validation_ends_stale_use(location: Location) -> None:
    put_old(location)
    cache = ResponseCache(location.worker(retries=0))
    await fetched(cache, request(location))
    location.invalidate("/film", soft=True)
    location.server.hold_responses()
    location.server.script(Reply(status=503))
    responding = asyncio.create_task(cache.respond(request(location)))
    await location.server.wait_for_requests(2)
    location.invalidate("/film")
    location.server.release_responses()
    outcome = await responding
    assert isinstance(outcome, Stored)
    assert outcome.reader.head.status == 503  # the origin's own error instead of the old response
    outcome.reader.close()


async def test_response_requested_before_an_invalidation_is_for_earlier_requests_only(
    location: Location,
) -> None:
    put_old(location)
    one, other = (ResponseCache(location.worker()) for _ in range(2))
    location.server.hold_responses()
    before = asyncio.create_task(fetched(one, request(location)))
    await location.server.wait_for_requests(1)
    put_new(location)
    location.invalidate("/film")
    after = [asyncio.create_task(fetched(cache, request(location))) for cache in (one, one, other)]
    location.server.release_responses()
    assert (await before)[0] == bytes_of(OLD)
    assert [(await each)[0] for each in after] == [bytes_of(NEW)] * 3
    assert len(location.server.requests) == 2
    assert await fetched(other, request(location)) == (bytes_of(NEW), CacheResult.HIT)


async def test_response_requested_before_a_write_is_for_earlier_requests_only(
    location: Location,
) -> None:
    put_old(location)
    cache = ResponseCache(location.worker())
    location.server.hold_responses()
    before = asyncio.create_task(fetched(cache, request(location)))
    await location.server.wait_for_requests(1)
    put_new(location)
    cache.refuse_written("site\nfilm")
    after = asyncio.create_task(fetched(cache, request(location)))
    location.server.release_responses()
    assert (await before)[0] == bytes_of(OLD)
    assert (await after)[0] == bytes_of(NEW)


async def test_waiters_for_a_failing_origin_all_get_stale(
    location: Location,
) -> None:
    put_old(location)
    cache = ResponseCache(location.worker(retries=0))
    await fetched(cache, request(location))
    location.invalidate("/film", soft=True)
    location.server.hold_responses()
    location.server.script(Reply(status=503))
    responding = [asyncio.create_task(fetched(cache, request(location))) for _ in range(4)]
    await location.server.wait_for_requests(2)
    location.server.release_responses()
    assert {(await each)[0] for each in responding} == {bytes_of(OLD)}
    assert len(location.server.requests) == 2


@pytest.mark.parametrize("etag", ['"new"', '"old"'])
async def test_running_fill_continues_only_while_it_has_readers(
    location: Location, etag: str
) -> None:
    put_old(location)
    worker = location.worker()
    cache = ResponseCache(worker)
    location.server.hold("film", at=1000)
    running = await cache.respond(request(location))
    assert isinstance(running, Stored)
    await running.reader.wait(Span(999, 1000), eager=True)
    location.invalidate("/film")
    if etag == '"new"':
        put_new(location)
    late = await cache.respond(request(location))
    assert isinstance(late, Stored)
    assert len(location.server.requests) == 2
    location.server.release("film")
    expected = bytes_of(NEW if etag == '"new"' else OLD)
    assert await body_of(late) == expected
    assert await body_of(running) == bytes_of(OLD)
    assert await fetched(cache, request(location)) == (expected, CacheResult.HIT)
    assert len(location.server.requests) == 2


async def test_invalidation_covers_all_variants(location: Location) -> None:
    put_old(location, (*FRESH, ("Vary", "Accept")))
    cache = ResponseCache(location.worker())
    kinds = [{"accept": "text/html"}, {"accept": "image/png"}]
    for fields in kinds:
        await fetched(cache, request(location, fields=fields))
    location.invalidate("/film")
    put_new(location, (*FRESH, ("Vary", "Accept")))
    for fields in kinds:
        result = await fetched(cache, request(location, fields=fields))
        assert result == (bytes_of(NEW), CacheResult.MISS)
        result = await fetched(cache, request(location, fields=fields))
        assert result == (bytes_of(NEW), CacheResult.HIT)


async def test_invalidation_covers_cached_errors(location: Location) -> None:
    location.server.script(Reply(status=404, headers=FRESH))
    cache = ResponseCache(location.worker())
    for _ in range(2):
        outcome = await cache.respond(request(location))
        assert isinstance(outcome, Stored)
        assert outcome.reader.head.status == 404
        outcome.reader.close()
    assert len(location.server.requests) == 1
    put_new(location)
    location.invalidate("/film")
    assert await fetched(cache, request(location)) == (bytes_of(NEW), CacheResult.MISS)


async def test_tag_invalidation_uses_the_tag_field_of_the_distribution(location: Location) -> None:
    put_old(location, (*FRESH, ("Cache-Tag", "film, News")))
    cache = ResponseCache(location.worker())

    def tagged() -> CacheRequest:
        return request(location, tag_field="cache-tag")

    await fetched(cache, tagged())
    location.invalidate("#sport")
    assert await fetched(cache, tagged()) == (bytes_of(OLD), CacheResult.HIT)
    location.invalidate("#NEWS")
    assert await fetched(cache, request(location)) == (
        bytes_of(OLD),
        CacheResult.HIT,
    )  # without a tag field
    put_new(location)
    new_cache = ResponseCache(location.worker())
    for each in (new_cache, cache):
        assert (await fetched(each, tagged()))[0] == bytes_of(NEW)


# Players


async def open_reader(worker: Cache, asset: Asset) -> Reader:
    return await worker.open(asset, Span(0, 1))


async def test_play_gets_the_new_version_after_a_hard_invalidation(location: Location) -> None:
    put_old(location)
    one, other = location.worker(), location.worker()
    for worker in (one, other):
        assert await fetch(worker, asset_of(location), ALL_OLD) == bytes_of(OLD)
    put_new(location)
    location.invalidate("/film")
    for worker in (one, other):
        reader = await open_reader(worker, asset_of(location))
        assert reader.head.version.etag == '"new"'
        reader.close()
    assert len(location.server.requests) == 2
    assert "if-none-match" not in location.server.requests[1].headers


async def test_play_validates_after_a_soft_invalidation(location: Location) -> None:
    put_old(location)
    worker = location.worker()
    assert await fetch(worker, asset_of(location), ALL_OLD) == bytes_of(OLD)
    location.invalidate("/film", soft=True)
    results = []
    for _ in range(2):
        reader = await open_reader(worker, asset_of(location))
        results.append(reader.result)
        reader.close()
    assert results == [CacheResult.REFRESH_HIT, CacheResult.HIT]
    assert location.server.requests[1].headers["if-none-match"] == '"old"'
    assert len(location.server.requests) == 2


async def test_play_that_joins_an_outdated_open_sends_its_own_request(location: Location) -> None:
    put_old(location)
    worker = location.worker()
    location.server.hold_responses()
    before = asyncio.create_task(open_reader(worker, asset_of(location)))
    await location.server.wait_for_requests(1)
    put_new(location)
    location.invalidate("/film")
    after = [asyncio.create_task(open_reader(worker, asset_of(location))) for _ in range(2)]
    location.server.release_responses()
    readers = [await before, *[await each for each in after]]
    assert [reader.head.version.etag for reader in readers] == ['"old"', '"new"', '"new"']
    for reader in readers:
        reader.close()
    assert len(location.server.requests) == 2


async def test_record_that_replaces_another_is_checked_again(location: Location) -> None:
    put_old(location)
    worker, asset = location.worker(), asset_of(location)
    before_the_write = worker.sent_now()
    worker.refuse_older(asset.key)
    reader = await worker.open(asset, ALL_OLD)
    open_object = reader.open_object
    assert reader.is_current()
    open_object.record = replace(open_object.record, sent_change=before_the_write.change)
    assert not reader.is_current()
    reader.close()


async def test_reader_reports_whether_it_is_current(location: Location) -> None:
    put_old(location)
    worker = location.worker()
    reader = await open_reader(worker, asset_of(location))
    other_scope = await open_reader(worker, asset_of(location, "F"))
    without_scope = await open_reader(worker, location.asset())
    closed = await open_reader(worker, asset_of(location))
    closed.close()
    location.invalidate("/other")
    readers = (reader, closed, other_scope, without_scope)
    assert [reader.is_current() for reader in readers] == [True, True, True, True]
    assert reader.clone().subject == InvalidationTarget("E", "/film", "")
    location.invalidate("/film", soft=True)
    assert [reader.is_current() for reader in readers] == [False, False, True, True]
    new_reader = await open_reader(worker, asset_of(location))
    assert new_reader.is_current()
    worker.refuse_older(location.asset().key)
    assert [reader.is_current() for reader in (*readers, new_reader)] == [False] * 5
    for reader in (*readers, new_reader):
        reader.close()
