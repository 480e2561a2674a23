"""Attacks over HTTP/2 (RFC 9113 §8, §10): what an HTTP/1.1 origin would read in another way.

Each is a stream error or a 400 or a connection error. The origin sees no request, or none that is
complete; the next viewer is served.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streamedge.process.certificates import CertificateFiles, Certificates
from tests.support.certificate_authority import CertificateAuthority
from tests.support.event_loop import until
from tests.support.http.http2_viewer import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    ConnectionEndedError,
    Head,
    Http2Viewer,
    StreamResetError,
    frame,
    head,
    open_http2_viewer,
)
from tests.support.http.undisturbed import undisturbed
from tests.support.http.web_edge import WebEdge, serve_web
from tests.support.origins.scripted_origin import Pattern, Reply

FRESH = (("Cache-Control", "max-age=60"),)
ALL: dict[str, Any] = {
    "tables": {
        "origin_request_policies": {
            "all": {"headers": "all", "cookies": "all", "query_strings": "all"}
        }
    },
    "rules": {
        "methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"],
        "origin_request_policy": "all",
    },
    "limits": {"origin_retries": 0},
}
INNER = b"GET /smuggled HTTP/1.1\r\nHost: edge\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Served:
    """An edge over TLS, with the objects "a" and "film"."""

    edge: WebEdge
    authority: CertificateAuthority

    @asynccontextmanager
    async def viewer(self, **more: Any) -> AsyncIterator[Http2Viewer]:
        async with open_http2_viewer(self.edge.port, self.authority.client(), **more) as viewer:
            yield viewer

    @asynccontextmanager
    async def undisturbed(self) -> AsyncIterator[None]:
        """Another viewer is served meanwhile, and the process stays small."""
        async with self.viewer() as other, undisturbed(self.edge, other.get):
            yield

    async def fetch(self, path: str) -> bytes:
        """The body that another viewer gets."""
        async with self.viewer() as viewer:
            return (await viewer.get(path)).body


@asynccontextmanager
async def serve(root: Path, **more: Any) -> AsyncIterator[Served]:
    authority = CertificateAuthority(root)
    pair = authority.issue("edge")
    front = Certificates([CertificateFiles(pair.certificate, pair.key)]).front
    async with serve_web(root, context=front, **more) as edge:
        edge.origin.put("a", b"one", headers=FRESH)
        edge.origin.put("film", Pattern(8 << 20), headers=FRESH)
        yield Served(edge, authority)


def changed(**pseudo: bytes | None) -> Head:
    """A GET with other pseudo-fields; None leaves one out."""
    fields = dict(head("/a"))
    for name, value in pseudo.items():
        key = b":" + name.encode()
        if value is None:
            del fields[key]
        else:
            fields[key] = value
    return list(fields.items())


def with_field(name: bytes, value: bytes) -> Head:
    return [*head("/a"), (name, value)]


MALFORMED: dict[str, Head] = {
    **{
        f"{name.decode()}: {value.decode()}": with_field(name, value)
        for name, value in (
            (b"transfer-encoding", b"chunked"),
            (b"transfer-encoding", b"identity"),
            (b"connection", b"close"),
            (b"connection", b"transfer-encoding"),
            (b"upgrade", b"websocket"),
            (b"keep-alive", b"1"),
            (b"proxy-connection", b"keep-alive"),
            (b"te", b"gzip"),
            (b"content-length", b"5"),
            (b"content-length", b"-1"),
            (b"content-length", b"+0"),
            (b"content-length", b"0, 0"),
            (b"content-length", b"18446744073709551616"),
        )
    },
    "content-length twice": [*with_field(b"content-length", b"0"), (b"content-length", b"1")],
    "CR LF in a value": with_field(b"x", b"a\r\nx-admin: yes"),
    "LF in a value": with_field(b"x", b"a\nx-admin: yes"),
    "CR in a value": with_field(b"x", b"a\rx-admin: yes"),
    "NUL in a value": with_field(b"x", b"a\0b"),
    "CR LF in a name": with_field(b"x: a\r\nx-admin", b"yes"),
    "colon in a name": with_field(b"x-admin:", b"yes"),
    "space in a name": with_field(b"x admin", b"yes"),
    "NUL in a name": with_field(b"x\0", b"yes"),
    "upper case in a name": with_field(b"X-Admin", b"yes"),
    "empty name": with_field(b"", b"yes"),
    "not ASCII in a name": with_field(b"x-\xe9", b"yes"),
    "CR LF in the path": changed(path=b"/a HTTP/1.1\r\nx-admin: yes\r\n\r\n"),
    "space in the path": changed(path=b"/a HTTP/1.1"),
    "NUL in the path": changed(path=b"/a\0"),
    "not ASCII in the path": changed(path=b"/\xe9"),
    "fragment in the path": changed(path=b"/a#b"),
    "empty path": changed(path=b""),
    "relative path": changed(path=b"a"),
    "absolute path": changed(path=b"https://evil/a"),
    "authority in the path": changed(path=b"edge:443"),
    "no path": changed(path=None),
    "CR LF in the authority": changed(authority=b"edge\r\nx-admin: yes"),
    "space in the authority": changed(authority=b"edge evil"),
    "path in the authority": changed(authority=b"edge/a"),
    "user in the authority": changed(authority=b"user@edge"),
    "list in the authority": changed(authority=b"edge, evil"),
    "empty authority": changed(authority=b""),
    "no authority": changed(authority=None),
    "CR LF in the method": changed(method=b"GET /x HTTP/1.1\r\nhost: edge\r\n\r\nGET"),
    "space in the method": changed(method=b"GET /x"),
    "empty method": changed(method=b""),
    "no method": changed(method=None),
    "CONNECT": changed(method=b"CONNECT"),
    "CONNECT alone": changed(method=b"CONNECT", path=None, scheme=None),
    "another scheme": changed(scheme=b"ftp"),
    "CR LF in the scheme": changed(scheme=b"https\r\nx-admin: yes"),
    "path in the scheme": changed(scheme=b"https://edge/x?"),
    "no scheme": changed(scheme=None),
    "method twice": [(b":method", b"GET"), *head("/a")],
    "path twice": [(b":path", b"/b"), *head("/a")],
    "authority twice": [(b":authority", b"evil"), *head("/a")],
    "pseudo-field behind a field": [*with_field(b"x", b"1"), (b":path", b"/b")],
    "late pseudo-field": [*head("/a")[:3], (b"x", b"1"), (b":path", b"/a")],
    "unknown pseudo-field": [(b":admin", b"yes"), *head("/a")],
    "protocol": [(b":protocol", b"websocket"), *changed(method=b"CONNECT")],
    "pseudo-field of a response": [(b":status", b"200"), *head("/a")],
    "another host": with_field(b"host", b"evil"),
    "two hosts": [*with_field(b"host", b"edge"), (b"host", b"evil")],
    "host with a port": with_field(b"host", b"edge:1"),
    "another host alone": [*changed(authority=None), (b"host", b"edge"), (b"host", b"evil")],
}


async def outcome(viewer: Http2Viewer, stream: int) -> int:
    """The status of a response; 0 for a stream or connection error."""
    try:
        return (await viewer.receive(stream)).status
    except (StreamResetError, ConnectionEndedError):
        return 0


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_request_reaches_no_origin(cache_root: Path, name: str) -> None:
    async with serve(cache_root, **ALL) as served, served.viewer() as viewer:
        for _again in range(2):
            stream = await viewer.send_head(MALFORMED[name], ends=True)
            assert await outcome(viewer, stream) in {0, 400}
        assert served.edge.origin.requests == []
        assert [line["status"] for line in served.edge.lines()] == [400, 400]
        if not viewer.goaways:  # a stream error leaves the connection alone
            assert (await viewer.get("/a")).body == b"one"
        assert await served.fetch("/a") == b"one"
        assert len(served.edge.origin.requests) == 1


@pytest.mark.parametrize("length", [0, 3, 4, 6, 5 + len(INNER) - 1, 1000])
@pytest.mark.parametrize("at_once", [True, False])
async def test_body_that_differs_from_its_content_length_is_no_request(
    cache_root: Path, length: int, at_once: bool
) -> None:
    """H2.CL: an origin that believes the length would read the rest as a request."""
    async with serve(cache_root, **ALL) as served, served.viewer() as viewer:
        served.edge.origin.script(Reply(status=200), times=2)
        fields = head("/p", "POST", content_length=str(length))
        stream = viewer.new_stream()
        raw = viewer.head_frames(stream, viewer.encode(fields), ends=False)
        pieces = [b"hello", INNER] if length > 4 else [b"hello"]
        if length == 6:
            pieces = [b"hello"]
        raw += b"".join(
            frame(DATA, END_STREAM if piece is pieces[-1] else 0, stream, piece) for piece in pieces
        )
        for packet in [raw] if at_once else [raw[at : at + 7] for at in range(0, len(raw), 7)]:
            await viewer.send(packet)
        assert await outcome(viewer, stream) in {0, 400}
        assert not any(seen.has_ended for seen in served.edge.origin.requests)
        assert all(seen.path == "/p" for seen in served.edge.origin.requests)
        served.edge.origin.clear_script()
        assert await served.fetch("/a") == b"one"


async def test_body_with_a_request_in_it_is_a_body(cache_root: Path) -> None:
    """H2.TE and H2.CL without a length: the origin gets its own framing."""
    async with serve(cache_root, **ALL) as served, served.viewer() as viewer:
        body = b"0\r\n\r\n" + INNER
        for more in ({}, {"content_length": str(len(body))}):
            served.edge.origin.script(Reply(status=200))
            stream = await viewer.send_head(head("/p", "POST", **more), ends=False)
            await viewer.send_body(stream, body)
            assert (await viewer.receive(stream)).status == 200
        assert [bytes(seen.body) for seen in served.edge.origin.requests] == [body, body]
        assert [seen.path for seen in served.edge.origin.requests] == ["/p", "/p"]


@pytest.mark.parametrize(
    "trailers",
    [
        [(b":path", b"/b")],
        [(b"transfer-encoding", b"chunked")],
        [(b"X", b"1")],
        [(b"x", b"a\r\nb: c")],
        [(b"connection", b"x")],
    ],
)
async def test_malformed_trailers_make_no_request(cache_root: Path, trailers: Head) -> None:
    async with serve(cache_root, **ALL) as served, served.viewer() as viewer:
        served.edge.origin.script(Reply(status=200))
        stream = await viewer.send_head(head("/p", "POST"), ends=False)
        await viewer.send_body(stream, b"hello", ends=False)
        await viewer.send(viewer.head_frames(stream, viewer.encode(trailers), ends=True))
        assert await outcome(viewer, stream) in {0, 400}
        assert not any(seen.has_ended for seen in served.edge.origin.requests)
        served.edge.origin.clear_script()
        assert await served.fetch("/a") == b"one"


@pytest.mark.parametrize("method", ["get", "FOO", "GET!", "PRI"])
async def test_unknown_method_is_refused(cache_root: Path, method: str) -> None:
    async with serve(cache_root, **ALL) as served, served.viewer() as viewer:
        assert (await viewer.get("/a", method)).status in {400, 405, 501}
        assert served.edge.origin.requests == []


async def test_get_with_a_body_is_refused(cache_root: Path) -> None:
    async with serve(cache_root, **ALL) as served, served.viewer() as viewer:
        for fields in (head("/a"), head("/a", content_length="8"), head("/a", "HEAD")):
            stream = await viewer.send_head(fields, ends=False)
            await viewer.send_body(stream, b"id=evil1")
            assert await outcome(viewer, stream) == 403
        assert served.edge.origin.requests == []
        assert (await viewer.get("/a")).body == b"one"


async def test_fields_of_viewers_are_no_fields_of_the_edge(cache_root: Path) -> None:
    """As over HTTP/1.1: what says who the viewer is, or which URL is meant, is not passed on."""
    async with serve(cache_root, **ALL) as served, served.viewer() as viewer:
        fields = {
            "x_forwarded_host": "evil",
            "x_forwarded_proto": "http",
            "x_original_url": "/evil",
            "x_http_method_override": "DELETE",
            "forwarded": "host=evil",
            "proxy": "http://evil",
        }
        await viewer.get("/a", **fields)
        (seen,) = served.edge.origin.requests
        assert not seen.headers.keys() & {name.replace("_", "-") for name in fields}
        assert not any(name.startswith(":") for name in seen.headers)


@pytest.mark.parametrize(
    ("fields", "statuses"),
    [
        (head("/a", cookie="x" * 30_000), {431}),
        ([*head("/a"), *((b"x-%d" % number, b"1") for number in range(150))], {431}),
        ([*head("/a"), *((b"x-%d" % number, b"1") for number in range(3000))], {0, 431}),
        ([*head("/a"), *([(b"cookie", b"a")] * 5000)], {0, 431}),  # a byte each (HPACK)
        (head("/a", x="x" * 200_000), {0, 431}),
        (head("/" + "a" * 9000), {414}),
    ],
)
async def test_large_head_is_refused(cache_root: Path, fields: Head, statuses: set[int]) -> None:
    async with (
        serve(cache_root, **ALL) as served,
        served.viewer() as viewer,
        served.undisturbed(),
    ):
        stream = await viewer.send_head(fields, ends=True)
        assert await outcome(viewer, stream) in statuses
        assert served.edge.origin.requests == []
        assert await served.fetch("/a") == b"one"


# --- slow clients -----------------------------------------------------------------------------


async def test_head_that_never_ends_is_closed(cache_root: Path) -> None:
    async with serve(cache_root, limits={"http_idle": "50ms"}) as served, served.viewer() as viewer:
        stream = viewer.new_stream()
        await viewer.send_frame(HEADERS, END_STREAM, stream, viewer.encode(head("/a")))
        await viewer.receive_end()
        assert served.edge.origin.requests == []


async def test_continuations_without_end_are_closed(cache_root: Path) -> None:
    async with serve(cache_root) as served, served.viewer() as viewer, served.undisturbed():
        stream = viewer.new_stream()
        raw = frame(HEADERS, END_STREAM, stream, viewer.encode(head("/a")))
        await viewer.send(raw + frame(CONTINUATION, 0, stream) * 10_000)
        assert await viewer.receive_end() not in {None, 0}
        assert served.edge.origin.requests == []
        assert await served.fetch("/a") == b"one"
        assert len(served.edge.lines("http2_failed")) <= 1


async def test_body_that_does_not_come_is_reset(cache_root: Path) -> None:
    """The other streams of the connection go on."""
    rules = {**ALL, "limits": {"http_stall": "50ms", "origin_retries": 0}}
    async with serve(cache_root, **rules) as served, served.viewer() as viewer:
        stream = await viewer.send_head(head("/p", "POST"), ends=False)
        await viewer.send_body(stream, b"a", ends=False)
        assert await outcome(viewer, stream) in {0, 408}
        assert (await viewer.get("/a")).body == b"one"
        await until(lambda: served.edge.server.stats().requests == 0)
        requests = served.edge.origin.requests
        assert not any(seen.has_ended for seen in requests if seen.path == "/p")


async def test_stream_that_is_not_read_is_reset_alone(cache_root: Path) -> None:
    limits = {"http_stall": "50ms"}
    async with serve(cache_root, limits=limits) as served, served.viewer(reads=False) as viewer:
        stream = await viewer.send_request("/film")
        assert await outcome(viewer, stream) == 0
        reasons = {line.get("reason") for line in served.edge.lines()}
        assert reasons == {"viewer stalled"}
        assert await served.fetch("/a") == b"one"


async def test_reset_requests_leave_nothing_behind(cache_root: Path) -> None:
    """Rapid reset (CVE-2023-44487)."""
    async with (
        serve(cache_root, **ALL) as served,
        served.viewer() as viewer,
        served.undisturbed(),
    ):
        served.edge.origin.hold_responses()
        raw = b""
        for _each in range(2000):
            stream = viewer.new_stream()
            raw += viewer.head_frames(stream, viewer.encode(head(f"/{stream}")), ends=True)
            raw += frame(RST_STREAM, 0, stream, b"\0\0\0\x08")
        await viewer.send(raw)
        assert await viewer.receive_end() not in {None, 0}
        assert len(served.edge.origin.requests) < 300
        served.edge.origin.release_responses()
        assert await served.fetch("/a") == b"one"
        await until(lambda: served.edge.server.stats().requests == 0)


@pytest.mark.parametrize("raw", [b"", b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n", b"\0" * 100])
async def test_connection_without_the_preface_is_closed(cache_root: Path, raw: bytes) -> None:
    limits = {"http_idle": "50ms"}
    async with serve(cache_root, limits=limits) as served, served.viewer(preface=raw) as viewer:
        await viewer.receive_end()
        assert served.edge.origin.requests == []
        assert await served.fetch("/a") == b"one"


async def test_end_headers_flag_belongs_to_the_last_frame(cache_root: Path) -> None:
    """A frame of another stream within a field block is a connection error (§6.10)."""
    async with serve(cache_root) as served, served.viewer() as viewer:
        first, second = viewer.new_stream(), viewer.new_stream()
        block = viewer.encode(head("/a"))
        await viewer.send(
            frame(HEADERS, END_STREAM, first, block[:3])
            + frame(HEADERS, END_STREAM | END_HEADERS, second, block[3:])
        )
        assert await viewer.receive_end() not in {None, 0}
        assert served.edge.origin.requests == []
