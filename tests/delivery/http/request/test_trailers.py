"""Trailer fields in requests and responses: RFC 9110 §6.5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.http.request.trailers import (
    TRAILER_BYTES_MAX,
    accepts_trailers,
    forwardable_trailers,
)
from streamedge.spans import Span
from tests.support.event_loop import until
from tests.support.http.http_viewer import Response, fetch, open_viewer, request
from tests.support.http.web_edge import WebEdge, serve_web
from tests.support.origins.scripted_origin import Pattern, Reply

FILM = Pattern(100_000, seed=3)
WHOLE = FILM.read(Span(0, FILM.size_bytes))
SUM = ("X-Sum", "abc")
WRITES: dict[str, Any] = {
    "tables": {"origin_request_policies": {"all": {"headers": "all", "cookies": "all"}}},
    "rules": {
        "origin_request_policy": "all",
        "methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"],
    },
    "limits": {"origin_retries": 0},
}
# RFC 9110 §6.5.1: framing, routing, request modifiers, authentication, control data, content.
REFUSED = [
    *("Transfer-Encoding", "Content-Length", "Trailer", "TE", "Connection", "Upgrade"),
    *("Host", "Via", "CDN-Loop", "X-Forwarded-For", "X-Forwarded-Host", "X-Original-URL"),
    *("Cache-Control", "Expect", "Range", "If-Match", "If-None-Match", "Max-Forwards"),
    *("Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "WWW-Authenticate"),
    *("Age", "Expires", "Date", "Location", "Vary", "Retry-After", "Warning"),
    *("Content-Encoding", "Content-Type", "Content-Range"),
]


def chunked(path: str, *trailers: str, **fields: str) -> bytes:
    """A POST of "hello" with trailer lines."""
    head = request(path, "POST", transfer_encoding="chunked", **fields)
    lines = "".join(f"{line}\r\n" for line in trailers)
    return head + f"5\r\nhello\r\n0\r\n{lines}\r\n".encode("latin-1")


# --- which trailers are forwarded -------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_field_that_must_precede_the_body_is_not_forwarded_as_trailer(name: str) -> None:
    assert forwardable_trailers([(name, "1"), (name.upper(), "1"), SUM], ()) == [SUM]


def test_trailer_that_connection_lists_is_not_forwarded() -> None:
    head = [("Connection", "X-Hop, close")]
    assert forwardable_trailers([("x-hop", "1"), SUM], head) == [SUM]


@pytest.mark.parametrize(
    "value", ["trailers", "gzip, Trailers", "trailers;q=1", "gzip;q=0.5,trailers"]
)
def test_te_with_trailers_is_recognized(value: str) -> None:
    assert accepts_trailers({"te": value})


@pytest.mark.parametrize("value", ["", "gzip", "trailersx", "x;trailers"])
def test_te_without_trailers_is_recognized(value: str) -> None:
    assert not accepts_trailers({"te": value})


@given(st.text())
def test_any_te_is_parsed(value: str) -> None:
    assert accepts_trailers({"te": value}) in {True, False}


# --- requests ---------------------------------------------------------------------------------


async def test_request_trailers_reach_the_origin(cache_root: Path) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=200))
        await viewer.send(chunked("/a", "X-Sum: abc", "X-Sum: def", "Empty:"))
        assert (await viewer.receive()).status == 200
        (seen,) = edge.origin.requests
        assert seen.trailers == ["x-sum: abc", "x-sum: def", "empty:"]
        assert bytes(seen.body) == b"hello"
        assert not seen.headers.keys() & {"x-sum", "empty"}


async def test_late_trailers_are_forwarded(cache_root: Path) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=200))
        raw = chunked("/a", "X-Sum: abc")
        await viewer.send(raw[:-16])
        await edge.origin.until(lambda: any(seen.body == b"hello" for seen in edge.origin.requests))
        for byte in raw[-16:]:
            await viewer.send(bytes((byte,)))
        assert (await viewer.receive()).status == 200
        assert edge.origin.requests[0].trailers == ["x-sum: abc"]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("value", ["1", "chunked", "close, upgrade"])
async def test_dangerous_trailers_do_not_reach_the_origin(
    cache_root: Path, name: str, value: str
) -> None:
    """The parser refuses some itself; no trailer changes the next request."""
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=200), times=2)
        await viewer.send(
            chunked("/a", f"{name}: {value}", "X-Sum: abc") + chunked("/b", "X-Sum: abc")
        )
        if (await viewer.receive()).status != 200:
            assert name in {"Transfer-Encoding", "Content-Length"}
            await viewer.receive_rest()
            assert not any(seen.has_ended for seen in edge.origin.requests)
        for seen in edge.origin.requests:
            assert seen.headers["host"] == f"127.0.0.1:{edge.origin.port}"
            assert not seen.has_ended or seen.trailers == ["x-sum: abc"]


async def test_trailers_of_a_pipelined_request_do_not_become_header_fields(
    cache_root: Path,
) -> None:
    """All of a pipelined request, its trailers too, arrives before the request is handled."""
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=200), times=3)
        edge.origin.hold_responses()
        await viewer.send(
            chunked("/a", "X-A: 1")
            + chunked("/b", "X-B: 1", "Authorization: Basic eA==", "Host: evil")
            + request("/c", "POST", content_length="0")
        )
        await edge.origin.wait_for_requests(1)
        edge.origin.release_responses()
        for _each in range(3):
            assert (await viewer.receive()).status == 200
        first, second, third = edge.origin.requests
        assert [first.trailers, second.trailers, third.trailers] == [["x-a: 1"], ["x-b: 1"], []]
        for seen in edge.origin.requests:
            assert not seen.headers.keys() & {"x-a", "x-b", "authorization"}
            assert seen.headers["host"] == f"127.0.0.1:{edge.origin.port}"


async def test_policy_without_fields_forwards_no_custom_trailer(cache_root: Path) -> None:
    async with (
        serve_web(cache_root, rules={"methods": WRITES["rules"]["methods"]}) as edge,
        open_viewer(edge.port) as viewer,
    ):
        edge.origin.script(Reply(status=200))
        await viewer.send(chunked("/a", "X-Sum: abc", "Content-Digest: sha-256=:AA==:"))
        assert (await viewer.receive()).status == 200
        assert edge.origin.requests[0].trailers == ["content-digest: sha-256=:AA==:"]


async def test_viewer_trailer_cannot_set_the_origin_secret(cache_root: Path) -> None:
    keys = {"headers": {"X-Secret": "ours"}}
    async with (
        serve_web(cache_root, origin_keys=keys, **WRITES) as edge,
        open_viewer(edge.port) as viewer,
    ):
        edge.origin.script(Reply(status=200))
        await viewer.send(chunked("/a", "X-Secret: theirs"))
        assert (await viewer.receive()).status == 200
        (seen,) = edge.origin.requests
        assert (seen.headers["x-secret"], seen.trailers) == ("ours", [])


@pytest.mark.parametrize("line", ["X-Large: " + "a" * TRAILER_BYTES_MAX, "X:\r\n" * 3000 + "X:"])
async def test_trailers_over_the_limit_are_refused(cache_root: Path, line: str) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        await viewer.send(chunked("/a", line))
        assert (await viewer.receive()).status == 431
        await viewer.receive_rest()
        await edge.origin.until(lambda: edge.origin.connections_open == 0)
        assert not any(seen.has_ended for seen in edge.origin.requests)


async def test_endless_trailer_is_refused(cache_root: Path) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        await viewer.send(chunked("/a")[:-2] + b"X-Endless: ")
        await edge.origin.until(lambda: any(seen.body == b"hello" for seen in edge.origin.requests))
        for _kilobyte in range(64):
            await viewer.send(b"a" * 1024)
        assert (await viewer.receive()).status == 431


async def test_body_with_content_length_has_no_trailers(cache_root: Path) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.script(Reply(status=200))
        await viewer.send(request("/a", "POST", content_length="5") + b"helloX-Sum: abc\r\n\r\n")
        assert (await viewer.receive()).status == 200
        (seen,) = edge.origin.requests
        assert (bytes(seen.body), seen.trailers) == (b"hello", [])


# --- responses --------------------------------------------------------------------------------


def put(edge: WebEdge, control: str, *trailers: tuple[str, str]) -> None:
    edge.origin.put(
        "film", FILM, etag="", last_modified_s=None, headers=(("Cache-Control", control),)
    )
    edge.origin.script(Reply(chunked=True, trailers=trailers))


def is_hit(response: Response) -> bool:
    return "hit" in response.fields["cache-status"].split("; ")


@pytest.mark.parametrize("control", ["max-age=60", "no-store"])
async def test_response_trailers_are_filtered_and_forwarded(cache_root: Path, control: str) -> None:
    async with serve_web(cache_root) as edge:
        put(edge, control, ("Cache-Control", "no-cache"), ("Set-Cookie", "a=1"), SUM)
        response = await fetch(edge.port, "/film", te="trailers")
        assert (response.body, response.trailers) == (WHOLE, ("X-Sum: abc",))
        assert (response.fields["cache-control"], response.cookies) == (control, ())


async def test_readers_of_a_running_fill_get_its_trailers(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as one:
        put(edge, "max-age=60", SUM)
        edge.origin.hold("film", at=1000)
        await one.send_request("/film")
        await edge.origin.until(lambda: edge.origin.body_bytes_sent == 1000)
        async with open_viewer(edge.port) as other:
            await other.send_request("/film")
            await until(lambda: edge.server.stats().requests == 2)
            edge.origin.release("film")
            for viewer in (one, other):
                response = await viewer.receive()
                assert (response.body, response.trailers) == (WHOLE, ("X-Sum: abc",))
        assert len(edge.origin.requests) == 1


async def test_stored_trailers_are_sent_to_viewers_with_te_trailers(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put(edge, "max-age=60", SUM)
        await viewer.get("/film")
        for _repeated in range(2):
            plain = await viewer.get("/film")
            assert (plain.body, plain.trailers, is_hit(plain)) == (WHOLE, (), True)
            assert plain.fields["content-length"] == str(FILM.size_bytes)
            with_te = await viewer.get("/film", te="trailers", connection="TE")
            assert (with_te.body, with_te.trailers, is_hit(with_te)) == (
                WHOLE,
                ("X-Sum: abc",),
                True,
            )
            assert "content-length" not in with_te.fields
        part = await viewer.get("/film", te="trailers", range="bytes=0-9")
        assert (part.status, part.body, part.trailers) == (206, WHOLE[:10], ())
        head = await viewer.get("/film", "HEAD", te="trailers")
        assert head.fields["content-length"] == str(FILM.size_bytes)
        async with serve_web(cache_root, beside=edge) as worker:
            with_te = await fetch(worker.port, "/film", te="trailers")
            assert (with_te.body, with_te.trailers, is_hit(with_te)) == (
                WHOLE,
                ("X-Sum: abc",),
                True,
            )
        assert len(edge.origin.requests) == 1


async def test_http_1_0_viewer_gets_no_trailers(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge:
        put(edge, "max-age=60", SUM)
        await fetch(edge.port, "/film")
        async with open_viewer(edge.port) as viewer:
            await viewer.send(b"GET /film HTTP/1.0\r\nHost: edge\r\nTE: trailers\r\n\r\n")
            head = await viewer.receive_head()
            assert head.fields["content-length"] == str(FILM.size_bytes)
            assert await viewer.receive_rest() == WHOLE
