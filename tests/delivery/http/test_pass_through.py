"""Requests that bypass the cache: both directions are streamed, and either side can end them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from streamedge.cache.lookup.hit_for_miss import HitForMiss
from streamedge.origin.http_client.connection import UNREAD_MAX_BYTES
from streamedge.spans import Span
from tests.support.event_loop import until
from tests.support.http.http_viewer import TruncatedError, Viewer, fetch, open_viewer, request
from tests.support.http.web_edge import WebEdge, connections, descriptors, serve_web
from tests.support.origins.scripted_origin import Pattern, Reply

WRITES: dict[str, Any] = {
    "rules": {
        "methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"],
        "origin_request_policy": "all",
    },
    "tables": {"origin_request_policies": {"all": {"query_strings": "all", "headers": "all"}}},
    "limits": {"origin_retries": 0},
}
LARGE = Pattern(20 << 20, seed=4)
NOT_COMPARED = frozenset({"cache-status", "date", "x-amz-cf-id"})
NO_STORE = (("Cache-Control", "no-store"),)
UPGRADE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec_websocket_version": "13",
}


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


# --- requests --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_request_body_is_streamed(cache_root: Path, method: str, chunked: bool) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=200, body=b"done"))
        framing = {"transfer_encoding": "chunked"} if chunked else {"content_length": "2000"}
        await viewer.send(request("/form?a=1", method, content_type="text/plain", **framing))
        first, second = b"a" * 1000, b"b" * 1000
        await viewer.send(chunk(first) if chunked else first)
        (seen,) = await edge.origin.wait_for_requests(1)
        await edge.origin.until(lambda: bytes(seen.body) == first)
        await viewer.send((chunk(second) + b"0\r\n\r\n") if chunked else second)
        response = await viewer.receive()
        assert (response.status, response.body) == (200, b"done")
        assert bytes(seen.body) == first + second
        assert (seen.method, seen.path) == (method, "/form?a=1")
        assert seen.headers["content-type"] == "text/plain"
        assert seen.headers.keys() & {"content-length", "transfer-encoding"} == {
            "transfer-encoding" if chunked else "content-length"
        }


async def test_place_of_a_part_is_forwarded_with_it(cache_root: Path) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=308))
        part = {"content_range": "bytes 3-5/10", "content_length": "3"}
        await viewer.send(request("/film", "PUT", **part) + b"abc")
        assert (await viewer.receive()).status == 308
        (seen,) = edge.origin.requests
        assert seen.headers["content-range"] == "bytes 3-5/10"


async def test_large_request_body_is_forwarded(cache_root: Path) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        body = LARGE.read(Span(0, LARGE.size_bytes))
        edge.origin.script(Reply(status=201))
        await viewer.send(request("/big", "PUT", content_length=str(len(body))))
        await viewer.send(body)
        assert (await viewer.receive()).status == 201
        (seen,) = edge.origin.requests
        assert seen.body == body


async def test_request_body_is_not_buffered_for_a_slow_origin(cache_root: Path) -> None:
    """Backpressure reaches the viewer, so no whole body is in memory."""
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.pause_bodies()
        body = LARGE.read(Span(0, LARGE.size_bytes))
        await viewer.send(request("/big", "PUT", content_length=str(len(body))))
        sending = asyncio.create_task(viewer.send(body))
        (connection,) = connections(edge)
        await until(lambda: connection.stats().is_paused)
        assert not sending.done()
        edge.origin.resume_bodies()
        await sending
        assert (await viewer.receive()).status == 405
        assert edge.origin.requests[0].body == body


async def test_expect_100_continue_is_answered(cache_root: Path) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=200))
        await viewer.send(request("/a", "PUT", content_length="3", expect="100-continue"))
        assert (await viewer.receive_head()).status == 100
        await viewer.send(b"abc")
        assert (await viewer.receive()).status == 200
        assert edge.origin.requests[0].body == b"abc"


async def test_refused_request_needs_no_body(cache_root: Path) -> None:
    """RFC 9110 §10.1.1: a final response instead of 100."""
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        await viewer.send(request("/a", "PUT", content_length="3", expect="100-continue"))
        assert (await viewer.receive()).status == 405
        assert edge.origin.requests == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_early_response_to_an_upload_is_sent(cache_root: Path, chunked: bool) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=413, body=b"too much", early=True))
        framing = {"transfer_encoding": "chunked"} if chunked else {"content_length": "2000"}
        await viewer.send(request("/big", "POST", **framing))
        await viewer.send(chunk(b"a" * 1000) if chunked else b"a" * 1000)
        response = await viewer.receive()
        assert (response.status, response.body) == (413, b"too much")
        # The rest of the body is skipped; it is not parsed as a request.
        await viewer.send((chunk(b"b" * 1000) + b"0\r\n\r\n") if chunked else b"b" * 1000)
        edge.origin.put("a", b"one")
        if response.fields.get("connection") != "close":
            assert (await viewer.get("/a")).body == b"one"
        assert (await fetch(edge.port, "/a")).body == b"one"
        assert [seen.method for seen in edge.origin.requests] == ["POST", "GET"]


async def test_body_and_response_are_streamed_together(cache_root: Path) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.hold("talk", at=4)
        edge.origin.script(Reply(status=200, body=b"halfdone", early=True, chunked=True))
        await viewer.send(request("/talk", "POST", transfer_encoding="chunked"))
        assert (await viewer.receive_head()).status == 200
        assert await viewer.receive_chunk() == b"half"
        edge.origin.release("talk")
        assert await viewer.receive_chunk() == b"done"


async def test_origin_connections_are_reused(cache_root: Path) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("a", b"one", headers=NO_STORE)
        for method in ("GET", "POST", "PUT", "GET", "DELETE", "HEAD"):
            if method in {"POST", "PUT", "DELETE"}:
                edge.origin.script(Reply(status=200, body=b"x"))
            await viewer.send(request("/a", method, content_length="0"))
            assert (await viewer.receive(method)).status == 200
        assert len(edge.origin.requests) == 6
        assert edge.origin.connections_accepted == 1


async def test_write_is_never_sent_twice(cache_root: Path) -> None:
    """Not even when a reused connection breaks: the origin may have executed it."""
    async with (
        serve_web(cache_root, **(WRITES | {"limits": {"origin_retries": 4}})) as edge,
        open_viewer(edge.port) as viewer,
    ):
        edge.origin.put("a", b"one", headers=NO_STORE)
        await viewer.get("/a")
        edge.origin.script(Reply(raw=b""))
        await viewer.send(request("/a", "POST", content_length="3") + b"abc")
        assert (await viewer.receive()).status == 502
        assert [seen.method for seen in edge.origin.requests] == ["GET", "POST"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("if_none_match", '"v1"'),
        ("if_none_match", '"v0", W/"v1"'),
        ("if_none_match", "*"),
        ("if_modified_since", "Tue Nov 14 22:13:20 2023"),
        ("if_modified_since", "Tue, 14 Nov 2023 22:13:20 GMT"),
    ],
)
async def test_conditions_hold_for_the_first_response_that_may_not_be_stored(
    cache_root: Path, method: str, name: str, value: str
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("page", b"private", etag='"v1"', headers=(("Cache-Control", "private"),))
        responses = [await viewer.get("/page", method, **{name: value}) for _turn in range(3)]
        assert [response.status for response in responses] == [304] * 3
        fields = [
            {key: text for key, text in response.fields.items() if key not in NOT_COMPARED}
            for response in responses
        ]
        assert fields == [fields[0]] * 3
        assert (await viewer.get("/page", method)).status == 200


async def test_range_holds_for_the_first_response_that_may_not_be_stored(
    cache_root: Path,
) -> None:
    """Also where a condition lets the edge request the object's head first."""
    async with serve_web(cache_root) as edge:
        edge.origin.put("own", LARGE, etag='"a"', headers=NO_STORE)
        fields = {"range": "bytes=0-3", "if_none_match": '"b"'}
        for _first_and_later in range(2):
            response = await fetch(edge.port, "/own", **fields)
            assert (response.status, response.body) == (206, LARGE.read(Span(0, 4)))


async def test_condition_of_another_version_gets_the_response(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("page", b"private", etag='"v1"', headers=(("Cache-Control", "private"),))
        for _turn in range(3):
            response = await viewer.get("/page", if_none_match='"v0"')
            assert (response.status, response.body) == (200, b"private")


# --- the same request again ---------------------------------------------------------------------


async def warm_up(edge: WebEdge, viewer: Viewer, path: str = "/page") -> None:
    """Three requests: after them, the next one can be sent to the origin at once."""
    for _turn in range(3):
        edge.origin.script(Reply(200, body=b"x", headers=NO_STORE))
        assert (await viewer.get(path)).body == b"x"


async def test_passed_request_is_sent_without_a_task(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        await warm_up(edge, viewer)
        edge.origin.hold_responses()
        edge.origin.script(Reply(200, body=b"four", headers=NO_STORE))
        await viewer.send_request("/page")
        await edge.origin.wait_for_requests(4)
        assert "request" not in {task.get_name() for task in asyncio.all_tasks()}
        assert edge.server.stats().requests == 1
        edge.origin.release_responses()
        assert (await viewer.receive()).body == b"four"
        assert edge.server.stats().requests == 0
        assert edge.origin.connections_accepted == 1


def passed_response(body: bytes, *lines: bytes) -> Reply:
    """A response in one packet, so that it is sent in the callback; equal heads are equal bytes."""
    fields = (b"Cache-Control: no-store", b"Content-Length: %d" % len(body), *lines)
    raw = b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (b"\r\n".join(fields), body)
    return Reply(raw=raw, keeps_open=True)


async def test_equal_heads_of_the_origin_have_their_own_bodies_and_ids(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        await warm_up(edge, viewer)
        bodies = [b"one", b"two", b"three", b"four!", b"five!"]
        for body in bodies:
            edge.origin.script(passed_response(body))
        responses = [await viewer.get("/page") for _body in bodies]
        assert [response.body for response in responses] == bodies
        assert len({response.fields["x-amz-cf-id"] for response in responses}) == len(bodies)
        ids = [line["request_id"] for line in edge.lines()]
        assert ids[3:] == [response.fields["x-amz-cf-id"] for response in responses]


async def test_field_that_the_origin_changes_reaches_the_viewer(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        await warm_up(edge, viewer)
        for number in (b"1", b"1", b"2", b"2", b"1"):
            edge.origin.script(passed_response(b"x", b"X-Number: " + number))
            assert (await viewer.get("/page")).fields["x-number"] == number.decode()


async def test_values_that_differ_in_each_response_reach_the_viewer(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        await warm_up(edge, viewer)
        for number in range(1, 8):
            cookie, etag = f"id={number}%; Path=/", f'"{number}"'
            lines = (b"Set-Cookie: " + cookie.encode(), b"ETag: " + etag.encode())
            edge.origin.script(passed_response(b"x" * number, *lines))
            response = await viewer.get("/page")
            fields = response.fields
            assert (response.cookies, fields["etag"]) == ((cookie,), etag)
            assert (response.body, fields["content-length"]) == (b"x" * number, str(number))


async def test_equal_heads_for_one_request_alone_do_not_prolong_the_mark(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 412 says nothing about other requests for the key."""
    begun: list[str] = []
    failed = b"HTTP/1.1 412 Precondition Failed\r\nCache-Control: no-store\r\n"
    failed += b"Content-Length: 2\r\n\r\nno"
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(200, body=b"x", headers=NO_STORE), times=3)
        for _turn in range(3):
            assert (await viewer.get("/page", if_match='"v1"')).status == 200
        monkeypatch.setattr(HitForMiss, "begin", lambda _marks, key, *_rest: begun.append(key))
        edge.origin.script(Reply(raw=failed, keeps_open=True), times=5)
        for _turn in range(5):
            assert (await viewer.get("/page", if_match='"v1"')).status == 412
        assert begun == []
        edge.origin.script(passed_response(b"x"))
        assert (await viewer.get("/page", if_match='"v1"')).status == 200
        assert len(begun) == 1


async def test_equal_head_that_may_be_stored_is_stored(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        await warm_up(edge, viewer)
        edge.origin.script(passed_response(b"x"))
        edge.origin.script(passed_response(b"y"))
        assert [(await viewer.get("/page")).body for _turn in range(2)] == [b"x", b"y"]
        stored = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 1\r\n\r\nz"
        edge.origin.script(Reply(raw=stored))
        assert [(await viewer.get("/page")).body for _turn in range(3)] == [b"z"] * 3


async def test_passed_request_that_gets_a_storable_response_stores_it(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        await warm_up(edge, viewer)
        edge.origin.script(Reply(200, body=b"stored", headers=(("Cache-Control", "max-age=60"),)))
        assert [(await viewer.get("/page")).body for _turn in range(3)] == [b"stored"] * 3
        assert len(edge.origin.requests) == 4
        assert [line["cache"] for line in edge.lines()] == ["Miss"] * 4 + ["Hit"] * 2


async def test_response_that_another_worker_has_stored_ends_the_passing(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        await warm_up(edge, viewer)
        async with serve_web(cache_root, beside=edge) as other:
            edge.origin.put("page", b"stored", headers=(("Cache-Control", "max-age=60"),))
            assert (await fetch(other.port, "/page")).body == b"stored"
            edge.origin.put("page", b"newer", headers=(("Cache-Control", "max-age=60"),))
            assert (await viewer.get("/page")).body == b"stored"


async def test_passed_request_is_sent_again_when_its_connection_was_closed(
    cache_root: Path,
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        await warm_up(edge, viewer)
        edge.origin.script(Reply(raw=b""))
        edge.origin.script(Reply(200, body=b"again", headers=NO_STORE))
        response = await viewer.get("/page")
        assert (response.status, response.body) == (200, b"again")
        assert len(edge.origin.requests) == 5


async def test_passed_request_without_a_response_fails_after_the_read_timeout(
    cache_root: Path,
) -> None:
    limits = {"origin_retries": 0}
    keys = {"read_timeout": "1s"}
    async with (
        serve_web(cache_root, limits=limits, origin_keys=keys) as edge,
        open_viewer(edge.port) as viewer,
    ):
        await warm_up(edge, viewer)
        edge.origin.script(Reply(silent=True))
        assert (await viewer.get("/page")).status == 504
        assert len(edge.origin.requests) == 4
        edge.origin.script(Reply(200, body=b"x", headers=NO_STORE))
        assert (await viewer.get("/page")).body == b"x"


async def test_interim_response_to_a_passed_request_is_relayed(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        await warm_up(edge, viewer)
        hints = (103, (("Link", "</style.css>"),))
        edge.origin.script(Reply(200, body=b"x", interim=(hints,), headers=NO_STORE))
        await viewer.send_request("/page")
        assert (await viewer.receive_head()).status == 103
        assert (await viewer.receive()).body == b"x"


async def test_viewer_that_leaves_a_passed_request_leaves_the_connection(
    cache_root: Path,
) -> None:
    async with serve_web(cache_root) as edge:
        async with open_viewer(edge.port) as viewer:
            await warm_up(edge, viewer)
            edge.origin.hold_responses()
            edge.origin.script(Reply(200, body=b"late", headers=NO_STORE))
            await viewer.send_request("/page")
            await edge.origin.wait_for_requests(4)
            viewer.reset()
        await until(lambda: not connections(edge))
        edge.origin.release_responses()
        await until(lambda: not edge.server.stats().requests)
        assert [line.get("reason") for line in edge.lines()] == [None] * 3 + ["viewer left"]
        edge.origin.script(Reply(200, body=b"next", headers=NO_STORE))
        assert (await fetch(edge.port, "/page")).body == b"next"


async def test_half_closed_viewer_gets_the_response_to_a_passed_request(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        await warm_up(edge, viewer)
        edge.origin.hold_responses()
        # In one packet, so that it is sent in the callback.
        head = b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 4\r\n\r\n"
        edge.origin.script(Reply(raw=head + b"last"))
        await viewer.send_request("/page")
        await edge.origin.wait_for_requests(4)
        await viewer.end_input()
        await until(lambda: any(one.stats().has_ended for one in connections(edge)))
        edge.origin.release_responses()
        response = await viewer.receive()
        assert (response.body, response.fields["connection"]) == (b"last", "close")
        assert await viewer.receive_rest() == b""


@pytest.mark.parametrize("status", [304, 404, 416, 503])
async def test_status_of_a_passed_request_is_the_origins(cache_root: Path, status: int) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        etag = '"1"'
        for _turn in range(5):
            body = b"" if status == 304 else b"body"
            fields = (*NO_STORE, ("ETag", etag))
            edge.origin.script(Reply(200, body=b"x", headers=NO_STORE))
            await viewer.get("/page", if_none_match=etag)
            edge.origin.script(Reply(status, body=body, headers=fields), times=1)
            edge.origin.script(Reply(status, body=body, headers=fields), times=1)
            response = await viewer.get("/page", if_none_match=etag)
            edge.origin.clear_script()
            assert (response.status, response.body) == (status, body)


# --- responses --------------------------------------------------------------------------------


async def test_response_body_is_streamed(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("events", b"onetwo", headers=NO_STORE)
        edge.origin.script(Reply(chunked=True))
        edge.origin.hold("events", at=3)
        await viewer.send_request("/events")
        assert (await viewer.receive_head()).status == 200
        assert await viewer.receive_chunk() == b"one"
        edge.origin.release("events")
        assert await viewer.receive_chunk() == b"two"
        assert await viewer.receive_chunk() == b""


@pytest.mark.parametrize("size_bytes", [0, 5, 64 << 10, 65 << 10])
async def test_short_body_is_sent_with_its_head_and_frees_the_connection(
    cache_root: Path, size_bytes: int
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        for number in range(4):
            edge.origin.script(Reply(200, body=b"%d" % number * size_bytes, headers=NO_STORE))
            response = await viewer.get("/film?a=1")
            assert (response.status, response.body) == (200, b"%d" % number * size_bytes)
            assert response.fields["content-length"] == str(size_bytes)
        assert edge.origin.connections_accepted == 1


async def test_remembered_request_carries_the_address_of_its_viewer(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge:
        for _turn in range(3):
            for host in ("127.0.0.1", "127.0.0.2"):
                edge.origin.script(Reply(200, body=b"x", headers=NO_STORE))
                async with open_viewer(edge.port, local_host=host) as viewer:
                    await viewer.get("/film")
        addresses = [seen.headers["x-forwarded-for"] for seen in edge.origin.requests]
    assert addresses == ["127.0.0.1", "127.0.0.2"] * 3


async def test_response_body_is_not_buffered_for_a_slow_viewer(
    cache_root: Path,
) -> None:
    async with (
        serve_web(cache_root) as edge,
        open_viewer(edge.port, receive_buffer_bytes=4096) as viewer,
    ):
        edge.origin.put("large", LARGE, headers=NO_STORE)
        await viewer.send_request("/large")
        await viewer.receive_head()
        (seen,) = edge.origin.requests
        before = -1
        while before != seen.body_bytes_sent:  # until the kernel's buffers are full on both sides
            before = seen.body_bytes_sent
            for _turn in range(2000):
                await asyncio.sleep(0)
        assert seen.body_bytes_sent < LARGE.size_bytes - UNREAD_MAX_BYTES
        assert await viewer.receive_body(LARGE.size_bytes) == LARGE.read(Span(0, 20 << 20))


@pytest.mark.parametrize("chunked", [False, True])
async def test_incomplete_origin_response_cuts_the_response(
    cache_root: Path, chunked: bool
) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=200, body=b"a" * 1000, chunked=chunked, reset_at=500))
        await viewer.send(request("/a", "POST", content_length="0"))
        with pytest.raises(TruncatedError) as cut:
            await viewer.receive()
        assert cut.value.received == b"a" * len(cut.value.received)
        assert await viewer.receive_rest() == b""
        (line,) = edge.lines()
        assert (line["status"], "reason" in line) == (200, True)


async def test_viewer_that_leaves_during_an_upload_closes_the_origin_connection(
    cache_root: Path,
) -> None:
    """The connection closes before the request ends, so the origin sees an incomplete body."""
    async with serve_web(cache_root, **WRITES) as edge:
        async with open_viewer(edge.port) as viewer:
            await viewer.send(request("/a", "PUT", transfer_encoding="chunked") + chunk(b"abc"))
            (seen,) = await edge.origin.wait_for_requests(1)
            await edge.origin.until(lambda: bytes(seen.body) == b"abc")
        await edge.origin.until(lambda: edge.origin.connections_open == 0)
        assert not seen.has_ended
        assert (await fetch(edge.port, "/a")).status == 404
        await until(lambda: len(edge.lines()) == 2)


@pytest.mark.parametrize(
    "condition",
    [{"if_match": '"other"'}, {"if_unmodified_since": "Tue, 14 Nov 2003 22:13:20 GMT"}],
    ids=["if-match", "if-unmodified-since"],
)
async def test_precondition_of_a_head_holds_also_before_the_object_is_stored(
    cache_root: Path, condition: dict[str, str]
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("a", b"one", etag='"v1"', headers=(("Cache-Control", "max-age=60"),))
        await viewer.send(request("/a", "HEAD", **condition))
        cold = await viewer.receive("HEAD")
        assert (await viewer.get("/a")).body == b"one"
        await viewer.send(request("/a", "HEAD", **condition))
        stored = await viewer.receive("HEAD")
        assert (cold.status, stored.status) == (412, 412)
        names = set(cold.fields) - NOT_COMPARED - {"x-cache"}
        assert {n: cold.fields[n] for n in names} == {n: stored.fields[n] for n in names}


@pytest.mark.parametrize("control", ["no-store", "max-age=60"])
async def test_viewer_that_leaves_during_a_response_leaves_nothing_open(
    cache_root: Path, control: str
) -> None:
    async with serve_web(cache_root) as edge:
        edge.origin.put("large", LARGE, headers=(("Cache-Control", control),), etag="")
        open_before = descriptors()
        for chunked in (False, True):
            edge.origin.script(Reply(chunked=chunked))
            async with open_viewer(edge.port) as viewer:
                await viewer.send_request("/large")
                await viewer.receive_head()
            if control == "no-store":  # no other viewer needs it: the origin need not send it
                await edge.origin.until(lambda: edge.origin.connections_open == 0)
                await until(lambda: descriptors() <= open_before)
            await until(lambda: not edge.server.stats().connections)


# --- upgrades (RFC 9110 §7.8, RFC 6455) ------------------------------------------------------


async def test_upgraded_connection_carries_bytes_both_ways(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge:
        open_before = descriptors()
        async with open_viewer(edge.port) as viewer:
            edge.origin.script(
                Reply(
                    echoes=True, headers=(("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),)
                )
            )
            await viewer.send_request("/socket", **UPGRADE)
            head = await viewer.receive_head()
            assert head.status == 101
            assert head.fields["upgrade"] == "websocket"
            assert head.fields["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
            (seen,) = edge.origin.requests
            assert seen.headers["upgrade"] == "websocket"
            assert seen.headers["sec-websocket-key"] == "dGhlIHNhbXBsZSBub25jZQ=="
            large = LARGE.read(Span(0, 3 << 20))
            for sent in (b"\x81\x05hello", b"GET / HTTP/1.1\r\n\r\n", large):
                sending = asyncio.create_task(viewer.send(sent))
                assert await viewer.receive_body(len(sent)) == sent
                await sending
        await edge.origin.until(lambda: edge.origin.connections_open == 0)
        await until(lambda: descriptors() <= open_before)
        await until(lambda: bool(edge.lines()))
        (line,) = edge.lines()
        assert (line["status"], line["cache"], line["path"]) == (101, "Miss", "/socket")
        assert line["bytes"] >= 3 << 20
        assert line["request_id"] == head.fields["x-amz-cf-id"]


async def test_origin_that_ends_an_upgraded_connection_ends_the_viewers(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        fields = b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n"
        edge.origin.script(Reply(raw=b"HTTP/1.1 101 ok\r\n" + fields + b"last words"))
        await viewer.send_request("/socket", **UPGRADE)
        assert (await viewer.receive_head()).status == 101
        assert await viewer.receive_rest() == b"last words"


async def test_refused_upgrade_is_passed_on(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=403, body=b"no"))
        response = await viewer.get("/socket", **UPGRADE)
        assert (response.status, response.body) == (403, b"no")
        edge.origin.put("a", b"one")
        assert (await viewer.get("/a")).body == b"one"


async def test_upgrade_bypasses_the_cache(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("socket", b"page", headers=(("Cache-Control", "max-age=60"),))
        assert (await viewer.get("/socket")).body == b"page"
        edge.origin.script(Reply(echoes=True))
        await viewer.send_request("/socket", **UPGRADE)
        assert (await viewer.receive_head()).status == 101
        assert (await fetch(edge.port, "/socket")).body == b"page"
        assert len(edge.origin.requests) == 2
