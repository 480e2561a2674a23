"""Viewers that send bodies slowly do not block origin connections for others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from streamedge.delivery.http.request.body_buffer import BUFFERED_BYTES_MAX, BodyBuffer
from tests.support.event_loop import until
from tests.support.http.http_viewer import fetch, open_viewer
from tests.support.http.web_edge import connections, serve_web
from tests.support.origins.scripted_origin import Reply

WRITES: dict[str, Any] = {
    "rules": {"methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]},
    "origin_keys": {"connections": 4},
}
LONG = b"POST /p HTTP/1.1\r\nHost: edge\r\nContent-Length: 100000\r\n\r\nx"
SMALL = b"POST /p HTTP/1.1\r\nHost: edge\r\nContent-Length: 5\r\n\r\nhell"


async def test_requests_without_a_body_have_their_own_connections(cache_root: Path) -> None:
    async with serve_web(cache_root, **WRITES) as edge, AsyncExitStack() as stack:
        edge.origin.put("a", b"one", headers=(("Cache-Control", "no-store"),))
        for _each in range(8):
            viewer = await stack.enter_async_context(open_viewer(edge.port))
            await viewer.send(LONG)
        await edge.origin.wait_for_requests(3)  # the limit of connections with bodies
        for _each in range(3):
            assert (await fetch(edge.port, "/a")).body == b"one"
        assert edge.origin.connections_open <= 4


async def test_small_body_is_buffered_before_the_origin_request(cache_root: Path) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("a", b"one", headers=(("Cache-Control", "no-store"),))
        edge.origin.script(Reply(status=200))
        await viewer.send(SMALL)
        (connection,) = connections(edge)
        await until(lambda: connection.stats().is_handling)
        for _turn in range(50):
            await asyncio.sleep(0)
        assert edge.origin.requests == []
        await viewer.send(b"o")
        assert (await viewer.receive()).status == 200
        assert bytes(edge.origin.requests[0].body) == b"hello"


async def test_too_slow_body_closes_its_connection(cache_root: Path) -> None:
    async with serve_web(cache_root, **WRITES) as edge, open_viewer(edge.port) as viewer:
        await viewer.send(SMALL)
        (connection,) = connections(edge)
        await until(lambda: connection.stats().is_handling)
        now_s = asyncio.get_running_loop().time()
        connection.sweep(now_s + 59, 30, 60, 500)
        assert not connection.transport.is_closing()
        connection.sweep(now_s + 61, 30, 60, 0)
        assert connection.transport.is_closing()


async def pieces_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_buffered_body_is_unchanged() -> None:
    body = await BodyBuffer().buffer(pieces_of(b"one", b"two", b"3"))
    assert [piece async for piece in body] == [b"one", b"two", b"3"]


async def test_buffered_bytes_are_limited() -> None:
    numbers: list[int] = []

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(4):
            numbers.append(number)
            yield bytes(BUFFERED_BYTES_MAX // 2)

    body = await BodyBuffer().buffer(pieces())
    assert numbers == [0, 1]
    assert len([piece async for piece in body]) == 4
