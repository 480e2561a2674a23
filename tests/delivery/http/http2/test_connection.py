"""One HTTP/2 connection: responses, bodies both ways, windows, priorities, and its end."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from streamedge.delivery.http.http2.connection import Http2Connection
from streamedge.delivery.http.http2.engine import Engine, ErrorCode
from streamedge.delivery.net.tls import TlsConnection
from streamedge.spans import Span
from tests.support.event_loop import until
from tests.support.garbage import count_of, no_garbage_collection
from tests.support.http.http2_edge import HOST, http2_connections, open_http2, serve_http2
from tests.support.http.http2_viewer import (
    INITIAL_WINDOW_SIZE,
    RST_STREAM,
    SETTINGS,
    StreamResetError,
    head,
)
from tests.support.http.web_edge import WebEdge
from tests.support.origins.scripted_origin import Pattern, Reply
from tests.support.patience import PATIENCE_S

FILM = Pattern(3_000_000, seed=1)
WHOLE = FILM.read(Span(0, FILM.size_bytes))
SMALL = b"small" * 200
WRITES: dict[str, Any] = {
    "rules": {
        "methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"],
        "origin_request_policy": "all",
    },
    "tables": {
        "origin_request_policies": {
            "all": {"query_strings": "all", "headers": "all", "cookies": "all"}
        }
    },
    "limits": {"origin_retries": 0},
}
HEAD = head("/small", host=HOST)


def put(edge: WebEdge) -> None:
    edge.origin.put("film", FILM, etag='"v1"', content_type="video/mp4")
    edge.origin.put("small", SMALL, etag='"s1"')


async def test_connection_carries_misses_and_hits(cache_root: Path) -> None:
    async with serve_http2(cache_root) as served, open_http2(served) as viewer:
        put(served[0])
        for expected in ("Miss", "Hit", "Hit"):
            for path, body in (("/film", WHOLE), ("/small", SMALL)):
                response = await viewer.get(path)
                assert response.status == 200
                assert response.body == body
                assert response.cache == expected
        assert (await viewer.get("/film", "HEAD")).fields["content-length"] == str(len(WHOLE))
        assert (await viewer.get("/film", range="bytes=5-9")).body == WHOLE[5:10]
        assert (await viewer.get("/film", range="bytes=7-8")).body == WHOLE[7:9]
        several = await viewer.get("/film", range="bytes=0-1,2000000-2900000")
        assert several.status == 206
        assert WHOLE[2_000_000:2_900_001] in several.body
        assert (await viewer.get("/film", if_none_match='"v1"')).status == 304
        assert (await viewer.get("/none")).status == 404
        assert (await viewer.get("/small", "POST")).status == 405


async def test_streams_are_answered_independently(cache_root: Path) -> None:
    async with serve_http2(cache_root) as served, open_http2(served) as viewer:
        put(served[0])
        await viewer.get("/small")
        served[0].origin.hold_responses()
        cold = await viewer.send_request("/film")
        assert (await viewer.get("/small")).body == SMALL
        served[0].origin.release_responses()
        assert (await viewer.receive(cold)).body == WHOLE


async def test_many_streams_for_a_cold_object_cause_one_request(cache_root: Path) -> None:
    async with serve_http2(cache_root) as served, open_http2(served) as viewer:
        put(served[0])
        streams = [await viewer.send_request("/small") for _ in range(60)]
        for stream in streams:
            assert (await viewer.receive(stream)).body == SMALL
        assert len(served[0].origin.requests) == 1


async def test_log_has_the_http_version(cache_root: Path) -> None:
    async with serve_http2(cache_root) as served, open_http2(served) as viewer:
        put(served[0])
        for _miss_then_hit in range(2):
            await viewer.get("/small")
        lines = served[0].lines()
        assert [line["cache"] for line in lines] == ["Miss", "Hit"]
        assert [line["http_version"] for line in lines] == ["2", "2"]
        assert [line["bytes"] for line in lines] == [len(SMALL)] * 2


# Requests with a body


async def test_body_and_trailers_reach_the_origin(cache_root: Path) -> None:
    async with serve_http2(cache_root, **WRITES) as served, open_http2(served) as viewer:
        edge = served[0]
        edge.origin.script(Reply(status=201, body=b"stored"))
        stream = await viewer.send_head(head("/form", "POST", te="trailers"), ends=False)
        await viewer.send_body(stream, WHOLE, ends=False)
        await viewer.send_trailers(stream, [(b"x-check", b"sum")])
        response = await viewer.receive(stream)
        assert (response.status, response.body) == (201, b"stored")
        (seen,) = edge.origin.requests
        assert bytes(seen.body) == WHOLE
        assert seen.trailers == ["x-check: sum"]
        assert seen.headers["via"] == "2 test (StreamEdge)"


async def test_body_that_the_origin_does_not_read_stays_with_the_viewer(cache_root: Path) -> None:
    async with serve_http2(cache_root, **WRITES) as served, open_http2(served) as viewer:
        edge = served[0]
        edge.origin.script(Reply(status=200))
        edge.origin.pause_bodies()
        stream = await viewer.send_head(head("/form", "POST"), ends=False)
        body = bytes(20 << 20)
        sending = asyncio.create_task(viewer.send_body(stream, body))
        await edge.origin.wait_for_requests(1)
        await until(lambda: not viewer.room(stream))
        edge.origin.resume_bodies()
        await sending
        assert (await viewer.receive(stream)).status == 200
        assert len(edge.origin.requests[0].body) == len(body)


async def test_expectation_is_answered_before_the_body_is_sent(cache_root: Path) -> None:
    async with serve_http2(cache_root, **WRITES) as served, open_http2(served) as viewer:
        served[0].origin.script(Reply(status=200, body=b"done"))
        stream = await viewer.send_head(head("/form", "PUT", expect="100-continue"), ends=False)
        interim = await viewer.receive_interim(stream)
        assert (interim.status, interim.fields) == (100, {})
        await viewer.send_body(stream, b"body")
        assert (await viewer.receive(stream)).body == b"done"


async def test_refusal_of_an_upload_ends_it_without_an_error(cache_root: Path) -> None:
    """RFC 9113 §8.1: a complete response, and then RST_STREAM with NO_ERROR."""
    async with serve_http2(cache_root) as served, open_http2(served) as viewer:
        stream = await viewer.send_head(head("/film", "PUT"), ends=False)
        assert (await viewer.receive(stream)).status == 405
        assert await viewer.receive_reset(stream) == ErrorCode.NO_ERROR


async def test_reset_upload_is_no_complete_request(cache_root: Path) -> None:
    async with serve_http2(cache_root, **WRITES) as served, open_http2(served) as viewer:
        edge = served[0]
        stream = await viewer.send_head(head("/form", "POST"), ends=False)
        await viewer.send_body(stream, bytes(2_000_000), ends=False)
        await edge.origin.wait_for_requests(1)
        await viewer.send_frame(RST_STREAM, 0, stream, ErrorCode.CANCEL.to_bytes(4, "big"))
        await until(lambda: not http2_connections(edge)[0].stats().handling)
        assert not edge.origin.requests[0].has_ended


@pytest.mark.parametrize("store", ["max-age=60", "no-store"])
async def test_trailers_of_the_origin_reach_the_viewer(cache_root: Path, store: str) -> None:
    async with serve_http2(cache_root) as served, open_http2(served) as viewer:
        reply = Reply(
            status=200,
            body=b"body",
            chunked=True,
            trailers=(("X-Sum", "1"),),
            headers=(("cache-control", store),),
        )
        served[0].origin.script(reply, 2)
        for _miss_then_hit in range(2):
            response = await viewer.get("/sums", te="trailers")
            assert response.body == b"body"
            assert response.trailers == ("x-sum: 1",)


async def test_interim_responses_of_the_origin_reach_the_viewer(cache_root: Path) -> None:
    async with serve_http2(cache_root) as served, open_http2(served) as viewer:
        put(served[0])
        served[0].origin.script(Reply(interim=((103, (("Link", "</a.css>"),)),)))
        stream = await viewer.send_request("/small")
        assert (await viewer.receive(stream)).body == SMALL
        interim = await viewer.receive_interim(stream)
        assert (interim.status, interim.fields) == (103, {"link": "</a.css>"})


# Windows and priorities


async def test_blocked_stream_costs_no_memory_and_others_go_on(cache_root: Path) -> None:
    settings = [(INITIAL_WINDOW_SIZE, 1000)]
    async with (
        serve_http2(cache_root) as served,
        open_http2(served, settings=settings) as viewer,
    ):
        put(served[0])
        await viewer.get("/small")
        viewer.reads = False
        blocked = [await viewer.send_request("/film") for _ in range(20)]
        assert (await viewer.get("/small", range="bytes=0-99")).body == SMALL[:100]
        (connection,) = http2_connections(served[0])
        await until(lambda: connection.stats().blocked == 20)
        for stream in blocked:
            await viewer.receive_bytes(stream, 1000)
        assert {viewer.received_bytes(stream) for stream in blocked} == {1000}
        await viewer.open_windows(blocked[:2])
        for stream in blocked[:2]:
            assert (await viewer.receive(stream)).body == WHOLE


async def test_larger_initial_window_opens_all_streams(cache_root: Path) -> None:
    settings = [(INITIAL_WINDOW_SIZE, 0)]
    async with (
        serve_http2(cache_root) as served,
        open_http2(served, settings=settings) as viewer,
    ):
        put(served[0])
        streams = [await viewer.send_request("/small") for _ in range(3)]
        await until(lambda: sum(one.stats().blocked for one in http2_connections(served[0])) == 3)
        setting = INITIAL_WINDOW_SIZE.to_bytes(2, "big") + (65_535).to_bytes(4, "big")
        await viewer.send_frame(SETTINGS, 0, 0, setting)
        for stream in streams:
            assert (await viewer.receive(stream)).body == SMALL


async def test_urgent_response_overtakes_others(cache_root: Path) -> None:
    async with serve_http2(cache_root) as served, open_http2(served) as viewer:
        put(served[0])
        for path in ("/film", "/small"):
            await viewer.get(path)
        viewer.reads = False
        films = [await viewer.send_request("/film") for _ in range(4)]
        (connection,) = http2_connections(served[0])
        await until(lambda: connection.stats().responses == 4)
        urgent = await viewer.send_request("/small", priority="u=0")
        viewer.order.clear()
        await viewer.open_windows(films)
        assert (await viewer.receive(urgent)).body == SMALL
        before = viewer.order[: viewer.order.index(urgent)]
        assert len(before) * 16_384 <= 512 << 10  # at most what was on its way
        for stream in films:
            assert (await viewer.receive(stream)).body == WHOLE


@pytest.mark.parametrize(("priority", "switches"), [("u=3", range(7)), ("u=3, i", range(80, 400))])
async def test_only_incremental_responses_take_turns(
    cache_root: Path, priority: str, switches: range
) -> None:
    async with serve_http2(cache_root) as served, open_http2(served) as viewer:
        put(served[0])
        await viewer.get("/film")
        viewer.reads = False
        viewer.order.clear()
        films = [await viewer.send_request("/film", priority=priority) for _ in range(2)]
        (connection,) = http2_connections(served[0])
        await until(lambda: connection.stats().responses == 2)
        await viewer.open_windows(films)
        for stream in films:
            assert (await viewer.receive(stream)).body == WHOLE
        order = viewer.order
        assert sum(a != b for a, b in pairwise(order)) in switches


# Hosts


@pytest.mark.parametrize(
    ("extra", "status"),
    [((b"host", HOST.encode()), 200), ((b"host", b"other.test"), 400)],
)
async def test_authority_and_host_must_agree(
    cache_root: Path, extra: tuple[bytes, bytes], status: int
) -> None:
    async with serve_http2(cache_root) as served, open_http2(served) as viewer:
        put(served[0])
        for _cold_then_warm in range(2):
            stream = await viewer.send_head([*HEAD, extra], ends=True)
            assert (await viewer.receive(stream)).status == status


async def test_host_of_another_certificate_is_misdirected_on_its_stream(cache_root: Path) -> None:
    async with (
        serve_http2(cache_root, names=((HOST,), ("other.test",))) as served,
        open_http2(served) as viewer,
        open_http2(served, name="other.test") as other,
    ):
        put(served[0])
        for _cold_then_warm in range(2):
            assert (await viewer.get("/small")).status == 200
            assert (await viewer.get("/small", host="other.test")).status == 421
            assert (await other.get("/small", host="other.test")).status == 200


@pytest.mark.parametrize(
    ("listen", "status"), [({}, 421), ({"proxies": ["127.0.0.1/32"]}, 200)], ids=["viewer", "proxy"]
)
async def test_host_without_http2_is_misdirected_on_its_stream(
    cache_root: Path, listen: dict[str, Any], status: int
) -> None:
    """The viewer has reused a connection for another host of the certificate.

    A trusted proxy may do so: its HTTP version is not its viewers'.
    """
    old = {"id": "EOLD", "type": "web", "origin": "main", "aliases": ["old.test"], "http2": False}
    new = {"id": "EWEB", "type": "web", "origin": "main", "aliases": [HOST]}
    tables = {"distributions": [new, old], "listen": listen}
    async with (
        serve_http2(cache_root, names=((HOST, "old.test"),), tables=tables) as served,
        open_http2(served) as viewer,
    ):
        put(served[0])
        for _cold_then_warm in range(3):
            misdirected = await viewer.send_head(head("/small", host="old.test"), ends=True)
            assert (await viewer.receive(misdirected)).status == status
            assert (await viewer.receive(await viewer.send_head(HEAD, ends=True))).status == 200


async def test_cookies_are_joined(cache_root: Path) -> None:
    """RFC 9113 §8.2.3"""
    async with serve_http2(cache_root, **WRITES) as served, open_http2(served) as viewer:
        fields = [*HEAD, (b"cookie", b"a=1"), (b"cookie", b"b=2")]
        await viewer.send_head(fields, ends=True)
        await served[0].origin.wait_for_requests(1)
        assert served[0].origin.requests[0].headers["cookie"] == "a=1; b=2"


# The end


async def test_drain_lets_requests_on_their_way_finish(cache_root: Path) -> None:
    async with serve_http2(cache_root) as served, open_http2(served) as viewer:
        edge = served[0]
        put(edge)
        await viewer.get("/small")
        edge.origin.hold_responses()
        slow = await viewer.send_request("/film")
        await until(lambda: bool(edge.origin.requests))
        (connection,) = http2_connections(edge)
        connection.shutdown()
        await viewer.until(lambda: bool(viewer.goaways))
        assert viewer.goaways[0] == (2**31 - 1, ErrorCode.NO_ERROR)
        edge.origin.release_responses()
        assert (await viewer.receive(slow)).body == WHOLE
        assert await viewer.receive_end() == ErrorCode.NO_ERROR
        assert viewer.goaways[-1] == (slow, ErrorCode.NO_ERROR)


async def test_drain_does_not_wait_for_a_viewer_that_does_not_answer(cache_root: Path) -> None:
    async with serve_http2(cache_root) as served, open_http2(served) as viewer:
        put(served[0])
        await viewer.get("/small")
        async with asyncio.timeout(PATIENCE_S):
            await served[0].server.drain(9)
        assert not http2_connections(served[0])


async def test_failed_origin_resets_the_stream(cache_root: Path) -> None:
    async with serve_http2(cache_root) as served, open_http2(served) as viewer:
        put(served[0])
        no_store = (("cache-control", "no-store"),)
        served[0].origin.script(Reply(status=200, body=bytes(1000), cut_at=500, headers=no_store))
        stream = await viewer.send_request("/cut")
        with pytest.raises(StreamResetError):
            await viewer.receive(stream)
        assert (await viewer.get("/small")).body == SMALL


@pytest.mark.parametrize("path", ["/small", "/film"])
async def test_lost_connection_is_freed_without_garbage_collection(
    cache_root: Path, path: str
) -> None:
    """Reference circles would keep its TLS and HTTP/2 state until a collection of all objects."""
    with no_garbage_collection():
        async with serve_http2(cache_root) as served:
            put(served[0])
            async with open_http2(served) as viewer:
                await viewer.get("/small")
                await viewer.receive_head(await viewer.send_request(path))
                assert count_of(Http2Connection) == 1
            await until(lambda: not served[0].server.connections)
            await until(lambda: count_of(Engine) == 0)
            await until(lambda: count_of(Http2Connection) + count_of(TlsConnection) == 0)
