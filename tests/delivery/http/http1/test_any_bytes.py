"""Any bytes in any pieces: no unhandled exception, bounded memory, and the next viewer is served.

The bytes are requests of CORPUS with mutations, so that all states of a connection are reached.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streamedge.cache.storage.store import prepare_folder
from streamedge.delivery.http.http1.connection import Http1Connection
from tests.support.event_loop import until
from tests.support.http.http_viewer import fetch, open_viewer
from tests.support.http.web_edge import WebEdge, connections, serve_web
from tests.support.mutations import Mutation, mutated, mutations
from tests.support.origins.scripted_origin import Pattern

RULES = {"methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]}
FRESH = (("Cache-Control", "max-age=600"),)
HOST = b"Host: edge\r\n"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
CORPUS = (
    b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /a HTTP/1.1\r\n" + HOST + b"Range: bytes=1-1\r\n\r\n",
    b"GET /a HTTP/1.1\r\n" + HOST + b'Range: bytes=0-0,2-2\r\nIf-None-Match: W/"1"\r\n\r\n',
    b"GET /cold?%d HTTP/1.1\r\n" + HOST + b"\r\n",
    b"HEAD /large HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /none HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n",
    b"GET /a HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    b"GET http://edge/a HTTP/1.1\r\n" + HOST + b"\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST /p HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
    b"PUT /p HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /p HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /p HTTP/1.1\r\n" + HOST + b"TE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1;x=y\r\na\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"GET /a HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc",
    b"GET /w HTTP/1.1\r\n" + HOST + WEBSOCKET + b"\r\n\x81\x05hello",
    b"POST /p HTTP/1.1\r\n" + HOST + WEBSOCKET + b"Content-Length: 5\r\n\r\nhello",
    b"GET /a HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"CONNECT edge:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /a HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 21_000 + b"\r\n\r\n",
    b"\r\n\r\n",
)
PIECES = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"0\r\n\r\n",
    b"\xff",
    b"HTTP/1.1",
    b"\t",
    b"-1",
)
ENDS = ("abort", "end of input", "drain", "sweep", "answered")


def check_bounds(connection: Http1Connection) -> None:
    state = connection.stats()
    assert state.queued <= 200
    assert state.header_bytes <= 30_000


async def feed(edge: WebEdge, data: bytes, places: list[float], end: str) -> None:
    """Gives one connection ``data`` in pieces, and ends it."""
    cuts = sorted({0, len(data), *(int(place * len(data)) for place in places)})
    async with open_viewer(edge.port) as viewer:
        await until(lambda: bool(connections(edge)))
        (connection,) = connections(edge)
        for number, (start, stop) in enumerate(pairwise(cuts)):
            connection.data_received(data[start:stop])
            check_bounds(connection)
            if number % 2:
                await asyncio.sleep(0)
                check_bounds(connection)
        if end == "end of input":
            connection.eof_received()
        elif end == "drain":
            connection.shutdown()
        elif end == "sweep":
            connection.sweep(asyncio.get_running_loop().time() + 3600, idle_s=60, stall_s=60)
        elif end == "answered":
            await until(lambda: edge.server.stats().requests == 0)
        viewer.reset()
        await until(lambda: not connections(edge))


def test_any_bytes_in_any_pieces_do_no_harm(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    with asyncio.Runner() as runner:
        serving = serve_web(tmp_path, rules=RULES, limits={"origin_retries": 0})
        edge = runner.run(serving.__aenter__())
        edge.origin.put("a", b"one", headers=FRESH)
        edge.origin.put("large", Pattern(3 << 20), headers=FRESH)
        failures: list[dict[str, Any]] = []
        runner.get_loop().set_exception_handler(lambda _loop, context: failures.append(context))

        @settings(
            max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None
        )
        @given(
            st.lists(
                st.tuples(st.sampled_from(CORPUS), st.lists(mutations(PIECES), max_size=2)),
                min_size=1,
                max_size=4,
            ),
            st.lists(st.floats(0, 1), max_size=6),
            st.sampled_from(ENDS),
        )
        @example([(CORPUS[0], [])] * 200, [], "drain")
        @example([(CORPUS[15], []), (CORPUS[0], [])], [], "answered")
        @example([(CORPUS[7], []), (CORPUS[10], [])], [], "answered")
        @example([(CORPUS[5], []), (CORPUS[12], [Mutation(0.99, 5, b"what")])], [], "sweep")
        def check(
            requests: list[tuple[bytes, list[Mutation]]], places: list[float], end: str
        ) -> None:
            data = b"".join(mutated(request, changes) for request, changes in requests)
            runner.run(feed(edge, data, places, end))
            assert failures == []

        try:
            check()
            assert runner.run(fetch(edge.port, "/a")).body == b"one"
            runner.run(until_idle(edge))
        finally:
            runner.run(serving.__aexit__(None, None, None))


async def until_idle(edge: WebEdge) -> None:
    """Waits until no request is being handled."""
    await until(lambda: edge.server.stats().requests == 0)
