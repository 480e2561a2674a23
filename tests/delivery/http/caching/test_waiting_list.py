"""Many requests for an object during its first origin request: they wait, then they are hits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from streamedge.delivery.http.fast_path.batch import BATCH_MAX
from streamedge.delivery.http.http1.connection import Http1Connection
from streamedge.spans import Span
from tests.support.event_loop import until
from tests.support.http.http_viewer import Response, Viewer, open_viewer, request
from tests.support.http.web_edge import WebEdge, connections, serve_web, waiting_requests
from tests.support.origins.scripted_origin import Pattern

FILM = Pattern(300_000, seed=1)
WHOLE = FILM.read(Span(0, FILM.size_bytes))
HELD = 3
ETAG = '"1"'
# Requests for one object that differ in what they want of it.
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "whole object": ("GET", {}),
    "HEAD": ("HEAD", {}),
    "matching ETag": ("GET", {"if_none_match": ETAG}),
    "another ETag": ("GET", {"if_none_match": '"2"'}),
    "HEAD with a matching ETag": ("HEAD", {"if_none_match": ETAG}),
    "not modified since": ("GET", {"if_modified_since": "Tue, 14 Nov 2034 22:13:20 GMT"}),
    "failing precondition": ("GET", {"if_match": '"2"'}),
    "range": ("GET", {"range": "bytes=5-9"}),
    "suffix range": ("GET", {"range": "bytes=-7"}),
    "two ranges": ("GET", {"range": "bytes=0-1,9-10"}),
    "range outside": ("GET", {"range": "bytes=400000-"}),
    "range of this version": ("GET", {"range": "bytes=5-9", "if_range": ETAG}),
    "range of another version": ("GET", {"range": "bytes=5-9", "if_range": '"2"'}),
}


@asynccontextmanager
async def waiting_viewers(
    cache_root: Path,
    raw: bytes = request("/film.mp4"),
    *,
    headers: tuple[tuple[str, str], ...] = (),
) -> AsyncIterator[tuple[WebEdge, list[Viewer]]]:
    """The first viewer's request is at the origin, and the others wait for it."""
    async with serve_web(cache_root) as edge, AsyncExitStack() as stack:
        edge.origin.put("film.mp4", FILM, headers=headers)
        edge.origin.hold_responses()
        viewers = [await stack.enter_async_context(open_viewer(edge.port)) for _ in range(HELD + 1)]
        await viewers[0].send(raw)
        await edge.origin.wait_for_requests(1)
        for viewer in viewers[1:]:
            await viewer.send(raw)
        await until(lambda: waiting_requests(edge) == HELD)
        yield edge, viewers


async def test_waiting_viewers_get_the_object_of_one_response(cache_root: Path) -> None:
    async with waiting_viewers(cache_root) as (edge, viewers):
        edge.origin.release_responses()
        answers = [await viewer.receive() for viewer in viewers]
        assert [answer.body for answer in answers] == [WHOLE] * len(viewers)
        assert [answer.cache for answer in answers] == ["Miss", *["Hit"] * HELD]
        assert len(edge.origin.requests) == 1
        assert [line["cache"] for line in edge.lines()].count("Hit") == HELD


async def at_once(edge: WebEdge, viewers: list[Viewer], raw: bytes) -> list[Http1Connection]:
    """Sends one request of each viewer in one loop iteration; returns their connections."""
    await until(lambda: len(connections(edge)) >= len(viewers))
    by_name = {str(one.peer): one for one in connections(edge)}
    near = [by_name[viewer.name] for viewer in viewers]
    for connection in near:
        connection.data_received(raw)
    return near


@asynccontextmanager
async def strangers(cache_root: Path) -> AsyncIterator[tuple[WebEdge, list[Viewer]]]:
    """Viewers without a request yet, and an origin that holds its responses."""
    async with serve_web(cache_root) as edge, AsyncExitStack() as stack:
        edge.origin.put("film.mp4", FILM)
        edge.origin.hold_responses()
        count = BATCH_MAX + HELD
        yield edge, [await stack.enter_async_context(open_viewer(edge.port)) for _ in range(count)]


async def test_requests_of_one_loop_iteration_wait_too(cache_root: Path) -> None:
    async with strangers(cache_root) as (edge, viewers):
        await at_once(edge, viewers, request("/film.mp4"))
        await until(lambda: waiting_requests(edge) == len(viewers) - 1)
        edge.origin.release_responses()
        answers = [await viewer.receive() for viewer in viewers]
        assert [answer.body for answer in answers] == [WHOLE] * len(viewers)
        assert [answer.cache for answer in answers].count("Miss") == 1
        assert len(edge.origin.requests) == 1


async def test_deferred_requests_are_answered_before_the_edge_stops(cache_root: Path) -> None:
    async with strangers(cache_root) as (edge, viewers):
        near = await at_once(edge, viewers[:2], request("/film.mp4"))
        near[1].shutdown()
        edge.origin.release_responses()
        for viewer in viewers[:2]:
            assert (await viewer.receive()).body == WHOLE
        assert await viewers[1].receive_rest() == b""


async def test_waiting_requests_are_answered_before_the_body_is_complete(cache_root: Path) -> None:
    async with waiting_viewers(cache_root) as (edge, viewers):
        edge.origin.hold("film.mp4", at=0)
        edge.origin.release_responses()
        for viewer in viewers:
            assert (await viewer.receive_head()).fields["content-length"] == str(len(WHOLE))
        edge.origin.release("film.mp4")
        for viewer in viewers:
            assert await viewer.receive_body(len(WHOLE)) == WHOLE


async def test_ranges_with_different_numbers_wait_too(cache_root: Path) -> None:
    async with waiting_viewers(cache_root, request("/film.mp4", range="bytes=0-9")) as (
        edge,
        viewers,
    ):
        edge.origin.release_responses()
        for viewer in viewers:
            assert (await viewer.receive()).body == WHOLE[:10]
        assert len(edge.origin.requests) == 1


async def test_request_after_a_waiting_one_is_answered_after_it(cache_root: Path) -> None:
    async with waiting_viewers(cache_root) as (edge, viewers):
        await viewers[1].send(request("/film.mp4", "HEAD") + request("/none.mp4"))
        edge.origin.release_responses()
        assert (await viewers[1].receive()).body == WHOLE
        assert (await viewers[1].receive("HEAD")).status == 200
        assert (await viewers[1].receive()).status == 404


async def test_uncacheable_response_is_requested_by_each_viewer(cache_root: Path) -> None:
    private = (("cache-control", "private"),)
    async with waiting_viewers(cache_root, headers=private) as (edge, viewers):
        edge.origin.release_responses()
        answers = [await viewer.receive() for viewer in viewers]
        assert [answer.body for answer in answers] == [WHOLE] * len(viewers)
        assert len(edge.origin.requests) == len(viewers)


async def test_waiting_viewer_that_leaves_is_removed(cache_root: Path) -> None:
    async with waiting_viewers(cache_root) as (edge, viewers):
        viewers[1].reset()
        await until(lambda: len(connections(edge)) == HELD)
        edge.origin.release_responses()
        for viewer in (viewers[0], *viewers[2:]):
            assert (await viewer.receive()).body == WHOLE
        (left,) = [line for line in edge.lines() if line.get("reason") == "viewer left"]
        assert (left["status"], left["bytes"]) == (200, 0)


async def test_request_continues_for_the_others_when_its_viewer_leaves(cache_root: Path) -> None:
    async with waiting_viewers(cache_root) as (edge, viewers):
        viewers[0].reset()
        await until(lambda: len(connections(edge)) == HELD)
        edge.origin.release_responses()
        for viewer in viewers[1:]:
            assert (await viewer.receive()).body == WHOLE
        assert len(edge.origin.requests) == 1


async def test_waiting_requests_are_answered_before_the_edge_stops(cache_root: Path) -> None:
    async with waiting_viewers(cache_root) as (edge, viewers):
        draining = asyncio.create_task(edge.server.drain(20))
        await until(lambda: not edge.server.stats().listeners)
        edge.origin.release_responses()
        for viewer in viewers:
            assert (await viewer.receive()).body == WHOLE
        await draining
        assert await viewers[1].receive_rest() == b""


async def test_each_response_is_logged_with_its_own_request(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge:
        edge.origin.put("film.mp4", FILM)
        targets = [("one.example", "/film.mp4"), ("two.example", "/f%69lm.mp4")]
        for _miss_then_hits in range(3):
            for host, path in targets:
                async with open_viewer(edge.port) as viewer:
                    await viewer.send(request(path, host=host))
                    assert (await viewer.receive()).body == WHOLE
        logged = [(line["host"], line["path"]) for line in edge.lines()]
        assert logged == targets * 3


async def test_range_in_an_unusual_form_is_answered_each_time(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("film.mp4", FILM)
        for field in ("Range:bytes=5-9", "RANGE: bytes=5-9", "range:   bytes=5-9  "):
            for _cold_then_warm in range(3):
                await viewer.send(
                    f"GET /film.mp4 HTTP/1.1\r\nHost: edge\r\n{field}\r\n\r\n".encode()
                )
                assert (await viewer.receive()).body == WHOLE[5:10]


def bytes_of_kind(kind: str) -> bytes:
    method, fields = KINDS[kind]
    return request("/film.mp4", method, **fields)


async def receive_kind(viewer: Viewer, kind: str) -> Response:
    return await viewer.receive(KINDS[kind][0])


def comparable(response: Response) -> tuple[object, ...]:
    """A response without what differs between a miss and a hit, or between two multipart bodies.

    An error's text and a 304's fields may be the origin's or the edge's.
    """
    if response.status in (304, 412, 416):
        return (response.status,)
    content_type = response.fields.get("content-type", "")
    boundary = content_type.partition("boundary=")[2].encode()
    body = response.body.replace(boundary, b"") if boundary else response.body
    fields = [response.fields.get(name) for name in ("content-length", "content-range", "etag")]
    return response.status, body, *fields, content_type.partition(";")[0]


async def waits(edge: WebEdge, count: int) -> None:
    """Waits until so many requests are in the handler or wait for one that is."""
    await until(lambda: edge.server.stats().requests + waiting_requests(edge) == count)


@pytest.mark.parametrize("first", KINDS)
async def test_each_waiting_viewer_is_answered_by_its_own_conditions(
    cache_root: Path, first: str
) -> None:
    kinds = [first, *KINDS]
    async with serve_web(cache_root) as edge, AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(open_viewer(edge.port)) for _ in kinds]
        edge.origin.put("film.mp4", FILM, etag=ETAG)
        edge.origin.hold_responses()
        await viewers[0].send(bytes_of_kind(first))
        await edge.origin.wait_for_requests(1)
        for viewer, kind in zip(viewers[1:], kinds[1:], strict=True):
            await viewer.send(bytes_of_kind(kind))
        await waits(edge, len(viewers))
        edge.origin.release_responses()
        cold = [await receive_kind(*pair) for pair in zip(viewers, kinds, strict=True)]
        for viewer, kind in zip(viewers, kinds, strict=True):
            await viewer.send(bytes_of_kind(kind))
        warm = [await receive_kind(*pair) for pair in zip(viewers, kinds, strict=True)]
        assert list(map(comparable, cold)) == list(map(comparable, warm))
        # One GET for the head, and one for what its range left out; a 416 answers no other viewer.
        gets = [received for received in edge.origin.requests if received.method == "GET"]
        assert len(gets) <= (3 if first == "range outside" else 2)
        conditions = {"if-none-match", "if-modified-since", "if-range"}
        assert not [each for each in gets if conditions & each.headers.keys()]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "range outside"])
async def test_requests_for_an_uncacheable_object_are_at_the_origin_at_the_same_time(
    cache_root: Path, kind: str
) -> None:
    """Those that waited in vain for one response, and those that come while the key is marked."""
    async with serve_web(cache_root) as edge, AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(open_viewer(edge.port)) for _ in range(12)]
        fields = (("cache-control", "no-store"),)
        edge.origin.put("film.mp4", FILM, etag=ETAG, headers=fields)
        edge.origin.hold_responses()
        for viewer in viewers:
            await viewer.send(bytes_of_kind(kind))
        await waits(edge, len(viewers))
        edge.origin.release_responses()
        cold = [await receive_kind(viewer, kind) for viewer in viewers]
        edge.origin.hold_responses()
        before = len(edge.origin.requests)
        for viewer in viewers:
            await viewer.send(bytes_of_kind(kind))
        await edge.origin.wait_for_requests(before + len(viewers))
        edge.origin.release_responses()
        again = [await receive_kind(viewer, kind) for viewer in viewers]
        # The viewer whose request was first may get the whole object for its condition.
        assert {comparable(each) for each in [*cold[1:], *again]} == {comparable(again[0])}
