"""A lost HTTP/1.1 connection is freed at once: no circle of references waits for the collector."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from streamedge.delivery.http.http1.connection import Http1Connection
from streamedge.delivery.http.http1.exchange import Http1Exchange
from streamedge.delivery.http.http1.parser import RequestParser
from streamedge.delivery.http.http1.pipeline import Pipeline
from streamedge.delivery.http.http1.responder import Responder
from streamedge.delivery.http.http1.tunnel import ViewerDuplex
from streamedge.delivery.http.request.body import RequestBody
from streamedge.delivery.http.unparsed import UnparsedBytes
from streamedge.delivery.net.sender import Sender
from streamedge.delivery.net.tls import TlsConnection
from tests.support.event_loop import until
from tests.support.garbage import count_of, no_garbage_collection
from tests.support.http.http2_edge import HOST, secure_contexts
from tests.support.http.http_viewer import Viewer, open_viewer, request
from tests.support.http.web_edge import WebEdge, serve_web
from tests.support.origins.scripted_origin import Pattern, Reply

FILM = Pattern(20_000_000, seed=1)
SMALL = b"small" * 200
KINDS = (
    *(Http1Connection, Http1Exchange, RequestParser, RequestBody, Pipeline, Responder, Sender),
    *(UnparsedBytes, ViewerDuplex, TlsConnection),
)
OPTIONS: dict[str, Any] = {
    "rules": {"methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]},
    "limits": {"origin_retries": 0},
}
WEBSOCKET = (
    b"GET /socket HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

Exchanges = Callable[[WebEdge, Viewer], Awaitable[None]]


async def hits(edge: WebEdge, viewer: Viewer) -> None:
    for expected in ("Miss", "Hit", "Hit"):
        assert (await viewer.get("/small")).cache == expected


async def miss(edge: WebEdge, viewer: Viewer) -> None:
    assert (await viewer.get("/small")).cache == "Miss"


async def passed(edge: WebEdge, viewer: Viewer) -> None:
    edge.origin.put("page", b"page", headers=(("Cache-Control", "no-store"),))
    for _request in range(3):
        assert (await viewer.get("/page")).body == b"page"


async def cut_response(edge: WebEdge, viewer: Viewer) -> None:
    await viewer.get("/film", "HEAD")
    await viewer.send_request("/film")
    assert (await viewer.receive_head()).status == 200


async def pipelined(edge: WebEdge, viewer: Viewer) -> None:
    await viewer.send(request("/film") + request("/small") + request("/small"))
    assert (await viewer.receive_head()).status == 200


async def refused_request(edge: WebEdge, viewer: Viewer) -> None:
    await viewer.send(b"GET / HTTP/1.1\r\nHost: edge\r\nHost: other\r\n\r\n")
    assert (await viewer.receive()).status == 400


async def refused_body(edge: WebEdge, viewer: Viewer) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: edge\r\nTransfer-Encoding: chunked\r\n\r\n"
    await viewer.send(head + b"no length\r\n")
    assert (await viewer.receive()).status == 400


async def incomplete_head(edge: WebEdge, viewer: Viewer) -> None:
    await viewer.send(b"GET /small HTTP/1.1\r\nHost: edge\r\nX-More: ")
    await until(lambda: count_of(RequestParser) == 1)


async def whole_body(edge: WebEdge, viewer: Viewer) -> None:
    edge.origin.script(Reply(status=201))
    await viewer.send(b"POST /a HTTP/1.1\r\nHost: edge\r\nContent-Length: 5\r\n\r\nhello")
    assert (await viewer.receive()).status == 201


async def cut_body(edge: WebEdge, viewer: Viewer) -> None:
    await viewer.send(b"POST /a HTTP/1.1\r\nHost: edge\r\nContent-Length: 50\r\n\r\nhello")
    await until(lambda: count_of(RequestBody) == 1)


async def tunnel(edge: WebEdge, viewer: Viewer) -> None:
    edge.origin.script(Reply(echoes=True))
    await viewer.send(WEBSOCKET)
    assert (await viewer.receive_head()).status == 101
    await viewer.send(b"hello")
    assert await viewer.receive_body(5) == b"hello"


@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(
    "exchanges",
    [
        *(hits, miss, passed, cut_response, pipelined, refused_request, refused_body),
        *(incomplete_head, whole_body, cut_body, tunnel),
    ],
)
async def test_lost_connection_is_freed_without_garbage_collection(
    cache_root: Path, exchanges: Exchanges, is_secure: bool
) -> None:
    server, client = secure_contexts(cache_root, (HOST,)) if is_secure else (None, None)
    with no_garbage_collection():
        before = {kind: count_of(kind) for kind in KINDS}
        async with serve_web(cache_root, context=server, **OPTIONS) as edge:
            edge.origin.put("small", SMALL)
            edge.origin.put("film", FILM)
            async with open_viewer(
                edge.port, tls=client, server_name=HOST if client else ""
            ) as one:
                await exchanges(edge, one)
                assert count_of(Http1Connection) == before[Http1Connection] + 1
                one.reset()
            await until(lambda: not edge.server.connections)
            await until(lambda: {kind: count_of(kind) for kind in KINDS} == before)
