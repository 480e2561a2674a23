"""The traffic check, and what an edge serves that has lost its fleet."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from streamedge.coordination.fleet_status import FleetStatus, lease_clock_s
from streamedge.delivery.traffic import WELCOME, Traffic
from streamedge.fleet.states import EdgeState
from streamedge.process.traffic import FleetWatch, WorkerTraffic
from tests.support.event_loop import until
from tests.support.http.http_viewer import open_viewer
from tests.support.http.web_edge import serve_web

CHECK = "/healthz/traffic"
ETAG = '"1"'
CROWD = 30


async def test_traffic_check_needs_no_distribution_and_no_origin(cache_root: Path) -> None:
    rules = {"viewer_protocol": "https-only", "methods": ["GET", "HEAD"]}
    async with (
        serve_web(cache_root, aliases=("www.example.com",), rules=rules) as edge,
        open_viewer(edge.port) as viewer,
    ):
        for host in ("www.example.com", "elsewhere.example.org", "127.0.0.1"):
            response = await viewer.get(CHECK, host=host)
            assert (response.status, response.body) == (200, b"200 OK: viewers are served here\n")
            assert response.fields["cache-control"] == "no-store"
        head = await viewer.get(CHECK, "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert edge.origin.requests == []
        assert [line["status"] for line in edge.lines()] == [200] * 4


async def test_traffic_check_says_why_viewers_should_go_elsewhere(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film", b"film", etag=ETAG)
        assert (await viewer.get(CHECK)).status == 200
        edge.server.handler.set_traffic(Traffic("the edge is draining"))
        response = await viewer.get(CHECK)
        assert response.status == 503
        assert response.body == b"503 Service Unavailable: the edge is draining\n"
        # It still serves those who come.
        assert (await viewer.get("/film")).body == b"film"
        edge.server.handler.set_traffic(WELCOME)
        assert (await viewer.get(CHECK)).status == 200


async def test_edge_that_refuses_viewers_answers_503_for_remembered_requests_too(
    cache_root: Path,
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film", b"film", etag=ETAG)
        for _request in range(3):
            assert (await viewer.get("/film")).status == 200
        edge.server.handler.set_traffic(Traffic("lost", refusal="this edge cannot reach its fleet"))
        for _request in range(3):
            response = await viewer.get("/film")
            assert response.status == 503
            assert b"cannot reach its fleet" in response.body
        edge.server.handler.set_traffic(WELCOME)
        assert (await viewer.get("/film")).cache == "Hit"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_edge_that_does_not_hear_its_fleet_validates_every_request(
    cache_root: Path, method: str
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film", b"film", etag=ETAG)
        for _request in range(3):
            await viewer.get("/film")
        requests = len(edge.origin.requests)
        edge.cache.invalidation_checker.set_hears_fleet(False)
        for number in range(3):
            response = await viewer.get("/film", method)
            assert (response.status, response.cache) == (200, "RefreshHit")
            assert len(edge.origin.requests) == requests + number + 1
            assert edge.origin.requests[-1].headers["if-none-match"] == ETAG
        edge.origin.put("film", b"new film", etag='"2"')
        assert (await viewer.get("/film")).body == b"new film"
        requests = len(edge.origin.requests)
        edge.cache.invalidation_checker.set_hears_fleet(True)
        for _request in range(3):
            assert (await viewer.get("/film")).cache == "Hit"
        assert len(edge.origin.requests) == requests


async def test_lease_that_ends_while_the_worker_is_stopped_counts_for_the_next_request(
    cache_root: Path,
) -> None:
    """Requests that came meanwhile are handled before the timer that looks at the lease."""
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film", b"film", etag=ETAG)
        now_s, status = lease_clock_s(), FleetStatus()
        watch = FleetWatch(
            status,
            edge.cache.invalidation_checker,
            lambda: "validate",
            WorkerTraffic(),
            lambda: now_s,
        )
        status.note(EdgeState.UP, now_s + 1000)
        watch.apply()
        edge.server.handler.batch.before_hits = watch.check_lease
        for _request in range(3):
            response = await viewer.get("/film")
        assert response.cache == "Hit"
        edge.origin.put("film", b"new film", etag='"2"')
        assert (await viewer.get("/film")).body == b"film"
        now_s += 1001
        assert (await viewer.get("/film")).body == b"new film"


async def test_request_gets_no_validation_that_was_sent_before_it_came(cache_root: Path) -> None:
    """An edge that has lost its fleet: others may have completed an invalidation in between."""
    async with (
        serve_web(cache_root) as edge,
        open_viewer(edge.port) as viewer,
        open_viewer(edge.port) as later,
    ):
        origin = edge.origin
        origin.put("film", b"film", etag=ETAG)
        await viewer.get("/film")
        edge.cache.invalidation_checker.set_hears_fleet(False)
        origin.hold_responses()
        first = asyncio.create_task(viewer.get("/film"))
        await origin.until(lambda: len(origin.requests) == 2)  # answered, and on its way
        origin.put("film", b"new film", etag='"2"')
        second = asyncio.create_task(later.get("/film"))
        await until(lambda: edge.cache.in_flight.requests == 2)
        origin.release_responses()
        assert (await first).body == b"film"
        assert (await second).body == b"new film"


async def test_crowd_at_an_edge_that_has_lost_its_fleet_is_validated_together(
    cache_root: Path,
) -> None:
    async with serve_web(cache_root) as edge, AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(open_viewer(edge.port)) for _ in range(CROWD)]
        edge.origin.put("film", b"film", etag=ETAG)
        for _request in range(2):
            assert (await viewers[0].get("/film")).status == 200
        before = len(edge.origin.requests)
        edge.cache.invalidation_checker.set_hears_fleet(False)
        for _round in range(3):
            responses = await asyncio.gather(*(viewer.get("/film") for viewer in viewers))
            assert {response.body for response in responses} == {b"film"}
        # Those that come while one is under way wait for the next one.
        assert len(edge.origin.requests) - before <= 6
        edge.origin.put("film", b"new film", etag='"2"')
        responses = await asyncio.gather(*(viewer.get("/film") for viewer in viewers))
        assert {response.body for response in responses} == {b"new film"}


async def test_unconfirmed_object_is_not_served_while_its_origin_fails(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film", b"film", etag=ETAG)
        await viewer.get("/film")
        edge.cache.invalidation_checker.set_hears_fleet(False)
        await edge.origin.refuse()
        assert (await viewer.get("/film")).status >= 500


async def test_compressed_form_is_served_after_its_source_was_validated(cache_root: Path) -> None:
    async with (
        serve_web(cache_root, rules={"compress": True}) as edge,
        open_viewer(edge.port) as viewer,
    ):
        edge.origin.put("a.css", b"a { color: red }" * 1000, etag=ETAG, content_type="text/css")
        await viewer.get("/a.css", accept_encoding="gzip")
        edge.cache.invalidation_checker.set_hears_fleet(False)
        for _request in range(2):
            response = await viewer.get("/a.css", accept_encoding="gzip")
            assert response.fields["content-encoding"] == "gzip"
            assert edge.origin.requests[-1].headers["if-none-match"] == ETAG
