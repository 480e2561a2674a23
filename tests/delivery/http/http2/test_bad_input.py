"""Requests over HTTP/2 that are no valid requests, or that another hop could read differently.

Each is refused on its stream, before a route is looked for, and the origin does not see it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.http.http2_edge import secure_contexts
from tests.support.http.http2_viewer import (
    DATA,
    END_STREAM,
    PROTOCOL_ERROR,
    Http2Viewer,
    StreamResetError,
    head,
    open_http2_viewer,
)
from tests.support.http.web_edge import WebEdge, serve_web

PSEUDO = head("/small")


@asynccontextmanager
async def edge_and_viewer(root: Path) -> AsyncIterator[tuple[WebEdge, Http2Viewer]]:
    server, client = secure_contexts(root, ("edge",))
    rules = {"methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]}
    async with (
        serve_web(root, context=server, rules=rules) as edge,
        open_http2_viewer(edge.port, client) as viewer,
    ):
        edge.origin.put("small", b"small")
        yield edge, viewer


def replaced(name: bytes, value: bytes | None) -> list[tuple[bytes, bytes]]:
    """The head with another value of a field, or without it."""
    fields = [(one, value if one == name and value is not None else own) for one, own in PSEUDO]
    return [field for field in fields if value is not None or field[0] != name]


async def status_or_code(viewer: Http2Viewer, stream: int) -> int:
    """The status of a response, or the error code of the stream."""
    try:
        return (await viewer.receive(stream)).status
    except StreamResetError as exc:
        return exc.code


MALFORMED = {
    "no method": replaced(b":method", None),
    "no scheme": replaced(b":scheme", None),
    "no path": replaced(b":path", None),
    "no host": replaced(b":authority", None),
    "two methods": [(b":method", b"GET"), *PSEUDO],
    "two paths": [*PSEUDO, (b":path", b"/other")],
    "unknown pseudo-field": [*PSEUDO, (b":protocol", b"websocket")],
    "status": [*PSEUDO, (b":status", b"200")],
    "pseudo-field behind a field": [(b"accept", b"*/*"), *PSEUDO],
    "upper case": [*PSEUDO, (b"Accept", b"*/*")],
    "connection": [*PSEUDO, (b"connection", b"close")],
    "keep-alive": [*PSEUDO, (b"keep-alive", b"timeout=5")],
    "proxy-connection": [*PSEUDO, (b"proxy-connection", b"close")],
    "transfer-encoding": [*PSEUDO, (b"transfer-encoding", b"chunked")],
    "upgrade": [*PSEUDO, (b"upgrade", b"h2c")],
    "te": [*PSEUDO, (b"te", b"gzip")],
    "name with a space": [*PSEUDO, (b"x y", b"1")],
    "name with a colon": [*PSEUDO, (b"x:y", b"1")],
    "empty name": [*PSEUDO, (b"", b"1")],
    "LF in a value": [*PSEUDO, (b"x", b"1\nhost: other")],
    "CR LF in a value": [*PSEUDO, (b"x", b"1\r\nhost: other")],
    "NUL in a value": [*PSEUDO, (b"x", b"1\x00")],
    "CR LF in the path": replaced(b":path", b"/ HTTP/1.1\r\nhost: other\r\n\r\n"),
    "space in the path": replaced(b":path", b"/a b"),
    "path without a slash": replaced(b":path", b"small"),
    "absolute path": replaced(b":path", b"https://edge/small"),
    "empty path": replaced(b":path", b""),
    "asterisk": replaced(b":path", b"*"),
    "fragment": replaced(b":path", b"/small#x"),
    "LF in the host": replaced(b":authority", b"edge\nx"),
    "path in the host": replaced(b":authority", b"edge/other"),
    "user in the host": replaced(b":authority", b"me@edge"),
    "other scheme": replaced(b":scheme", b"ftp"),
    "LF in the scheme": replaced(b":scheme", b"https\n"),
    "LF in the method": replaced(b":method", b"GET /x HTTP/1.1\r\nx: y\r\n\r\nGET"),
    "other host": [*PSEUDO, (b"host", b"other")],
    "two hosts": [*PSEUDO, (b"host", b"edge"), (b"host", b"other")],
    "content-length of two values": [*PSEUDO, (b"content-length", b"1, 2")],
    "negative content-length": [*PSEUDO, (b"content-length", b"-1")],
    "content-length of a head alone": [*PSEUDO, (b"content-length", b"5")],
    "CONNECT": [(b":method", b"CONNECT"), (b":authority", b"edge:443")],
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_head_is_refused_on_its_stream(cache_root: Path, name: str) -> None:
    async with edge_and_viewer(cache_root) as (edge, viewer):
        for _twice in range(2):
            stream = await viewer.send_head(MALFORMED[name], ends=True)
            assert await status_or_code(viewer, stream) in {400, PROTOCOL_ERROR}
        assert edge.origin.requests == []
        assert (await viewer.get("/small")).body == b"small"
        assert (await viewer.get("/small")).cache == "Hit"


@pytest.mark.parametrize(("stated", "sent"), [(3, 5), (5, 3), (5, 0), (0, 3)])
async def test_length_that_differs_from_the_body_is_refused(
    cache_root: Path, stated: int, sent: int
) -> None:
    async with edge_and_viewer(cache_root) as (edge, viewer):
        fields = [*head("/form", "POST"), (b"content-length", b"%d" % stated)]
        stream = await viewer.send_head(fields, ends=False)
        await viewer.send_frame(DATA, END_STREAM, stream, bytes(sent))
        with pytest.raises(StreamResetError) as refused:
            await viewer.receive(stream)
        assert refused.value.code == PROTOCOL_ERROR
        assert not any(seen.has_ended for seen in edge.origin.requests if stated)
        assert (await viewer.get("/small")).body == b"small"


async def test_trailers_do_not_become_header_fields(cache_root: Path) -> None:
    async with edge_and_viewer(cache_root) as (edge, viewer):
        stream = await viewer.send_head(head("/form", "POST"), ends=False)
        await viewer.send_frame(DATA, 0, stream, b"body")
        block = viewer.encode([(b"host", b"other"), (b"x-forwarded-for", b"192.0.2.1")])
        await viewer.send(viewer.head_frames(stream, block, ends=True))
        await viewer.receive(stream)
        (seen,) = edge.origin.requests
        assert seen.headers["host"] != "other"
        assert seen.trailers == []
