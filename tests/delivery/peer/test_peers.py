"""Caches of several edges that request from each other, with forced faults."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from streamedge.cache.lookup.outcome import Stored
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.extent import EXTENT_BYTES
from streamedge.control.position import UNKNOWN_POSITION, position_at
from streamedge.delivery.http.http1.exchange import Http1Exchange
from streamedge.delivery.peer import handler
from streamedge.errors import OriginError, OriginFailure
from streamedge.fleet.ownership import ranks
from streamedge.fleet.states import EdgeState
from streamedge.ops.metrics import Counter, pair
from streamedge.origin import Fields, OriginRequest, OriginResponse
from streamedge.origin.peer import tier
from streamedge.spans import Span
from tests.support.event_loop import until
from tests.support.fleet.peer_fleet import PeerFleet, run_peer_fleet
from tests.support.origins.scripted_origin import Reply
from tests.support.origins.scripted_responses import Pattern
from tests.support.patience import PATIENCE_S

MIB = 1 << 20
FILM = Pattern(3 * MIB)
ALL = Span(0, FILM.size_bytes)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[PeerFleet]:
    async with run_peer_fleet(tmp_path) as running:
        yield running


async def test_every_byte_comes_from_the_origin_once(fleet: PeerFleet) -> None:
    fleet.origin.put("film", FILM)
    bodies = await asyncio.gather(
        *(edge.read("film", ALL) for edge in fleet.edges.values() for _ in range(5))
    )
    assert all(body == FILM.read(ALL) for body in bodies)
    assert fleet.origin.body_bytes_sent == FILM.size_bytes
    assert fleet["lon-1"].sent("answered") > 0


async def test_requests_and_bytes_are_counted_by_role_and_result(fleet: PeerFleet) -> None:
    name = fleet.object_of("fra-1")
    fleet.origin.put(name, b"old", headers=(("cache-control", "max-age=0"),))
    child, parent = fleet["lon-1"].counts, fleet["fra-1"].counts
    assert await fleet["lon-1"].read(name, Span(0, 3)) == b"old"
    fleet.origin.script(Reply(status=503), times=20)
    assert await fleet["ams-1"].read(name, Span(0, 3)) == b"old"
    for counter, amount in ((Counter.PEER_REQUESTS, 1), (Counter.PEER_BYTES, 3)):
        assert child.gathered(counter, pair("child", "answered")) == amount
        assert child.gathered(counter, pair("child", "stale")) == 0
        assert fleet["ams-1"].counts.gathered(counter, pair("child", "stale")) == amount
        for result in ("answered", "stale"):
            label = pair("parent", result)
            await until(lambda: parent.gathered(counter, label) >= amount)  # noqa: B023


async def test_edges_that_wait_for_each_others_extents_do_not_wait_for_ever(
    fleet: PeerFleet,
) -> None:
    """A lookup holds its key while it waits, and each edge owns the extent that the other needs."""
    name = fleet.object_of("fra-1", "ams-1")
    film = Pattern(EXTENT_BYTES + 2 * MIB)
    fleet.origin.put(name, film)
    first, second = Span(0, 1000), Span(EXTENT_BYTES + 5, EXTENT_BYTES + 1005)
    fleet.origin.hold_responses()
    readers = [
        asyncio.ensure_future(fleet[edge].read(name, span))
        for edge, span in (("fra-1", second), ("ams-1", first), ("fra-1", first), ("ams-1", second))
    ]
    await fleet.origin.wait_for_requests(1)
    fleet.origin.release_responses()
    async with asyncio.timeout(PATIENCE_S):
        bodies = await asyncio.gather(*readers)
    assert bodies == [film.read(span) for span in (second, first, first, second)]


async def test_slow_origin_is_not_taken_for_a_dead_edge(tmp_path: Path) -> None:
    sent = 0

    async with run_peer_fleet(tmp_path, silence_max_s=0.5) as fleet:
        name = fleet.object_of("fra-1")
        fleet.origin.put(name, FILM)
        fleet.origin.hold_responses()

        def interim(exchange: Http1Exchange, status: int, fields: Fields) -> None:
            nonlocal sent
            send(exchange, status, fields)
            sent += 1
            if sent == 40:  # the other edge has waited for much longer than its limit of silence
                fleet.origin.release_responses()

        send = Http1Exchange.interim
        with (
            patch.object(Http1Exchange, "interim", interim),
            patch.object(handler, "PROGRESS_S", 0.05),
        ):
            assert await fleet["lon-1"].read(name, ALL) == FILM.read(ALL)
        assert sent >= 40
        assert fleet["lon-1"].sent("failed") == 0


async def test_version_that_the_origin_has_no_more_is_reported_as_changed(
    fleet: PeerFleet,
) -> None:
    name = fleet.object_of("fra-1")
    fleet.origin.put(name, FILM)
    reader = await fleet["lon-1"].cache.open(fleet["lon-1"].asset(name), Span(0, 10))
    try:
        await reader.read(Span(0, 10))
        fleet.origin.put(name, Pattern(FILM.size_bytes, seed=2), etag='"2"')
        with pytest.raises(OriginError) as raised:
            await reader.read(Span(2 * MIB, 2 * MIB + 10))
    finally:
        reader.close()
    assert raised.value.failure is OriginFailure.CHANGED
    new = await fleet["lon-1"].read(name, Span(2 * MIB, 2 * MIB + 10))
    assert new == Pattern(FILM.size_bytes, seed=2).read(Span(2 * MIB, 2 * MIB + 10))


async def test_failure_of_the_origin_is_no_failure_of_the_edge(fleet: PeerFleet) -> None:
    name = fleet.object_of("fra-1")
    await fleet.origin.refuse()
    with pytest.raises(OriginError) as raised:
        await fleet["lon-1"].read(name, ALL)
    assert raised.value.failure is OriginFailure.REFUSED
    assert fleet["lon-1"].sent("origin_failed") == 1
    assert fleet["lon-1"].bypasses("no_answer") == 0


@pytest.mark.parametrize(
    ("own", "parents", "expected"),
    [
        (position_at(5, 100), position_at(5, 40), position_at(5, 40)),
        (position_at(5, 100), position_at(5, 400), position_at(5, 100)),
        (position_at(5, 100), position_at(6, 400), UNKNOWN_POSITION),
    ],
)
async def test_response_is_as_old_as_the_parents_record(
    fleet: PeerFleet, own: int, parents: int, expected: int
) -> None:
    name = fleet.object_of("fra-1")
    fleet.origin.put(name, b"small")
    child = fleet["lon-1"]
    now = child.cache.sent_now()._replace(position=own)
    with (
        patch.object(child.cache, "sent_now", lambda: now),
        patch.object(child.view, "local_position", lambda _position: parents),
    ):
        await child.read(name, Span(0, 5))
    (opened,) = child.cache.open_versions
    assert opened.record.position == expected


async def test_parent_validates_what_it_would_send_stale_to_a_viewer(fleet: PeerFleet) -> None:
    name = fleet.object_of("fra-1")
    stale = (("cache-control", "max-age=0, stale-while-revalidate=600"),)
    fleet.origin.put(name, b"old", headers=stale)
    assert await fleet["fra-1"].read(name, Span(0, 3)) == b"old"
    fleet.origin.put(name, b"new", etag='"2"', headers=stale)
    outcome = await fleet["lon-1"].responses.respond(fleet["lon-1"].lookup(name, Span(0, 3)))
    assert isinstance(outcome, Stored)
    assert await outcome.reader.read(Span(0, 3)) == b"new"
    outcome.reader.close()


@pytest.mark.parametrize("edge", ["fra-1", "lon-1"])
async def test_changed_object_is_read_whole(fleet: PeerFleet, edge: str) -> None:
    """The parent validates by HEAD what its child validates, then reads the new version."""
    name = fleet.object_of("fra-1")
    for number in range(3):
        content = f"content {number}".encode()
        etag, headers = f'"{number}"', (("cache-control", "max-age=0"),)
        fleet.origin.put(name, content, etag=etag, headers=headers)
        assert await fleet[edge].read(name, Span(0, len(content))) == content


async def test_ttl_counts_from_the_first_edge_that_had_the_object(fleet: PeerFleet) -> None:
    """Else each tier would make it longer, by the age that the object had there."""
    name = fleet.object_of("fra-1")
    rules = TtlRules(default_ttl_s=10_000)
    fleet.origin.put(name, b"old", headers=(("age", "7"),))
    clock = time.time

    async def read_at(edge: str, after_s: float) -> bytes:
        with patch.object(time, "time", lambda: clock() + after_s):
            return await fleet[edge].read(name, Span(0, 3), rules)

    assert await read_at("fra-1", 0) == b"old"
    assert await read_at("lon-1", 6000) == b"old"
    (opened,) = fleet["lon-1"].cache.open_versions
    assert 6007 <= opened.record.initial_age_s <= 6007 + PATIENCE_S
    fleet.origin.put(name, b"new", etag='"2"')
    for edge in ("lon-1", "ams-1"):
        assert await read_at(edge, 9500) == b"old"
    for edge in ("lon-1", "ams-1"):
        assert await read_at(edge, 10_000 + PATIENCE_S) == b"new"


async def test_stale_answer_is_not_stored_and_confirms_nothing(fleet: PeerFleet) -> None:
    name = fleet.object_of("fra-1")
    fleet.origin.put(name, b"old", headers=(("cache-control", "max-age=0"),))
    assert await fleet["fra-1"].read(name, Span(0, 3)) == b"old"
    fleet.origin.script(Reply(status=503), times=20)
    assert await fleet["lon-1"].read(name, Span(0, 3)) == b"old"
    assert fleet["lon-1"].sent("stale") == 1
    assert fleet["lon-1"].cache.store.load_record(fleet["lon-1"].asset(name).key) is None
    fleet.origin.clear_script()
    fleet.origin.put(name, b"new", etag='"2"')
    assert await fleet["lon-1"].read(name, Span(0, 3)) == b"new"


async def test_only_so_many_requests_bypass_the_tier_at_a_time(fleet: PeerFleet) -> None:
    names = [f"film-{n}" for n in range(20)]
    for name in names:
        fleet.origin.put(name, b"content")
    child = fleet["lon-1"]
    child.view.state = EdgeState.LOST
    fleet.origin.hold_responses()
    readers = [asyncio.ensure_future(child.read(name, Span(0, 7))) for name in names]
    await fleet.origin.wait_for_requests(tier.BYPASSES_MAX)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(fleet.origin.requests) == tier.BYPASSES_MAX
    fleet.origin.release_responses()
    assert await asyncio.gather(*readers) == [b"content"] * 20
    assert child.bypasses("lost") == 20


async def test_bypass_that_is_cancelled_or_fails_frees_its_place(fleet: PeerFleet) -> None:
    child = fleet["lon-1"]

    class Failing:
        async def send(self, request: OriginRequest) -> OriginResponse:
            raise OriginError(OriginFailure.REFUSED, "no")

    for _ in range(3 * tier.BYPASSES_MAX):
        with pytest.raises(OriginError):
            await child.fleet.bypass(Failing(), OriginRequest("GET", "x"), "lost", "")


async def test_new_owner_takes_cached_bytes_from_the_previous_one(fleet: PeerFleet) -> None:
    name = fleet.object_of("ams-1")
    fleet.origin.put(name, FILM)
    before = {key: fleet["fra-1"].view.members[key] for key in ("fra-1", "lon-1")}
    all_members = fleet["fra-1"].view.members
    for edge in fleet.edges.values():
        edge.view.members = before
    await fleet["lon-1"].read(name, ALL)
    for edge in fleet.edges.values():
        edge.view.members, edge.view.previous_members = all_members, before
    assert await fleet["ams-1"].read(name, ALL) == FILM.read(ALL)
    assert fleet.origin.body_bytes_sent == FILM.size_bytes


async def test_read_of_bytes_that_the_previous_owner_has_in_part(fleet: PeerFleet) -> None:
    name = fleet.object_of("ams-1")
    fleet.origin.put(name, FILM)
    before = {key: fleet["fra-1"].view.members[key] for key in ("fra-1", "lon-1")}
    all_members = fleet["fra-1"].view.members
    for edge in fleet.edges.values():
        edge.view.members = before
    await fleet["fra-1"].read(name, Span(0, MIB))
    for edge in fleet.edges.values():
        edge.view.members, edge.view.previous_members = all_members, before
    assert await fleet["ams-1"].read(name, ALL) == FILM.read(ALL)
    assert fleet.origin.body_bytes_sent <= FILM.size_bytes + MIB // 4


async def test_request_that_is_too_large_for_a_peer_goes_to_the_origin(fleet: PeerFleet) -> None:
    fleet.origin.put("film", b"content")
    child = fleet["lon-1"]
    with patch.object(tier, "encode_request", lambda _request: None):
        assert await child.read("film", Span(0, 7)) == b"content"
    assert child.bypasses("too_large") == 1


async def test_rules_of_the_viewers_edge_count_at_the_parent(fleet: PeerFleet) -> None:
    name = fleet.object_of("fra-1")
    fleet.origin.put(name, b"content")
    short = TtlRules(default_ttl_s=0.0, max_ttl_s=0.0)
    for _ in range(3):
        assert await fleet["lon-1"].read(name, Span(0, 7), short) == b"content"
    assert len(fleet.origin.requests) >= 3  # each was validated at the origin, through the parent
    assert fleet["lon-1"].sent("answered") >= 3


async def test_dead_edge_is_not_tried_for_each_request(fleet: PeerFleet) -> None:
    names = [n for n in (f"film-{i}" for i in range(60)) if owner(fleet, n) == "fra-1"][:12]
    for name in names:
        fleet.origin.put(name, b"content")
    await fleet["fra-1"].server.drain(0.0)
    for name in names:
        assert await fleet["lon-1"].read(name, Span(0, 7)) == b"content"
    assert fleet["lon-1"].sent("failed") <= 4
    assert fleet.origin.body_bytes_sent == 7 * len(names)


def owner(fleet: PeerFleet, name: str) -> str:
    all_members = fleet["lon-1"].view.members
    key = fleet["lon-1"].asset(name).key
    return ranks(key, 0, [all_members[one] for one in fleet.tier])[0].name


async def test_edge_with_another_view_sends_what_it_has_cached_and_nothing_more(
    fleet: PeerFleet,
) -> None:
    cached, other = [n for n in (f"film-{i}" for i in range(60)) if owner(fleet, n) == "fra-1"][:2]
    for name in (cached, other):
        fleet.origin.put(name, b"content")
    parent, child = fleet["fra-1"], fleet["lon-1"]
    await parent.read(cached, Span(0, 7))
    parent.view.members = {name: parent.view.members[name] for name in ("ams-1", "lon-1")}
    for name in (cached, other):
        assert await child.read(name, Span(0, 7)) == b"content"
    assert len([request for request in fleet.origin.requests if request.name == cached]) == 1
    assert child.sent("refused") == 1
    assert child.sent("answered") == 2  # the other one from the next member


async def test_new_owners_after_a_change_of_the_tier_request_from_the_previous_ones(
    fleet: PeerFleet,
) -> None:
    name = fleet.object_of("ams-1")
    fleet.origin.put(name, FILM)
    for edge in fleet.edges.values():
        edge.fleet.use_tiers({"eu": ["fra-1"]})
    await fleet["lon-1"].read(name, ALL)
    for edge in fleet.edges.values():
        edge.fleet.use_tiers({"eu": ["fra-1", "ams-1"]})
    assert await fleet["ams-1"].read(name, ALL) == FILM.read(ALL)
    assert fleet.origin.body_bytes_sent == FILM.size_bytes


async def test_write_that_waits_on_this_edge_is_read_here(fleet: PeerFleet) -> None:
    """Other edges do not have it yet, so the tier would return the object from before."""
    name = fleet.object_of("fra-1")
    fleet.origin.put(name, b"old")
    assert await fleet["fra-1"].read(name, Span(0, 3)) == b"old"
    child = fleet["lon-1"]
    child.binding = replace(child.binding, is_pending=lambda pending: pending == name)
    fleet.origin.put(name, b"new", etag='"2"')  # in the place of the queue of writes
    assert await child.read(name, Span(0, 3)) == b"new"
    assert child.sent("answered") == 0
