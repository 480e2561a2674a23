"""Selection among the variants of a key: they stay cached, and their memory is limited."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamedge.cache.lookup.outcome import Stored
from streamedge.cache.lookup.selection import key_of_variant, select
from streamedge.cache.responses import ResponseCache
from streamedge.cache.rfc9111.vary import variant_key
from streamedge.spans import Span
from tests.support.event_loop import until
from tests.support.http.film import BYTES, FRESH, STALE, body_of, put, request
from tests.support.http.location import Location, fills_ended, run_location


@pytest.fixture
async def location(cache_root: Path) -> AsyncIterator[Location]:
    async with run_location(cache_root) as location:
        yield location


async def test_request_selects_the_variant_of_its_own_fields(location: Location) -> None:
    put(location, (*FRESH, ("Vary", "Accept")))
    worker, other = location.worker(), location.worker()
    html, text = ({"accept": accept} for accept in ("text/html", "text/plain"))
    await body_of(await ResponseCache(worker).respond(request(location, fields=html)))
    for cache in (worker, other):
        stored = select(cache, request(location, fields=html))
        assert stored.asset.key == variant_key("site\nfilm", ("accept",), html)
        assert stored.record is not None
        missing = select(cache, request(location, fields=text))
        assert missing.asset.key == variant_key("site\nfilm", ("accept",), text)
        assert (missing.record, missing.why) == (None, "vary-miss")


async def test_key_of_a_variant_is_known_once_a_worker_has_seen_its_vary(
    location: Location,
) -> None:
    put(location, (*FRESH, ("Vary", "Accept")))
    worker, other = location.worker(), location.worker()
    html = {"accept": "text/html"}
    await body_of(await ResponseCache(worker).respond(request(location, fields=html)))
    variant = variant_key("site\nfilm", ("accept",), html)
    assert key_of_variant(worker, "site\nfilm", lambda: html) == variant
    assert key_of_variant(other, "site\nfilm", lambda: html) == "site\nfilm"
    select(other, request(location, fields=html))
    assert key_of_variant(other, "site\nfilm", lambda: html) == variant


async def test_key_that_begins_to_vary_stays_cached(location: Location) -> None:
    """A response with Vary replaces a stored one without it."""
    put(location, STALE)
    one, other = location.worker(), location.worker()
    caches = [ResponseCache(one), ResponseCache(other)]
    for cache in caches:
        assert await body_of(await cache.respond(request(location))) == BYTES
    sent_requests = len(location.server.requests)
    put(location, (*FRESH, ("Vary", "Accept")), etag='"2"')
    for cache in (*caches, *caches):
        assert await body_of(await cache.respond(request(location))) == BYTES
    assert len(location.server.requests) == sent_requests + 1


async def test_memory_for_varying_keys_is_limited(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request selects another variant: the memory in use does not grow with them."""
    monkeypatch.setattr("streamedge.cache.objects.VARYING_BYTES", 300)
    worker = location.worker(open_extents=8)
    cache = ResponseCache(worker)
    location.server.put("film", b"x", headers=(*FRESH, ("Vary", "User-Agent")), etag='"1"')
    for number in range(40):
        outcome = await cache.respond(request(location, fields={"user-agent": str(number)}))
        assert isinstance(outcome, Stored)
        await outcome.reader.read(Span(0, 1))
        outcome.reader.close()
    await fills_ended(worker)
    await until(lambda: len(worker.open_versions) <= 8)
    assert worker.varying.size_bytes <= 300
    assert len(worker.in_flight) == 0
    assert len(location.server.requests) == 40
