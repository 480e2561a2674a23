"""A viewer that has sent its requests and closes its sending direction (RFC 9112 §9.6)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from streamedge.spans import Span
from tests.support.event_loop import until
from tests.support.http.http_viewer import Viewer, fetch, open_viewer, request
from tests.support.http.web_edge import WebEdge, connections, serve_web
from tests.support.origins.scripted_origin import Pattern, Reply

FILM = Pattern(3_000_000, seed=3)
WHOLE = FILM.read(Span(0, FILM.size_bytes))
WRITES: dict[str, Any] = {
    "rules": {"methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]},
    "limits": {"origin_retries": 0},
}


def put_film(edge: WebEdge) -> None:
    edge.origin.put("film.mp4", FILM, etag='"v1"', content_type="video/mp4")


async def has_half_closed(edge: WebEdge, viewer: Viewer) -> None:
    """Closes the viewer's sending direction; returns when the edge has noticed it."""
    await viewer.end_input()
    await until(lambda: any(one.stats().has_ended for one in connections(edge)))


async def test_half_closed_viewer_gets_misses_and_hits(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge:
        put_film(edge)
        for result in ("Miss", "Hit", "Hit"):
            async with open_viewer(edge.port, receive_buffer_bytes=4096) as viewer:
                await viewer.send_request("/film.mp4")
                await viewer.end_input()
                response = await viewer.receive()
                assert (response.cache, response.body) == (result, WHOLE)
                assert await viewer.receive_rest() == b""
        assert [line.get("reason") for line in edge.lines()] == [None] * 3
        assert not connections(edge)


async def test_half_closed_viewer_waits_for_a_slow_origin(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        edge.origin.hold_responses()
        await viewer.send_request("/film.mp4")
        await edge.origin.wait_for_requests(1)
        await has_half_closed(edge, viewer)
        edge.origin.release_responses()
        response = await viewer.receive()
        assert (response.body, response.fields["connection"]) == (WHOLE, "close")
        assert await viewer.receive_rest() == b""


async def test_half_closed_viewers_share_one_fetch(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as first:
        put_film(edge)
        edge.origin.hold_responses()
        await first.send_request("/film.mp4")
        await edge.origin.wait_for_requests(1)
        async with open_viewer(edge.port) as second:
            await second.send_request("/film.mp4")
            await until(lambda: any(one.stats().is_waiting for one in connections(edge)))
            await has_half_closed(edge, second)
            edge.origin.release_responses()
            assert (await second.receive()).body == WHOLE
            assert await second.receive_rest() == b""
        assert (await first.receive()).body == WHOLE
        assert len(edge.origin.requests) == 1


async def test_half_closed_viewer_gets_pipelined_responses(cache_root: Path) -> None:
    """Those of complete requests; one that is not complete gets none."""
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        edge.origin.put("page", b"page", etag='"p1"')
        edge.origin.hold_responses()
        await viewer.send(
            request("/film.mp4") + request("/film.mp4", "HEAD") + request("/page") + b"GET /pa"
        )
        await edge.origin.wait_for_requests(1)
        await viewer.end_input()
        edge.origin.release_responses()
        assert (await viewer.receive()).body == WHOLE
        assert (await viewer.receive("HEAD")).status == 200
        assert (await viewer.receive()).body == b"page"
        assert await viewer.receive_rest() == b""
        assert len(edge.lines()) == 3


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /film.mp4 HTTP/1.1\r\nHost: e",
        request("/a", "POST", content_length="5") + b"abc",
        request("/a", "POST", transfer_encoding="chunked") + b"3\r\nabc\r\n",
    ],
)
async def test_half_closed_viewer_with_half_a_request_is_closed(
    cache_root: Path, raw: bytes
) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=200))
        await viewer.send(raw)
        await viewer.end_input()
        assert await viewer.receive_rest() == b""
        await until(lambda: not connections(edge) and not edge.server.stats().requests)


async def test_upload_of_a_half_closed_viewer_is_answered(cache_root: Path) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=201, body=b"stored"))
        await viewer.send(request("/a", "POST", content_length="5") + b"hello")
        await viewer.end_input()
        response = await viewer.receive()
        assert (response.status, response.body) == (201, b"stored")
        (seen,) = edge.origin.requests
        assert seen.body == b"hello"


async def test_reset_behind_a_half_close_cancels_the_request(cache_root: Path) -> None:
    """The event loop does not report the reset: the sweep notices it."""
    async with serve_web(cache_root) as edge:
        edge.origin.hold_responses()
        async with open_viewer(edge.port) as viewer:
            await viewer.send_request("/film.mp4")
            await edge.origin.wait_for_requests(1)
            await has_half_closed(edge, viewer)
            (connection,) = connections(edge)
            now_s = asyncio.get_running_loop().time()
            connection.sweep(now_s, idle_s=60, stall_s=60)
            assert not connection.transport.is_closing()
            viewer.reset()
        await until(lambda: not connections(edge))
        edge.origin.release_responses()


async def test_viewer_that_leaves_behind_a_half_close_is_noticed_by_a_write(
    cache_root: Path,
) -> None:
    async with serve_web(cache_root) as edge:
        put_film(edge)
        edge.origin.hold("film.mp4", at=1000)
        async with open_viewer(edge.port) as viewer:
            await viewer.send_request("/film.mp4")
            assert (await viewer.receive_head()).status == 200
            assert await viewer.receive_body(1000) == WHOLE[:1000]
            await has_half_closed(edge, viewer)
        edge.origin.release("film.mp4")
        await until(lambda: not connections(edge))
        assert (await fetch(edge.port, "/film.mp4")).body == WHOLE
        left, served = edge.lines()
        assert (left["reason"], served.get("reason")) == ("viewer left", None)


async def test_idle_viewer_that_half_closes_is_closed(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        assert (await viewer.get("/film.mp4")).body == WHOLE
        await viewer.end_input()
        assert await viewer.receive_rest() == b""
        await until(lambda: not connections(edge))


async def test_half_closed_viewer_gets_what_is_passed_through(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge:
        no_store = (("Cache-Control", "no-store"),)
        edge.origin.put("page", b"page", headers=no_store)
        for _first_then_remembered in range(4):
            async with open_viewer(edge.port) as viewer:
                await viewer.send_request("/page")
                await viewer.end_input()
                assert (await viewer.receive()).body == b"page"
                assert await viewer.receive_rest() == b""
        assert [line.get("reason") for line in edge.lines()] == [None] * 4
